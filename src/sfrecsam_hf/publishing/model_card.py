"""
The model card as a build product: a template, filled from what was measured, and from nothing else.

A model repository is a folder with a checkpoint, the `results.json` of its evaluation, that evaluation's figures, and,
in folders below, further evaluations. `sfrecsam card FOLDER` writes its README.md.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from safetensors import safe_open

from ..evaluation.evaluate import METRICS, MOST_UNCERTAIN, table
from ..inference.bundled import bundled_card_template
from ..modeling.configuration_sfrecsam import SFRecSamConfig
from .card_numbers import count, decimals, percent, percent_of
from .card_tables import CHANGED, Evaluation, public_name
from .card_training import Training

MARKED = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", flags=re.DOTALL)
NEEDED = {"columns", "data", "images", "machine", "per_image", "split"}
TAGS = ["breast-ultrasound", "medical", "segment-anything", "uncertainty", "sf-recsam"]


def write_card(folder: str | Path, name: str = "org/sf-recsam", license: str = "apache-2.0") -> Path:
    """
    Writes the README.md of a model repository and returns its path.

    Args:
        folder (`str`): Holds `config.json`, weights, `results.json` and figures; `training_summary.json` if there is
            one; and further evaluations in folders of their own.
        name (`str`): Hub name under which the quick start loads the model.
        license (`str`): Identifier of the weights' licence, as the Hub knows it.

    Raises:
        FileNotFoundError: There is no checkpoint, or no results.
        ValueError: The results are something else.
    """
    folder = Path(folder)
    path = folder / "README.md"
    build_card(folder, name, license).save(path)
    return path


def build_card(folder: Path, name: str, license: str) -> ModelCard:
    """The card of [`write_card`], unsaved."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no checkpoint; give a folder with config.json and model.safetensors.")
    model = SFRecSamConfig.from_pretrained(folder)
    evaluations = list(find_evaluations(folder))
    training = Training.read(folder)
    trained_on = [public_name(data["name"]) for data in training.data] if training else []
    data = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="image-segmentation",
        tags=TAGS,
        datasets=training.identifiers if training else None,
        metrics=list(METRICS),
        base_model=model.base_model,
        base_model_relation=model.base_model and ("adapter" if model.adapters_only else "finetune"),
        model_name=name.split("/")[-1],
        eval_results=[result for evaluation in evaluations for result in evaluation.eval_results()],
    )

    def chose_checkpoint(evaluation: Evaluation) -> bool | None:
        return training and evaluation.data in training.validation and evaluation.results["split"] in ("val", None)

    return ModelCard.from_template(
        data,
        template_path=str(bundled_card_template()),
        name=name,
        model=model,
        parameters=stored_parameters(folder),
        samples="samples.png" if (folder / "samples.png").is_file() else None,
        evaluations=evaluations,
        training=training,
        data_names={*trained_on, *(evaluation.data for evaluation in evaluations)},
        pictured={evaluation.data for evaluation in evaluations if evaluation.figure("worst.png")},
        chose_checkpoint=chose_checkpoint,
        changed=CHANGED,
        most_uncertain=MOST_UNCERTAIN,
        count=count,
        decimals=decimals,
        percent=percent,
        percent_of=percent_of,
    )


def find_evaluations(folder: Path) -> Iterator[Evaluation]:
    """
    The evaluation in a model repository, and those in folders directly below.

    Raises:
        FileNotFoundError: The folder itself has no results.
        ValueError: A `results.json` is something else.
    """
    if not (folder / "results.json").is_file():
        raise FileNotFoundError(
            f"{folder} has no results.json; run `sfrecsam evaluate --model CHECKPOINT --data DIR --output {folder}`."
        )
    for path in [folder / "results.json", *sorted(folder.glob("*/results.json"))]:
        prefix = "" if path.parent == folder else f"{path.parent.name}/"
        yield Evaluation(_read_results(path), path.parent, prefix)


def _read_results(path: Path) -> dict[str, Any]:
    try:
        results = json.loads(path.read_text())
    except json.JSONDecodeError:
        results = {}
    if not set(results) >= NEEDED:
        raise ValueError(f"{path} was not written by this version's `sfrecsam evaluate`; write it anew.")
    return results


def stored_parameters(folder: Path) -> int:
    """How many numbers the weight files of a checkpoint hold, read from their headers."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            names = weights.keys()
            total += sum(math.prod(weights.get_slice(name).get_shape()) for name in names)
    return total


def write_table(readme: Path, results: Path) -> None:
    """Writes the table of `results.json` between the markers of a README, as [`with_results`]."""
    readme.write_text(with_results(readme.read_text(), json.loads(results.read_text())))


def with_results(text: str, results: dict[str, Any]) -> str:
    """
    The text of a README with the table of `results.json` between its two markers.

    Raises:
        ValueError: The markers are missing.
    """
    if not MARKED.search(text):
        raise ValueError("The text has no <!-- results --> and <!-- /results --> to write between.")
    return MARKED.sub(lambda found: f"{found[1]}{table(results)}\n{found[2]}", text)
