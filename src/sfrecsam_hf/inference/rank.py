"""Which unlabelled scans to label next: the uncertain, the undecided, and those unlike what was chosen before them."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from scipy.stats import rankdata
from tqdm import tqdm

from ..modeling.image_reading import read_rgb
from ..modeling.modeling_sfrecsam import SFRecSamModel
from ..modeling.segmentation import Segmentation, segment, segmentations
from .inputs import find_pictures, read_scan, signed
from .visualization import contact_sheet, overlay
from .writing import in_words, replacing

TABLE = "ranking.csv"
SHEET = "ranking.png"
COLUMNS = ("rank", "image", "uncertainty", "presence", "novelty")


@dataclass
class Ranked:
    r"""
    One scan and why it stands where it stands.

    Args:
        name (`str`): Of the scan.
        uncertainty (`float`): Mean predictive entropy in bits over the pixels that may be lesion, in [0, 1].
        presence (`float`): Probability in [0, 1] that there is a lesion.
        novelty (`float`): Cosine distance of its embedding to the nearest of those above it, in [0, 2]; 2 for the
            first.
    """

    name: str
    uncertainty: float
    presence: float
    novelty: float


def rank(
    model: SFRecSamModel, processor: Any, scans: Iterable[tuple[str, Any]], total: int | None = None
) -> list[Ranked]:
    """
    Orders scans by what labelling them would teach, the most first; one scan is in memory at a time.

    A scan teaches where the mask is uncertain and where the presence score is near its threshold. Of scans that are
    alike one is enough: each next scan is the best by the sum of three ranks, the third being the distance of its
    embedding to those chosen before (k-centre greedy, Sener & Savarese, ICLR 2018).

    Args:
        model ([`SFRecSamModel`]): In evaluation mode.
        processor ([`SFRecSamProcessor`]): Belonging to the model.
        scans (`Iterable[tuple]`): Name and image of each scan.
        total (`int`, *optional*): How many there are, for the progress bar.
    """
    names, embeddings, uncertainties, presences = [], [], [], []
    for name, image in tqdm(scans, desc="looking", total=total):
        embedding, found = _looked_at(model, processor, image)
        names.append(name)
        embeddings.append(embedding)
        uncertainties.append(_uncertainty(found.uncertainty, found.probability))
        presences.append(found.presence)
    if not names:
        return []
    embedded, uncertainty, presence = np.stack(embeddings), np.array(uncertainties), np.array(presences)
    undecided = -np.abs(presence - model.config.presence_threshold)
    worth = (rankdata(uncertainty) + rankdata(undecided)) / len(names)
    ranked: list[Ranked] = []
    left = list(range(len(names)))
    nearest = np.full(len(names), 2.0)
    while left:
        novelty = rankdata(nearest[left]) / len(left)
        best = left.pop(int(np.argmax(worth[left] + novelty)))
        ranked.append(Ranked(names[best], float(uncertainty[best]), float(presence[best]), float(nearest[best])))
        nearest = np.minimum(nearest, 1 - embedded @ embedded[best])
    return ranked


@torch.inference_mode()
def _looked_at(model: SFRecSamModel, processor: Any, image: Any) -> tuple[np.ndarray, Segmentation]:
    """Of one encoder pass the mean of SAM's image embeddings over the image, of unit length, and the answer."""
    inputs = processor(read_rgb(image)).to(model.device)
    pixels, sizes = inputs["pixel_values"].to(model.dtype), inputs["reshaped_input_sizes"]
    encoded = model.get_image_embeddings(pixels, sizes)
    outputs = model(image_embeddings=encoded, scan_boxes=inputs["scan_boxes"], presence_threshold=0.0)
    (found,) = segmentations(outputs, inputs["original_sizes"].tolist(), processor.image_processor, tidy=False)
    mean = encoded.image_embeddings.float().mean((0, 2, 3)).cpu().numpy()
    return mean / max(float(np.linalg.norm(mean)), 1e-12), found


def _uncertainty(entropy: np.ndarray, probability: np.ndarray) -> float:
    """Over a whole scan the mean says how large the lesion is; over what may be lesion it says how clear it is."""
    possible = (probability > 0.5) | (entropy > 0.5)
    return float(entropy[possible].mean()) if possible.any() else float(entropy.max())


def rank_files(
    model: SFRecSamModel, processor: Any, inputs: list[str], output: str | Path, shown: int
) -> tuple[list[Ranked], list[str], list[str]]:
    """
    Ranks the scans among files, folders and globs; writes `ranking.csv`, and the first ones as `ranking.png`.

    For the picture these are segmented once more, since the masks of all need not fit into memory.

    Args:
        model ([`SFRecSamModel`]): In evaluation mode.
        processor ([`SFRecSamProcessor`]): Belonging to the model.
        inputs (`list[str]`): As for [`~sfrecsam_hf.inference.predict.predict`].
        output (`str`): Folder; made if need be.
        shown (`int`): Scans on the picture.

    Returns:
        The scans in their order, a sentence for each file that could not be read, and one for each kind of file that
        is no scan.

    Raises:
        FileNotFoundError, ValueError: There is no scan.
    """
    output = Path(output)
    found = find_pictures(inputs, output)
    problems = list(found.missing)
    paths = {picture.name: picture.path for picture in found.pictures}

    def readable() -> Iterator[tuple[str, PIL.Image.Image]]:
        for name, path in paths.items():
            try:
                scan = read_scan(path)
            except Exception as error:  # whatever is wrong with one file stops no other
                problems.append(in_words(error, path) if isinstance(error, OSError) and error.errno else str(error))
            else:
                yield name, scan

    output.mkdir(parents=True, exist_ok=True)  # before the work, which would else be lost
    ranked = rank(model, processor, readable(), total=len(paths))
    if not ranked:
        raise ValueError(f"None of the {len(paths)} scans can be read: {problems[0]}")
    with replacing(output / TABLE) as fresh, fresh.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for place, one in enumerate(ranked, 1):
            values = {name: f"{getattr(one, name):.4f}" for name in COLUMNS[2:]}
            writer.writerow({"rank": place, "image": one.name, **values})
    first = ranked[:shown]
    pictures = [read_scan(paths[one.name]) for one in first]
    found_masks = segment(model, processor, pictures, presence_threshold=0.0)
    tiles = [overlay(picture, one.mask) for picture, one in zip(pictures, found_masks, strict=True)]
    sheet = contact_sheet(tiles, [f"{place}. {one.name}" for place, one in enumerate(first, 1)])
    with replacing(output / SHEET) as fresh:
        sheet.save(fresh, format="PNG", pnginfo=signed())
    return ranked, problems, found.left_out_in_words()
