"""
The model card as a build product: a template, filled from what was measured, and from nothing else.

A model repository is a folder with a checkpoint, the `results.json` of its evaluation, that evaluation's figures, and,
in folders below, further evaluations. `sfrecsam card FOLDER` writes its README.md.
"""

import math
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData
from safetensors import safe_open

from ..evaluation.measured import METRICS
from ..evaluation.pixel_quality import MOST_UNCERTAIN, UNDECIDED
from ..inference.bundled import bundled_card_template
from ..modeling.configuration_sfrecsam import SFRecSamConfig
from .card_tables import Evaluation, count, decimals, number_of, percent, percent_of, public_name
from .card_training import Training
from .hub_results import model_index, write_eval_results

TAGS = ["medical", "segment-anything", "uncertainty", "sf-recsam"]


def write_card(folder: str | Path, name: str = "org/sf-recsam", license: str = "apache-2.0") -> Path:
    """
    Writes README.md and `.eval_results/` of a model repository, and returns the card's path.

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
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no checkpoint; give a folder with config.json and model.safetensors.")
    evaluations = list(Evaluation.all_below(folder))
    build_card(folder, evaluations, name, license).save(path)
    write_eval_results(folder, evaluations, name)
    return path


def build_card(folder: Path, evaluations: list[Evaluation], name: str, license: str) -> ModelCard:
    """The card of [`write_card`], unsaved."""
    model = SFRecSamConfig.from_pretrained(folder)
    training = Training.read(folder)
    trained_on = [public_name(data["name"]) for data in training.data] if training else []
    data = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="image-segmentation",
        tags=[model.modality.lower().replace(" ", "-"), *TAGS],
        datasets=training.identifiers if training else None,
        metrics=list(METRICS),
        base_model=model.base_model,
        base_model_relation=model.base_model and ("adapter" if model.adapters_only else "finetune"),
        model_name=name.split("/")[-1],
        eval_results=model_index(evaluations, name),
    )
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
        count=count,
        decimals=decimals,
        percent=percent,
        percent_of=percent_of,
        number_of=number_of,
        most_uncertain=MOST_UNCERTAIN,
        undecided=UNDECIDED,
    )


def stored_parameters(folder: Path) -> int:
    """How many numbers the weight files of a checkpoint hold, read from their headers."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            names = weights.keys()
            total += sum(math.prod(weights.get_slice(name).get_shape()) for name in names)
    return total
