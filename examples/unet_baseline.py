"""Trains U-Nets on the same images in the same way, to compare with: MONAI's, and one on our pretrained convolutions.

    python examples/unet_baseline.py --train BUSI BUS-BRA --validation BUSI BUS-BRA --output runs/unet --epochs 40
    python examples/unet_baseline.py --train BUSI BUS-BRA --validation BUSI BUS-BRA --output runs/on --start runs/unet

The same images, split, resolution, augmentation, loss, optimizer, schedule, moving average and choice of the best
epoch as `sfrecsam train`; only the network differs. Writes `results.json` with the metrics of every validation image
of every data folder at its original size, and `results.md`, a table for each folder, with the bundled checkpoint in
its first row if that, or what `--beside` names, was evaluated on the same images. A network that is in `results.json`
is not trained again.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from datasets import Dataset, concatenate_datasets
from monai.networks.nets import AttentionUnet, BasicUNet, UNet
from safetensors.torch import load_model, save_model
from tables import as_table, difference, signed
from torch import nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm
from transformers import get_scheduler

from sfrecsam_hf import SFRecSamConfig, SFRecSamImageProcessor, TrainingConfig
from sfrecsam_hf.data.splits import load_split, load_splits
from sfrecsam_hf.evaluation.metrics import overlap, segmentation_metrics
from sfrecsam_hf.evaluation.report import read_rows
from sfrecsam_hf.inference.bundled import bundled_checkpoint
from sfrecsam_hf.modeling.efficientnet_lite import EfficientNetLite, pyramid_channels
from sfrecsam_hf.modeling.frequency_fusion import as_pretrained
from sfrecsam_hf.modeling.layers import ConvBlock
from sfrecsam_hf.modeling.losses import segmentation_loss
from sfrecsam_hf.training.dataset import EpochBatches, TrainingImages
from sfrecsam_hf.training.optimizer import decayed_adamw, moving_average
from sfrecsam_hf.training.starting_model import imagenet_weights


class LiteUNet(nn.Module):
    """Our pretrained convolutions under a plain U-Net decoder: what all the rest of SF-RecSAM has to beat."""

    def __init__(self, widths: tuple[int, ...] = (16, 24, 32, 48, 64)):
        super().__init__()
        self.pretrained = EfficientNetLite()
        self.pretrained.load_published(imagenet_weights(SFRecSamConfig.tiny()))
        skipped = pyramid_channels(1.0)
        self.enter = ConvBlock(skipped[-1], widths[-1])
        self.climb = nn.ModuleList(
            ConvBlock(coarse + channels, fine)
            for coarse, fine, channels in zip(widths[:0:-1], widths[-2::-1], skipped[-2::-1], strict=True)
        )
        self.classify = nn.Conv2d(widths[0], 1, 1)

    def forward(self, gray: torch.Tensor) -> torch.Tensor:
        features, pyramid = self.pretrained.stem(as_pretrained(gray).expand(-1, 3, -1, -1)), []
        for level in self.pretrained.levels:
            features = level(features)
            pyramid.append(features)
        features = self.enter(pyramid.pop())
        for climb in self.climb:
            skipped = pyramid.pop()
            features = nn.functional.interpolate(features, size=skipped.shape[-2:], mode="bilinear")
            features = climb(torch.cat([features, skipped], dim=1))
        return nn.functional.interpolate(self.classify(features), size=gray.shape[-2:], mode="bilinear")


NETWORKS = {
    "Lite0 UNet": LiteUNet,
    "MONAI BasicUNet": lambda: BasicUNet(2, 1, 1),
    "MONAI UNet": lambda: UNet(2, 1, 1, channels=(32, 64, 128, 256, 320), strides=(2,) * 4, num_res_units=2),
    "MONAI AttentionUnet": lambda: AttentionUnet(2, 1, 1, channels=(16, 32, 64, 128, 256), strides=(2,) * 4),
}
METRICS = ("dice", "precision", "recall")
HEADS = ("model", "parameters", "training", "Dice", "precision", "recall", "SF-RecSAM is ahead by")


def train_unet(name: str, config: TrainingConfig, start: Path | None = None) -> dict[str, Any]:
    """
    Trains one network as stage 1 of `config` would train ours, and evaluates its best epoch.

    Args:
        name (`str`): One of `NETWORKS`.
        config ([`TrainingConfig`]): Data, image size, epochs and everything else but the model.
        start (`Path`, *optional*): Output folder of an earlier run of this example whose network goes on.

    Returns:
        `dict`: `parameters`, `seconds` of training with those of the earlier run, and `per_image`, for the validation
        split of each data folder rows with `name`, `lesion` and the metrics.
    """
    set_seed(config.seed)
    sources = load_splits(config.train, "train", config.splits)
    validation = concatenate_datasets(load_splits(config.validation, "val", config.splits))
    processor = SFRecSamImageProcessor(image_size=config.image_size)
    images = TrainingImages(sources, processor, config.seed, config.augmentation)
    batches = EpochBatches([len(source) for source in sources], config.shares, config.batch_size, 1, config.seed)
    network = NETWORKS[name]().to(memory_format=torch.channels_last)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    optimizer = decayed_adamw(network, config.learning_rate, config.weight_decay, config.branch_learning_rate)
    steps = config.epochs * batches.batches
    scheduler = get_scheduler("cosine", optimizer, round(config.warmup * steps), steps)
    best, seconds = (-1.0, {}), 0.0
    if start is not None:
        load_model(network, start / weights_file(name))
        seconds = json.loads((start / "results.json").read_text())[name]["seconds"]
    average = AveragedModel(network, multi_avg_fn=moving_average(config.ema_decay))
    for epoch in range(config.epochs):
        batches.epoch, began = epoch, time.perf_counter()
        network.train()
        for keys in tqdm(batches, desc=f"{name} epoch {epoch + 1}"):
            batch = images.__getitems__(keys)
            logits, inside = network(batch["pixel_values"][:, :1]), batch["pixel_mask"][:, None]
            loss = segmentation_loss(logits, batch["labels"][:, None], inside).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
            optimizer.step()
            scheduler.step()
            average.update_parameters(network)
        seconds += time.perf_counter() - began
        masks = predict(average.module, processor, validation)
        pairs = [(mask, np.asarray(true) > 0) for mask, true in zip(masks, validation["mask"], strict=True)]
        dice = float(np.mean([overlap(mask, true)["dice"] for mask, true in pairs if true.any()]))
        print(f"{name} epoch {epoch + 1}: validation Dice {dice:.3f}")
        if dice > best[0]:
            best = dice, {key: value.clone() for key, value in average.module.state_dict().items()}
    average.module.load_state_dict(best[1])
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    save_model(average.module, str(output / weights_file(name)))
    measured = {}
    for source in dict.fromkeys([*config.validation, *config.train]):
        dataset = load_split(source, "val", config.splits)
        measured[Path(source).name] = [
            {
                "name": row["name"],
                "lesion": bool(np.any(row["mask"])),
                **segmentation_metrics(mask, np.asarray(row["mask"]) > 0),
            }
            for row, mask in zip(dataset, predict(average.module, processor, dataset), strict=True)
        ]
    return {"parameters": parameters, "seconds": seconds, "per_image": measured}


def weights_file(name: str) -> str:
    """The name of the file that holds a network's weights."""
    return f"{name.replace(' ', '-').lower()}.safetensors"


@torch.inference_mode()
def predict(network: torch.nn.Module, processor: Any, dataset: Dataset) -> list[np.ndarray]:
    """Boolean masks at the original sizes."""
    network.eval()
    masks = []
    for image in dataset["image"]:
        inputs = processor(image, return_tensors="pt")
        logits = network(inputs["pixel_values"][:, :1])[0, 0]
        scan_box = inputs["scan_boxes"][0].tolist()
        masks.append(processor.restore(logits, (image.height, image.width), scan_box).numpy() > 0)
    return masks


def markdown(results: dict[str, Any], config: TrainingConfig, beside: list[Path], start: Path | None = None) -> str:
    """For each data folder the means over its lesion images, and by how much the Dice of ours is ahead."""
    ours = {
        json.loads((folder / "results.json").read_text())["data"]: {
            row["name"]: {metric: row[f"final_{metric}"] for metric in METRICS}
            for row in read_rows(folder / "per_image.csv")
            if row["column"] == "auto" and row["lesion"]
        }
        for folder in beside
    }
    lines = [
        "Lesions of the validation split at the original size; nothing but the image is given. U-Nets: "
        f"{f'those of {start.name}, ' if start else ''}{config.epochs} epochs at {config.image_size} px, shares "
        f"{config.shares}, augmentation {config.augmentation:g}, seed {config.seed}, the best epoch on "
        f"{' and '.join(Path(source).name for source in config.validation)}.",
    ]
    for data in next(iter(results.values()))["per_image"]:
        found = {
            name: {row["name"]: row for row in result["per_image"][data] if row["lesion"]}
            for name, result in results.items()
        }
        known = ours.get(data, {})
        if any(set(rows) == set(known) for rows in found.values()):
            found = {"SF-RecSAM": known} | found
        cells = []
        for name, rows in found.items():
            result, ahead = results.get(name), ""
            told = (f"{result['parameters'] / 1e6:.1f} M", f"{result['seconds'] / 60:.0f} min") if result else ("", "")
            means = [np.mean([row[metric] for row in rows.values()]) for metric in METRICS]
            if result and "SF-RecSAM" in found:
                pairs = np.array([(known[image]["dice"], row["dice"]) for image, row in rows.items()])
                ahead = signed(difference(pairs[:, 0], pairs[:, 1]))
            cells.append((name, *told, *(f"{mean:.3f}" for mean in means), ahead))
        images = len(next(iter(found.values())))
        lines += ["", f"{data}, {images} images:", "", as_table(HEADS, cells).strip()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Trains every network, writes the results and prints their table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", nargs="+", required=True, help="data folders to train on")
    parser.add_argument("--validation", nargs="+", required=True, help="data folders to choose the best epoch on")
    parser.add_argument("--output", required=True, help="folder of the run")
    parser.add_argument("--splits", help="CSV with image,group,split of the first folder")
    parser.add_argument("--shares", type=float, nargs="+", help="share of each folder that one epoch shows")
    parser.add_argument("--epochs", type=int, default=40, help="(%(default)s)")
    parser.add_argument("--image-size", type=int, default=128, help="side of the input (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="(%(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="peak (%(default)s)")
    parser.add_argument("--augmentation", type=float, default=1.0, help="strength (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--start", type=Path, help="output folder of an earlier run to go on from")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="(all)")
    parser.add_argument(
        "--beside", type=Path, nargs="+", help="folders of evaluations of ours (those of the bundled checkpoint)"
    )
    arguments = vars(parser.parse_args())
    networks, beside, start = (arguments.pop(name) for name in ("networks", "beside", "start"))
    beside = beside or [path.parent for path in sorted(bundled_checkpoint().rglob("per_image.csv"))]
    config = TrainingConfig(**arguments)
    path = Path(config.output, "results.json")
    results = json.loads(path.read_text()) if path.is_file() else {}
    for name in networks:
        if name not in results:
            results[name] = train_unet(name, config, start)
            path.write_text(json.dumps(results, indent=1) + "\n")
    Path(config.output, "results.md").write_text(markdown(results, config, beside, start))
    print(Path(config.output, "results.md").read_text())


if __name__ == "__main__":
    main()
