"""How the outline changes when the picture comes from another scanner, export or hand.

    python examples/robustness.py --data BUSI BUS-BRA
    python examples/robustness.py --data BUSI --splits splits.csv --model runs/mine/best --output robustness

Each change is made to every image of the split, and to its outline where the outline moves with it. Automatic prompts,
presence threshold off, no corrector, one pass, original size. The difference is to the unchanged pictures of the same
lesions, in Dice, with its bootstrap 95 % interval. Two more columns count the lesions that the presence threshold
would leave empty, and the normal scans that it would give a mask. Writes `robustness.json` and `robustness.md`.
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from scipy import ndimage
from tables import as_table, difference, signed, write

from sfrecsam_hf import segment
from sfrecsam_hf.data.splits import load_split
from sfrecsam_hf.evaluation.metrics import overlap
from sfrecsam_hf.inference.checkpoints import load_checkpoint

HEADS = ("data", "change", "lesions", "Dice", "difference", "lesions left empty", "normal scans given a mask")
CALIPER = 6
Pair = tuple[np.ndarray, np.ndarray]
Rows = list[dict[str, Any]]
RNG = np.random.default_rng


def tone(curve: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray, np.ndarray], Pair]:
    """A change of gray values alone, which lie between 0 and 1."""
    return lambda gray, mask: (curve(gray), mask)


def coarsely(gray: np.ndarray, mask: np.ndarray) -> Pair:
    """As if the longest side had 96 pixels."""
    image = PIL.Image.fromarray((gray * 255).astype(np.uint8))
    share = 96 / max(image.size)
    small = image.resize([max(1, round(side * share)) for side in image.size], PIL.Image.Resampling.BILINEAR)
    return np.asarray(small.resize(image.size, PIL.Image.Resampling.BILINEAR)) / 255, mask


def compressed(gray: np.ndarray, mask: np.ndarray) -> Pair:
    """By JPEG at quality 10."""
    file = io.BytesIO()
    PIL.Image.fromarray((gray * 255).astype(np.uint8)).save(file, "JPEG", quality=10)
    return np.asarray(PIL.Image.open(file)) / 255, mask


def framed(level: float) -> Callable[[np.ndarray, np.ndarray], Pair]:
    """In a frame a fifth of the picture wide, as many scanners and programs export it."""
    return lambda gray, mask: (_wider(gray, constant_values=level), _wider(mask))


def _wider(array: np.ndarray, **filled: float) -> np.ndarray:
    return np.pad(array, [(side // 5, side // 5) for side in array.shape], **filled)


def on_black(gray: np.ndarray, mask: np.ndarray) -> Pair:
    """With half as much black below as there is picture."""
    below = ((0, gray.shape[0] // 2), (0, 0))
    return np.pad(gray, below), np.pad(mask, below)


def zoomed(gray: np.ndarray, mask: np.ndarray) -> Pair:
    """Without an eighth on each side."""
    inner = tuple(slice(side // 8, side - side // 8) for side in gray.shape)
    return gray[inner], mask[inner]


def turned(gray: np.ndarray, mask: np.ndarray) -> Pair:
    """By 15 degrees, with black corners."""
    return tuple(ndimage.rotate(array, 15, reshape=False, order=order) for array, order in ((gray, 1), (mask, 0)))


def steered(gray: np.ndarray, mask: np.ndarray) -> Pair:
    """With black upper corners, as where beams at the sides are steered outwards."""
    depth, across = np.linspace(1, 0, gray.shape[0])[:, None], np.linspace(-1, 1, gray.shape[1])
    inside = np.abs(across) < 1 - 0.3 * depth
    return gray * inside, mask & inside


def stretched(height: float, width: float) -> Callable[[np.ndarray, np.ndarray], Pair]:
    """To other proportions."""
    return lambda gray, mask: tuple(
        ndimage.zoom(array, (height, width), order=order) for array, order in ((gray, 1), (mask, 0))
    )


def measured(gray: np.ndarray, mask: np.ndarray) -> Pair:
    """With caliper marks at the ends of the lesion, as sonographers leave them."""
    gray = gray.copy()
    if mask.any():
        rows, columns = np.nonzero(mask)
        row, column = int(rows.mean()), int(columns.mean())
        for y, x in ((row, columns.min()), (row, columns.max()), (rows.min(), column), (rows.max(), column)):
            gray[max(0, y - CALIPER) : y + CALIPER + 1, x : x + 2] = 1
            gray[y : y + 2, max(0, x - CALIPER) : x + CALIPER + 1] = 1
    return gray, mask


CHANGES = {
    "none": tone(lambda gray: gray),
    "mirrored": lambda gray, mask: (gray[:, ::-1], mask[:, ::-1]),
    "gamma 0.5": tone(np.sqrt),
    "gamma 2": tone(np.square),
    "brighter": tone(lambda gray: gray + 0.25),
    "a third as bright": tone(lambda gray: gray / 3),
    "a third of the contrast": tone(lambda gray: gray.mean() + (gray - gray.mean()) / 3),
    "gain falling with depth": tone(lambda gray: gray * np.linspace(1.6, 0.4, len(gray))[:, None]),
    "speckle": tone(lambda gray: gray * RNG(0).gamma(6, 1 / 6, gray.shape)),
    "noise": tone(lambda gray: gray + RNG(0).normal(0, 0.1, gray.shape)),
    "blurred": tone(lambda gray: ndimage.gaussian_filter(gray, max(gray.shape) / 128)),
    "96 pixels": coarsely,
    "JPEG at quality 10": compressed,
    "black frame": framed(0),
    "dark gray frame": framed(0.2),
    "black below": on_black,
    "turned, black corners": turned,
    "steered, black corners": steered,
    "zoomed in": zoomed,
    "half as wide again": stretched(1, 1.5),
    "half as tall again": stretched(1.5, 1),
    "caliper marks": measured,
}


def asked(model: Any, processor: Any, pairs: list[Pair]) -> Rows:
    """Of each image: whether it shows a lesion, whether its mask would be left empty, and the mask's Dice."""
    pictures = [PIL.Image.fromarray((gray.clip(0, 1) * 255).astype(np.uint8)) for gray, _ in pairs]
    found = segment(model, processor, pictures, mc_samples=0, presence_threshold=0.0, correctors=())
    return [
        {
            "lesion": bool(true.any()),
            "left_empty": segmentation.presence < model.config.presence_threshold,
            "dice": overlap(segmentation.mask, true)["dice"],
        }
        for segmentation, (_, true) in zip(found, pairs, strict=True)
    ]


def compared(model: Any, processor: Any, dataset: Any) -> Rows:
    """One row for each change. A lesion that a change takes out of the picture is left out of its row."""
    pairs = [
        (np.asarray(row["image"].convert("L")) / 255, np.asarray(row["mask"]) > 0)
        for row in dataset.select_columns(["image", "mask"])
    ]
    rows, plain = [], None
    for name, change in CHANGES.items():
        images = asked(model, processor, [change(*pair) for pair in pairs])
        plain = plain or images  # the first change is none
        both = [pair for pair in zip(plain, images, strict=True) if all(image["lesion"] for image in pair)]
        before, after = (np.array([image["dice"] for image in side]) for side in zip(*both, strict=True))
        normal = [image for image, unchanged in zip(images, plain, strict=True) if not unchanged["lesion"]]
        rows.append(
            {
                "change": name,
                "lesions": len(after),
                "dice": float(after.mean()),
                **difference(after, before),
                "lesions_left_empty": sum(image["left_empty"] for _, image in both),
                "normals": len(normal),
                "normals_given_a_mask": sum(not image["left_empty"] for image in normal),
            }
        )
    return rows


def markdown(rows: Rows) -> str:
    """The rows as a table."""
    lines = []
    for row in rows:
        normals = f"{row['normals_given_a_mask']} of {row['normals']}" if row["normals"] else ""
        shown = "" if row["change"] == "none" else signed(row)
        dice = f"{row['dice']:.3f}"
        lines.append((row["data"], row["change"], row["lesions"], dice, shown, row["lesions_left_empty"], normals))
    return as_table(HEADS, lines)


def main() -> None:
    """Measures each change on each data folder, and writes and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True, help="data folders")
    parser.add_argument("--split", default="val", help="their split (%(default)s)")
    parser.add_argument("--splits", help="CSV with image,group,split")
    parser.add_argument("--model", help="checkpoint; the bundled one if left out")
    parser.add_argument("--output", default="robustness", help="folder to write to (%(default)s)")
    options = parser.parse_args()

    model, processor = load_checkpoint(options.model)
    rows = []
    for source in options.data:
        dataset = load_split(source, options.split, options.splits)
        rows += [{"data": Path(source).name, **row} for row in compared(model, processor, dataset)]
    write(options.output, "robustness", rows, markdown(rows))
    print(markdown(rows), end="")


if __name__ == "__main__":
    main()
