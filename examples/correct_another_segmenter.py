"""Corrects the masks of another segmenter: the dual false corrector behind a U-Net of MONAI.

    python examples/correct_another_segmenter.py
    python examples/correct_another_segmenter.py --data space/samples --steps 200 --output corrected.png

A U-Net is trained for a few steps, and then a corrector on its uncertain pixels alone, which reads the features of
the frozen SF-RecSAM there. Every third image is held out of both. Shows the masks before and after, and their Dice.
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch
from monai.networks.nets import UNet
from torch.nn import functional as F

from sfrecsam_hf import DualFalseCorrector
from sfrecsam_hf.data.loading import load_folder
from sfrecsam_hf.evaluation.metrics import overlap
from sfrecsam_hf.inference.bundled import bundled_space
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.inference.visualization import contact_sheet, overlay
from sfrecsam_hf.modeling.losses import correction_loss, dice_loss, segmentation_loss

GRID = 64  # side of the U-Net's masks: a hundred steps teach it little on a finer one
PASSES = 4
SUSPICION = 0.3


def fit(network: torch.nn.Module, loss_of: Callable[[], torch.Tensor], steps: int) -> None:
    """Minimises a loss."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of().backward()
        optimizer.step()


def main() -> None:
    """Writes the masks side by side and prints Dice before and after, of trained and of held-out images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=bundled_space() / "samples", help="folder with images and masks")
    parser.add_argument("--steps", type=int, default=100, help="of either network (%(default)s)")
    parser.add_argument("--output", default="corrected.png", help="picture to write (%(default)s)")
    options = parser.parse_args()

    torch.manual_seed(0)
    model, processor = load_checkpoint(device="cpu")
    dataset = load_folder(options.data)
    inputs = processor(dataset["image"][:], segmentation_maps=dataset["mask"][:])
    encoded = model.get_image_embeddings(inputs["pixel_values"], inputs["reshaped_input_sizes"])
    features = encoded.high_resolution_features
    images = F.interpolate(inputs["pixel_values"][:, :1], size=(GRID, GRID), mode="area")
    masks = F.interpolate(inputs["labels"][:, None].float(), size=(GRID, GRID), mode="area")
    trained = [index for index in range(len(dataset)) if index % 3 < 2]

    unet = UNet(2, 1, 1, channels=(8, 16, 32, 64), strides=(2, 2, 2), dropout=0.1)
    inside = encoded.valid_region[trained]
    fit(unet, lambda: segmentation_loss(unet(images[trained]), masks[trained], inside).mean(), options.steps)

    corrector = DualFalseCorrector(features.shape[1], hidden_channels=16)

    def correct(rows: list[int]) -> tuple:
        with torch.no_grad():  # dropout stays on: passes differ where the U-Net is uncertain
            samples = torch.stack([unet(images[rows]).sigmoid() for _ in range(PASSES)])
        found = corrector(probability_samples=samples, features=features[rows], suspicion_threshold=SUSPICION)
        return samples.mean(0), found

    def correction_losses() -> torch.Tensor:
        """Each half learns on its own suspicious pixels which of them are false."""
        probability, found = correct(trained)
        foreground, suspicious = probability > 0.5, found.suspicious_region
        error = foreground != (masks[trained] > 0.5)
        positives = correction_loss(found.false_positive_logits, error, suspicious & foreground)
        negatives = correction_loss(found.false_negative_logits, error, suspicious & ~foreground)
        return positives + negatives + dice_loss(found.logits, masks[trained]).mean()

    fit(corrector, correction_losses, options.steps)

    with torch.no_grad():
        probability, found = correct(list(range(len(dataset))))
    logits = torch.cat([torch.logit(probability), found.logits], dim=1)
    tiles, captions, dice = [], [], {"trained": [], "held out": []}
    for index, row in enumerate(dataset):
        group, true = "trained" if index in trained else "held out", np.asarray(row["mask"]) > 0
        scan_box = inputs["scan_boxes"][index].tolist()
        pair = processor.image_processor.restore(logits[index], true.shape, scan_box).numpy() > 0
        before, after = (overlap(mask, true)["dice"] for mask in pair)
        dice[group].append((before, after))
        tiles += [overlay(row["image"], mask, true) for mask in pair]
        captions += [f"{group}: U-Net {before:.2f}", f"corrected {after:.2f}"]
    contact_sheet(tiles, captions, columns=4).save(options.output)
    print(f"{found.suspicious_region.float().mean():.0%} of the pixels are suspicious; no other can change")
    for group, scores in dice.items():
        before, after = np.mean(scores, axis=0)
        print(f"{group}: mean Dice of {len(scores)} images {before:.3f} -> {after:.3f}")
    print(f"masks in yellow, truth in blue: {options.output}")


if __name__ == "__main__":
    main()
