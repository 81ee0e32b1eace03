"""Which of the method's modules pay: every row of the paper's ablation, several seeds each, and U-Nets beside them.

    python examples/ablation.py --train BUSI BUS-BRA --validation BUSI BUS-BRA --output runs/ablation
    python examples/ablation.py --train BUSI --validation BUSI --output runs/ablation --seeds 0 1 2 3 4 --epochs 40
    python examples/ablation.py --train BUSI --validation BUSI --output runs/pair --networks --fusions none spatial
    python examples/ablation.py --train BUSI --validation BUSI --output runs/sam --networks --sam facebook/sam-vit-base
    python examples/ablation.py --train BUSI --validation BUSI --output runs/on --networks --start runs/ablation

Three trainings for each seed (no fusion, spatial, spatial-frequency) and one for each U-Net, from scratch, on the same
images for as many epochs; the last of ours also trains its correctors, which are then switched on one by one. Whatever
is finished in the output folder is not done again. Writes `ablation.json` and `ablation.md`: means over seeds, and the
difference to the row before, paired by image, with bootstrap 95 % intervals over images. `--fusions`, `--networks` and
`--correction-epochs 0` leave rows out. With `--sam` each fusion is added to a SAM whose weights rest, as in the paper;
with `--start` the models of an earlier run go on, at another `--image-size` too.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from datasets import concatenate_datasets
from unet_baseline import NETWORKS, difference, signed, train_unet

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
    **dict.fromkeys(NETWORKS, "full: both correctors"),
}


def rows_of_seed(
    settings: dict[str, Any], output: Path, seed: int, fusions: list[str], networks: list[str]
) -> dict[str, list[dict[str, Any]]]:
    """
    The metrics of every validation lesion in every row, for one seed.

    Args:
        settings (`dict`): Fields of [`TrainingConfig`]; `model` may be the output folder of an earlier run.
        output (`Path`): Folder of all runs.
        seed (`int`): Of weights, order and augmentation.
        fusions (`list[str]`): Fusions to train.
        networks (`list[str]`): U-Nets to train beside them.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for row, fusion in FUSIONS.items():
        if fusion not in fusions:
            continue
        folder = output / f"{fusion}-{seed}"
        found = finished(folder / "rows.json")
        if found is None:
            beginning: dict[str, Any] = {"overrides": {"fusion": fusion}, "freeze_base": settings["sam"] is not None}
            if settings["model"] != "tiny":
                beginning = {"model": str(Path(settings["model"], folder.name, "best"))}
            config = TrainingConfig(
                **settings | beginning | ({} if fusion == "spatial-frequency" else {"correction_epochs": 0}),
                output=str(folder),
                tracker=None,
                seed=seed,
            )
            trained = load_checkpoint(train(config, resume=(folder / "latest").is_file()))
            validation = concatenate_datasets(load_splits(config.validation, "val", config.splits, seed))
            switched = {row: (), **(CORRECTORS if config.correction_epochs else {})}
            found = {name: ours(*trained, validation, correctors) for name, correctors in switched.items()}
            (folder / "rows.json").write_text(json.dumps(found))
        rows |= found
    for name in networks:
        folder = output / f"{name.split()[-1].lower()}-{seed}"
        found = finished(folder / "rows.json")
        if found is None:
            result = train_unet(name, TrainingConfig(**settings, output=str(folder), seed=seed))
            validation = [result["per_image"][Path(source).name] for source in settings["validation"]]
            found = {name: [row for rows_of_one in validation for row in rows_of_one if row["lesion"]]}
            (folder / "rows.json").write_text(json.dumps(found))
        rows |= found
    return rows


def finished(path: Path) -> dict[str, list[dict[str, Any]]] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def ours(model: Any, processor: Any, validation: Any, correctors: tuple[str, ...]) -> list[dict[str, Any]]:
    """The metrics of the final mask of every lesion, prompted automatically."""
    results, _ = evaluate(
        model, processor, validation, ["auto"], quiet=True, correctors=correctors, presence_threshold=0.0
    )
    return [{"name": row["name"], **row["final"]} for row in results["per_image"] if row["lesion"]]


def summary(seeds: list[dict[str, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
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
    """The settings with the name of every path in its place: where data lie is nobody's concern."""
    names: dict[str, Any] = {
        name: [Path(source).name for source in settings[name]] for name in ("train", "validation")
    }
    names |= {name: settings[name] and Path(settings[name]).name for name in ("splits", "sam", "model")}
    return settings | names


def markdown(lines: list[dict[str, Any]], settings: dict[str, Any]) -> str:
    """The table, under a sentence that says what each row had to learn from."""
    beginning = "from scratch"
    if settings["sam"] is not None:
        beginning = f"added to {Path(settings['sam']).name}, whose weights rest"
    if settings["model"] != "tiny":
        beginning = f"gone on from {Path(settings['model']).name}"
    text = [
        f"{len(settings['train'])} data sets, {settings['epochs']} epochs and {settings['correction_epochs']} of the "
        f"correctors, {settings['image_size']} px, {lines[0]['seeds']} seeds; {beginning}; automatic prompts, "
        "validation lesions, original size, no image refused. The difference is in Dice, paired by image, with its "
        "95 % interval over images; how much of it is luck with a seed, the last column shows.",
        "",
        "| row | Dice | sd over seeds | precision | recall | against | difference | of each seed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        against = signed(line) if "low" in line else ""
        each = ", ".join(f"{value:+.3f}" for value in line.get("difference_of_each_seed", []))
        text.append(
            f"| {line['row']} | {line['dice']:.3f} | {line['dice_over_seeds']:.3f} | {line['precision']:.3f} | "
            f"{line['recall']:.3f} | {line.get('against', '')} | {against} | {each} |"
        )
    return "\n".join(text) + "\n"


def main() -> None:
    """Trains what is not trained yet, and writes and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", nargs="+", required=True, help="data folders to train on")
    parser.add_argument("--validation", nargs="+", required=True, help="data folders to choose epochs and compare on")
    parser.add_argument("--output", required=True, help="folder of the runs and the table")
    parser.add_argument("--splits", help="CSV with image,group,split of the first folder")
    parser.add_argument("--shares", type=float, nargs="+", help="share of each folder that one epoch shows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(%(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="of the base and of a U-Net (%(default)s)")
    parser.add_argument("--correction-epochs", type=int, default=3, help="(%(default)s)")
    beginning = parser.add_mutually_exclusive_group()
    beginning.add_argument("--sam", help="checkpoint of a SAM that each fusion is added to (from scratch without)")
    beginning.add_argument("--start", dest="model", default="tiny", help="output of a run whose models go on")
    parser.add_argument("--image-size", type=int, default=128, help="side of the input (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="(%(default)s)")
    parser.add_argument("--augmentation", type=float, default=1.0, help="strength (%(default)s)")
    parser.add_argument("--transplant-share", type=float, default=0.3, help="of prompted images (%(default)s)")
    parser.add_argument("--echo-share", type=float, default=0.0, help="images with another echo (%(default)s)")
    every = list(FUSIONS.values())
    parser.add_argument("--fusions", nargs="+", choices=every, default=every, help="ours (all)")
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS), help="U-Nets (all)")
    options = vars(parser.parse_args())
    output, seeds = Path(options.pop("output")), options.pop("seeds")
    fusions, networks = options.pop("fusions"), options.pop("networks")
    if options["model"] != "tiny" and networks:
        parser.error("only ours go on from --start; give --networks without a name.")
    done = []
    for seed in seeds:
        done.append(rows_of_seed(options, output, seed, fusions, networks))
        lines = summary(done)
        (output / "ablation.json").write_text(json.dumps({"settings": named(options), "rows": lines}, indent=1) + "\n")
        (output / "ablation.md").write_text(markdown(lines, options))
    print((output / "ablation.md").read_text())


if __name__ == "__main__":
    main()
