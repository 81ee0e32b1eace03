"""Which modules of the method pay: every row of the paper's ablation, several seeds each.

    python examples/ablation.py --train BUSI BUS-BRA --validation BUSI BUS-BRA --output runs/ablation
    python examples/ablation.py --train BUSI --validation BUSI --output runs/ablation --seeds 0 1 2 3 4 --epochs 40
    python examples/ablation.py --train BUSI --validation BUSI --output runs/pair --fusions none spatial
    python examples/ablation.py --train BUSI --validation BUSI --output runs/sam --sam facebook/sam-vit-base
    python examples/ablation.py --train BUSI --validation BUSI --output runs/on --start runs/ablation

Each seed trains three models on the same images for the same number of epochs: without fusion, with spatial fusion,
and with spatial-frequency fusion. The last one also trains its correctors, which are then switched on one by one.
A model that is finished in the output folder is not trained again. Writes `ablation.json` and `ablation.md`: means
over seeds, and the difference to the row before, paired by image, with bootstrap 95 % intervals over images.
`--fusions` and `--correction-epochs 0` leave rows out. `--sam` adds each fusion to a SAM whose weights are frozen, as
in the paper. `--start` goes on from the models of an earlier run, also at another `--image-size`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from datasets import concatenate_datasets
from tables import as_table, difference, signed, write

from sfrecsam_hf import TrainingConfig, train
from sfrecsam_hf.data.splits import load_splits
from sfrecsam_hf.evaluation.evaluate import evaluate
from sfrecsam_hf.inference.checkpoints import load_checkpoint

METRICS = ("dice", "precision", "recall")
FUSIONS = {"SAM alone": "none", "+ spatial fusion": "spatial", "+ spatial-frequency fusion": "spatial-frequency"}
CORRECTORS = {"+ FP corrector": ("fp",), "+ FN corrector": ("fn",), "full: both correctors": ("fp", "fn")}
BEFORE = {
    "+ spatial fusion": "SAM alone",
    "+ spatial-frequency fusion": "+ spatial fusion",
    **dict.fromkeys(CORRECTORS, "+ spatial-frequency fusion"),
}
HEADS = ("row", "Dice", "sd over seeds", "precision", "recall", "against", "difference", "of each seed")

Rows = dict[str, list[dict[str, Any]]]


def rows_of_seed(settings: dict[str, Any], output: Path, seed: int, fusions: list[str]) -> Rows:
    """
    The metrics of every validation lesion in every row, for one seed.

    Args:
        settings (`dict`): Fields of [`TrainingConfig`]; `model` may be the output folder of an earlier run.
        output (`Path`): Folder of all runs.
        seed (`int`): Of weights, order and augmentation.
        fusions (`list[str]`): Fusions to train.
    """
    rows: Rows = {}
    for row, fusion in FUSIONS.items():
        if fusion not in fusions:
            continue
        folder = output / f"{fusion}-{seed}"
        path = folder / "rows.json"
        if not path.is_file():
            path.write_text(json.dumps(trained_rows(row, fusion, settings, folder, seed)))
        rows |= json.loads(path.read_text())
    return rows


def trained_rows(row: str, fusion: str, settings: dict[str, Any], folder: Path, seed: int) -> Rows:
    """Trains one model and measures it without correctors, and with each of them where they were trained."""
    beginning: dict[str, Any] = {"overrides": {"fusion": fusion}, "freeze_base": settings["sam"] is not None}
    if settings["model"] != "tiny":
        beginning = {"model": str(Path(settings["model"], folder.name, "best"))}
    if fusion != "spatial-frequency":
        beginning["correction_epochs"] = 0
    config = TrainingConfig(**settings | beginning, output=str(folder), tracker=None, seed=seed)
    trained = load_checkpoint(train(config, resume=(folder / "latest").is_file()))
    validation = concatenate_datasets(load_splits(config.validation, "val", config.splits))
    switched = {row: (), **(CORRECTORS if config.correction_epochs else {})}
    return {name: measured(*trained, validation, correctors) for name, correctors in switched.items()}


def measured(model: Any, processor: Any, validation: Any, correctors: tuple[str, ...]) -> list[dict[str, Any]]:
    """The metrics of the final mask of every lesion, prompted automatically."""
    _, rows = evaluate(
        model, processor, validation, ["auto"], quiet=True, correctors=correctors, presence_threshold=0.0
    )
    return [{metric: row[f"final_{metric}"] for metric in METRICS} for row in rows if row["lesion"]]


def summary(seeds: list[Rows]) -> list[dict[str, Any]]:
    """One line for each row: means, the spread over seeds, and the paired difference to the row before."""
    tables = {
        row: np.array([[[image[metric] for metric in METRICS] for image in seed[row]] for seed in seeds])
        for row in seeds[0]
    }
    lines = []
    for row, values in tables.items():
        images = values.mean(axis=0)
        line: dict[str, Any] = {"row": row, "seeds": len(seeds)}
        for index, metric in enumerate(METRICS):
            line[metric] = float(images[:, index].mean())
            line[f"{metric}_over_seeds"] = float(values[:, :, index].mean(axis=1).std(ddof=len(seeds) > 1))
        if BEFORE.get(row) in tables:
            before = tables[BEFORE[row]]
            line |= {"against": BEFORE[row], **difference(images[:, 0], before.mean(axis=0)[:, 0])}
            line["difference_of_each_seed"] = (values - before)[:, :, 0].mean(axis=1).tolist()
        lines.append(line)
    return lines


def named(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with the name of every path in place of the path, which is nobody's concern."""
    names: dict[str, Any] = {
        name: [Path(source).name for source in settings[name]] for name in ("train", "validation")
    }
    names |= {name: settings[name] and Path(settings[name]).name for name in ("splits", "sam", "model")}
    return settings | names


def markdown(lines: list[dict[str, Any]], settings: dict[str, Any]) -> str:
    """The table, under a sentence that says what each row had to learn from."""
    beginning = "from scratch"
    if settings["sam"] is not None:
        beginning = f"added to {Path(settings['sam']).name}, frozen"
    if settings["model"] != "tiny":
        beginning = f"from the models of {Path(settings['model']).name}"
    about = (
        f"{len(settings['train'])} data sets, {settings['epochs']} epochs, and {settings['correction_epochs']} of the "
        f"correctors; {settings['image_size']} px; {lines[0]['seeds']} seeds; {beginning}. Automatic prompts, "
        "validation lesions at the original size, presence threshold off. The difference is in Dice, paired by image, "
        "with its 95 % interval over images; the last column shows how much of it depends on the seed."
    )
    cells = [
        (
            line["row"],
            *(f"{line[name]:.3f}" for name in ("dice", "dice_over_seeds", "precision", "recall")),
            line.get("against", ""),
            signed(line) if "low" in line else "",
            ", ".join(f"{value:+.3f}" for value in line.get("difference_of_each_seed", [])),
        )
        for line in lines
    ]
    return f"{about}\n\n{as_table(HEADS, cells)}"


def main() -> None:
    """Trains what is not trained yet, and writes and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", nargs="+", required=True, help="data folders to train on")
    parser.add_argument("--validation", nargs="+", required=True, help="data folders to choose epochs and compare on")
    parser.add_argument("--output", required=True, help="folder of the runs and the table")
    parser.add_argument("--splits", help="CSV with image,group,split of the first folder")
    parser.add_argument("--shares", type=float, nargs="+", help="share of each folder that one epoch shows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(%(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="of the base (%(default)s)")
    parser.add_argument("--correction-epochs", type=int, default=3, help="(%(default)s)")
    beginning = parser.add_mutually_exclusive_group()
    beginning.add_argument("--sam", help="checkpoint of a SAM that each fusion is added to (from scratch without)")
    beginning.add_argument("--start", dest="model", default="tiny", help="output of a run whose models go on")
    parser.add_argument("--image-size", type=int, default=128, help="side of the input (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="(%(default)s)")
    parser.add_argument("--augmentation", type=float, default=1.0, help="strength (%(default)s)")
    every = list(FUSIONS.values())
    parser.add_argument("--fusions", nargs="+", choices=every, default=every, help="fusions to train (all)")
    options = vars(parser.parse_args())
    output, seeds, fusions = Path(options.pop("output")), options.pop("seeds"), options.pop("fusions")
    done = []
    for seed in seeds:  # the table grows with every seed: an interrupted run has lost nothing
        done.append(rows_of_seed(options, output, seed, fusions))
        lines = summary(done)
        write(output, "ablation", {"settings": named(options), "rows": lines}, markdown(lines, options))
    print(markdown(lines, options))


if __name__ == "__main__":
    main()
