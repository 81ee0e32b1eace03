"""Figures in the two formats that the Hub reads: `model-index` in the card, and `.eval_results/*.yaml` beside it.

Both are written from `results.json` alone. The second format is young: its fields are those of huggingface_hub's
`EvalResultEntry`, and an entry has one value, here the Dice of the corrected mask.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml
from huggingface_hub.constants import EVAL_RESULTS_FOLDER

from ..evaluation.measured import METRICS
from .card_tables import ALL, FOUND, SHOWN, Evaluation, identifier, with_interval

HUB = "https://huggingface.co"


def model_index(evaluations: Iterable[Evaluation], name: str) -> list[EvalResult]:
    """
    The main figures of the corrected masks as card metadata. The data set's name says which prompt was used.

    Args:
        evaluations (`Iterable[Evaluation]`): Of the model.
        name (`str`): Hub name of the model.
    """
    return [
        EvalResult(
            task_type="image-segmentation",
            task_name="Lesion segmentation",
            dataset_type=identifier(evaluation.data),
            dataset_name=f"{evaluation.data}, prompts: {column}",
            dataset_config=f"{column}, all images" if evaluation.data.endswith(ALL) else column,  # tells results apart
            dataset_split=evaluation.results["split"],
            metric_type=metric,
            metric_name=title,
            metric_value=round(value, 4),
            source_name="sfrecsam evaluate",
            source_url=_source(evaluation, name),
        )
        for evaluation in evaluations
        for column in evaluation.columns
        for title, metric, value in _figures(evaluation, column)
    ]


def _figures(evaluation: Evaluation, column: str) -> list[tuple[str, str, float]]:
    """Title, metric and value of what stands for the model on one data set; nothing that could not be measured."""
    summary = evaluation.columns[column]
    means = summary["final"].get("lesion", {})
    figures = [(SHOWN[metric], metric, means[metric]["mean"]) for metric in METRICS if means]
    shares = [(name[0].upper() + name[1:], "recall", summary["found"]["final"][kind]) for kind, name in FOUND.items()]
    if column == "auto":
        shares += [
            ("Normal scans with a mask", "false_positive_rate", summary["normal"]["with_mask"]),
            (
                "Normal scans above the presence of 95 % of the lesions",
                "false_positive_rate",
                summary["presence"]["normals_above_95"],
            ),
        ]
    figures += [(title, metric, share["share"]) for title, metric, share in shares if share is not None]
    rocs = [("AUROC of uncertainty against error", summary["uncertainty"]["auroc"])]
    if column == "auto":
        rocs.append(("AUROC of presence", summary["presence"]["auroc"]))
    return figures + [(title, "roc_auc", value) for title, value in rocs if value is not None]


def write_eval_results(folder: Path, evaluations: Iterable[Evaluation], name: str) -> None:
    """
    Writes `.eval_results/DATA.yaml` for each data set: the Dice of each prompt, and in its notes what it means.

    Args:
        folder (`Path`): Of the model repository.
        evaluations (`Iterable[Evaluation]`): Of the model.
        name (`str`): Hub name of the model. A data set that has no Hub name of its own is looked for beside it, where
            `sfrecsam push-data` of the same owner would put it.
    """
    target = folder / EVAL_RESULTS_FOLDER
    shutil.rmtree(target, ignore_errors=True)  # or a data set that was taken away would stay
    target.mkdir()
    for evaluation in evaluations:
        entries = [_entry(evaluation, column, name) for column in evaluation.columns if evaluation.lesions]
        if entries:
            place = evaluation.prefix.strip("/") or identifier(evaluation.data).replace("/", "-")
            file = target / f"{place}.yaml"
            file.write_text(yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True))


def _entry(evaluation: Evaluation, column: str, name: str) -> EvalResultEntry:
    results, lesion = evaluation.results, evaluation.columns[column]["final"]["lesion"]
    owner = name.rpartition("/")[0] or name
    uses = "nothing from the ground truth" if column == "auto" else "one click from the ground truth"
    notes = (
        f"Dice of the corrected mask, {with_interval('dice', lesion['dice'])}, over {lesion['images']} lesion images; "
        f"prompt {column}: {uses}; split {results['split'] or 'all'}. {evaluation.measured_on}"
    )
    return EvalResultEntry(
        dataset_id=results["data"] if "/" in results["data"] else f"{owner}/{identifier(evaluation.data)}",
        task_id=column,
        value=round(lesion["dice"]["mean"], 4),
        source_url=_source(evaluation, name),
        source_name="results.json of sfrecsam evaluate",
        notes=notes,
    )


def _source(evaluation: Evaluation, name: str) -> str:
    return f"{HUB}/{name}/blob/main/{evaluation.prefix}results.json"
