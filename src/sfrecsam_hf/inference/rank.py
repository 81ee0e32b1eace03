"""Which unlabelled scans to label next: the uncertain, the undecided, and those unlike what was chosen before them."""

import csv
from collections.abc import Iterable
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
from ..modeling.segmentation import segment
from .visualization import contact_sheet, overlay

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
    model: SFRecSamModel, processor: Any, scans: Iterable[tuple[str, Any]], batch_size: int = 4, quiet: bool = False
) -> list[Ranked]:
    """
    Orders scans by what labelling them would teach, the most first.

    A scan teaches where the mask is uncertain and where the presence score is near its threshold. Of scans that are
    alike one is enough: each next scan is the best by the sum of three ranks, the third being the distance of its
    embedding to those chosen before (k-centre greedy, Sener & Savarese, ICLR 2018).

    Args:
        model ([`SFRecSamModel`]): In evaluation mode.
        processor ([`SFRecSamProcessor`]): Belonging to the model.
        scans (`Iterable[tuple]`): Name and image of each scan.
        batch_size (`int`): Images per batch.
        quiet (`bool`): No progress bar.
    """
    names, images = [], []
    for name, image in scans:
        names.append(name)
        images.append(image)
    described = tqdm(zip(names, images, strict=True), total=len(names), desc="looking", disable=quiet)
    embeddings = np.stack([_embedding(model, processor, image) for _, image in described])
    found = list(segment(model, processor, images, batch_size, presence_threshold=0.0))
    uncertainty = np.array([_uncertainty(one.uncertainty, one.probability) for one in found])
    presence = np.array([one.presence for one in found])
    undecided = -np.abs(presence - model.config.presence_threshold)
    worth = (rankdata(uncertainty) + rankdata(undecided)) / len(names)
    ranked: list[Ranked] = []
    left = list(range(len(names)))
    nearest = np.full(len(names), 2.0)
    while left:
        novelty = rankdata(nearest[left]) / len(left)
        best = left.pop(int(np.argmax(worth[left] + novelty)))
        ranked.append(Ranked(names[best], float(uncertainty[best]), float(presence[best]), float(nearest[best])))
        nearest = np.minimum(nearest, 1 - embeddings @ embeddings[best])
    return ranked


@torch.inference_mode()
def _embedding(model: SFRecSamModel, processor: Any, image: Any) -> np.ndarray:
    """The mean of SAM's image embeddings over the image, of unit length."""
    inputs = processor(read_rgb(image), return_tensors="pt")
    encoded = model.get_image_embeddings(
        inputs["pixel_values"].to(model.device, model.dtype), inputs["reshaped_input_sizes"].to(model.device)
    )
    mean = encoded.image_embeddings.float().mean((0, 2, 3)).cpu().numpy()
    return mean / max(float(np.linalg.norm(mean)), 1e-12)


def _uncertainty(entropy: np.ndarray, probability: np.ndarray) -> float:
    """Over a whole scan the mean says how large the lesion is; over what may be lesion it says how clear it is."""
    possible = (probability > 0.5) | (entropy > 0.5)
    return float(entropy[possible].mean()) if possible.any() else float(entropy.max())


def write_ranking(
    model: SFRecSamModel, processor: Any, ranked: list[Ranked], scans: dict[str, Any], output: str | Path, shown: int
) -> None:
    """
    Writes `ranking.csv`, all scans in their order, and `ranking.png`, the first ones under their masks.

    Args:
        model ([`SFRecSamModel`]): In evaluation mode.
        processor ([`SFRecSamProcessor`]): Belonging to the model.
        ranked (`list[Ranked]`): From [`rank`].
        scans (`dict[str, Any]`): Images by name.
        output (`str`): Folder; made if need be.
        shown (`int`): Scans on the sheet.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    with (output / TABLE).open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for place, one in enumerate(ranked, 1):
            values = {name: f"{getattr(one, name):.4f}" for name in COLUMNS[2:]}
            writer.writerow({"rank": place, "image": one.name, **values})
    first = ranked[:shown]
    pictures: list[PIL.Image.Image] = [read_rgb(scans[one.name], name=one.name) for one in first]
    found = segment(model, processor, pictures, presence_threshold=0.0)
    tiles = [overlay(picture, one.mask) for picture, one in zip(pictures, found, strict=True)]
    captions = [f"{place}. {one.name}" for place, one in enumerate(first, 1)]
    contact_sheet(tiles, captions).save(output / SHEET)
