"""How steady and how fast is a clip? Clip mode beside frame by frame, on clips that are made of still scans.

    python examples/clip_stability.py --data BUS-BRA
    python examples/clip_stability.py --data BUS-BRA --clips 20 --frames 40 --output stability

Each clip pans, zooms and warps a scan of the validation split, so that the true mask of every frame is known; its
speckle moves and fades. Writes `clip_stability.json` and `clip_stability.md`.
"""

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
from scipy.ndimage import gaussian_filter, map_coordinates
from tables import as_table, write

from sfrecsam_hf import segment, segment_clip
from sfrecsam_hf.data.splits import load_split
from sfrecsam_hf.evaluation.metrics import overlap
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.inference.predict_clip import flicker

VIEW = 0.85  # of the scan's sides: what a frame shows of it at zoom 1
PAN, ZOOM, WARP = 0.06, 0.08, 0.012  # of the scan's sides, of its scale, of its sides
SPECKLE, KEPT = 0.15, 0.8  # its deviation, on top of the own speckle of the scan; what one frame keeps of the last one
HEADS = {
    "method": "masks of",
    "neighbour_dice": "Dice of neighbours",
    "switches": "comes or goes",
    "dice": "Dice with the truth",
    "seconds": "s/frame",
    "times": "times a still image",
}


def made_clip(image: PIL.Image.Image, mask: PIL.Image.Image, frames: int, seed: int) -> tuple[list, list]:
    """
    Frames and their true masks.

    Args:
        image, mask (`PIL.Image.Image`): A scan and its lesion, of the same size.
        frames (`int`): How many.
        seed (`int`): Of the path and the speckle.
    """
    rng = np.random.default_rng(seed)
    scan, lesion = np.asarray(image.convert("L"), float), (np.asarray(mask) > 0).astype(float)
    sides = np.array(scan.shape)
    height, width = (sides * VIEW).astype(int)
    rows, columns = np.mgrid[:height, :width].astype(float)
    phases = rng.uniform(0, 2 * np.pi, 6)
    waves = rng.uniform(1.0, 2.0, 4) * 2 * np.pi / np.repeat(sides, 2)
    speckle = _speckle(rng, (height, width))
    pictures, truths = [], []
    for index in range(frames):
        turn = 2 * np.pi * index / 40  # there and back in two seconds
        pan = PAN * sides * np.sin(turn + phases[:2])
        zoom = 1 + ZOOM * np.sin(turn + phases[2])
        bend = WARP * sides * np.sin(turn + phases[3])
        y = (rows - height / 2) / zoom + sides[0] / 2 + pan[0] + bend[0] * np.sin(waves[0] * rows + waves[2] * columns)
        x = (columns - width / 2) / zoom + sides[1] / 2 + pan[1] + bend[1] * np.sin(waves[1] * columns + phases[4])
        seen = map_coordinates(scan, [y, x], order=1, mode="nearest") * np.exp(SPECKLE * next(speckle))
        pictures.append(PIL.Image.fromarray(seen.clip(0, 255).astype(np.uint8)).convert("RGB"))
        truths.append(map_coordinates(lesion, [y, x], order=1) > 0.5)
    return pictures, truths


def _speckle(rng: np.random.Generator, shape: tuple[int, int]) -> Iterator[np.ndarray]:
    """Grain that drifts by a pixel a frame and fades into other grain."""
    grain = _grain(rng, shape)
    while True:
        yield grain
        grain = KEPT * np.roll(grain, 1, axis=1) + np.sqrt(1 - KEPT**2) * _grain(rng, shape)


def _grain(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    grain = gaussian_filter(rng.normal(size=shape), 1.2)
    return grain / grain.std()


def measured(answers: list[np.ndarray], truths: list[np.ndarray], seconds: float) -> dict[str, float]:
    """What one method gave on one clip: its steadiness, its mean Dice with the truth, and its time for a frame."""
    dice = [overlap(mask, truth)["dice"] for mask, truth in zip(answers, truths, strict=True)]
    return flicker(answers) | {"dice": float(np.mean(dice)), "seconds": seconds / len(answers)}


def main() -> None:
    """Measures every method on every clip and writes the means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="data folder")
    parser.add_argument("--split", default="val", help="its split (%(default)s)")
    parser.add_argument("--model", help="checkpoint; the bundled one if left out")
    parser.add_argument("--clips", type=int, default=10)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default=".", help="folder to write to (%(default)s)")
    options = parser.parse_args()

    dataset = load_split(options.data, options.split)
    lesions = [index for index, mask in enumerate(dataset["mask"]) if np.any(mask)]
    chosen = np.random.default_rng(options.seed).permutation(lesions)[: options.clips].tolist()
    model, processor = load_checkpoint(options.model)
    methods = {
        "each frame by itself": lambda frames: segment(model, processor, frames, batch_size=8),
        "the clip": lambda frames: (answer for _, answer in segment_clip(model, processor, frames, batch_size=8)),
    }
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ("the truth", *methods)}
    for row in dataset.select(chosen):
        frames, truths = made_clip(row["image"], row["mask"], options.frames, options.seed)
        found["the truth"].append(measured(truths, truths, 0.0))
        list(segment(model, processor, frames[:1]))  # so that neither method pays for the first call
        for name, method in methods.items():
            begun = time.process_time()
            masks = [answer.mask for answer in method(frames)]
            found[name].append(measured(masks, truths, time.process_time() - begun))
            print(row["name"], name, found[name][-1], flush=True)
    still = np.mean([clip["seconds"] for clip in found["each frame by itself"]])
    lines = []
    for name, clips in found.items():
        line = {"method": name} | {key: float(np.mean([clip[key] for clip in clips])) for key in clips[0]}
        lines.append(line | {"times": line["seconds"] / still})
    table = as_table(
        HEADS.values(), ([line["method"], *(f"{line[key]:.3f}" for key in list(HEADS)[1:])] for line in lines)
    )
    print(table)
    write(
        options.output,
        "clip_stability",
        {"clips": [row["name"] for row in dataset.select(chosen)], "rows": lines},
        table,
    )


if __name__ == "__main__":
    main()
