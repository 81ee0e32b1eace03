"""
What each subcommand of `sfrecsam` does: it loads, calls, and prints.

Imports wait inside the functions until a job is chosen, so that `--help` is instant. A function returns the exit code,
or None for success.
"""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .inference.predict import PredictionReport


def train(config: str | None, resume: bool, folds: int | None, **settings: Any) -> None:
    """Trains, or cross-validates first, and tells where the best checkpoint is."""
    from .training.config import TrainingConfig
    from .training.folds import train_folds
    from .training.trainer import train

    chosen = TrainingConfig.from_yaml(config, **settings)
    best = train(chosen, resume) if folds is None else train_folds(chosen, folds, resume)
    print(f"best checkpoint: {best}")


def predict(
    inputs: list[str],
    output: str,
    point: list[float] | None,
    box: list[float] | None,
    resume: bool,
    mm_per_pixel: float | None,
    formats: list[str],
    report: bool,
    frame: int,
    **inference: Any,
) -> int:
    """Segments files; 2 if one of them could not be used."""
    import math

    from accelerate import PartialState

    from .inference.formats import check
    from .inference.predict import predict

    prompts: dict[str, Any] = {}
    if point is not None:
        prompts |= {"input_points": [point], "input_labels": [1]}
    if box is not None:
        if not (box[0] < box[2] and box[1] < box[3]):
            raise ValueError(f"--box {' '.join(f'{side:g}' for side in box)} has no area; give X1 < X2 and Y1 < Y2.")
        prompts["input_boxes"] = [box]
    if mm_per_pixel is not None and not 0 < mm_per_pixel < math.inf:
        raise ValueError(f"--mm-per-pixel {mm_per_pixel:g} must be a length above 0.")
    if frame < 1:
        raise ValueError(f"--frame {frame} must be 1 or more.")
    for format in formats:
        check(format)
    model, processor, batch_size, options = _loaded(**inference)
    options |= {"mm_per_pixel": mm_per_pixel, "formats": formats, "report": report, "frame": frame}
    done = predict(model, processor, inputs, output, batch_size, prompts, resume, **options)
    if PartialState().is_main_process:
        _print_predictions(done, output)
        if report:
            print(f"To look through: {output}/report.html")
    return 2 if done.problems else 0


def _print_predictions(report: "PredictionReport", output: str) -> None:
    from .inference.inputs import shown

    print(f"{'image':32} {'presence':>8} {'lesions':>7} {'area px':>8} {'diameter px':>11} {'uncertainty':>11}")
    for row in report.rows[:40]:
        numbers = f"{row['presence']:8.3f} {row['lesions']:7} {row['area']:8} {row['longest_diameter']:11.1f}"
        print(f"{row['image'][-32:]:32} {numbers} {row['mean_uncertainty']:11.3f}")
    for name, clip in report.clips.items():
        measure = "" if clip.largest is None else f"; frame {clip.largest + 1} has the longest diameter: measure there"
        print(f"{name}: a lesion on {clip.with_lesion} of {clip.frames} frames{measure}.")
    kept = f", {report.kept} of them by an earlier run" if report.kept else ""
    print(f"{len(report.rows)} images segmented{kept}.")
    print("presence: probability of a lesion; area: of all lesions; diameter: of the largest; uncertainty: in bits.")
    print(
        f"In {shown(output)}: predictions.csv (a row per image), lesions.csv (a row per lesion), columns.txt (what "
        "their columns mean), and for each image NAME_overlay.png, _mask.png, _uncertainty.png and _corrections.png."
    )
    for line in report.left_out:
        print(line)
    for problem in report.problems:
        print(f"sfrecsam: {problem}", file=sys.stderr)


def evaluate(
    data: str,
    output: str,
    split: str | None,
    splits: str | None,
    exclude: str | None,
    include_training_images: bool,
    columns: list[str],
    **inference: Any,
) -> None:
    """Measures a checkpoint and writes its report."""
    from pathlib import Path

    from .data.splits import load_split
    from .data.training_record import describe, unseen
    from .evaluation.evaluate import checked_columns, measure
    from .evaluation.measured import Measured
    from .evaluation.report import draw_worst, table, writable_folder, write_report
    from .evaluation.summary import summarised
    from .inference.bundled import bundled_checkpoint
    from .modeling.segmentation import segment
    from .training.summary import machine_name

    columns = checked_columns(columns)
    dataset = load_split(data, split, splits, without=exclude, streaming=True)
    checkpoint = inference["model"] or bundled_checkpoint()
    dataset, judgement = unseen(dataset, data, checkpoint, include_training_images)
    if judgement.left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in judgement.left_out.items())
        print(f"left out: {reasons}; --include-training-images keeps them")
    model, processor, batch_size, options = _loaded(**inference)
    folder = writable_folder(output)
    source = inference["model"] or "bundled"
    name = Path(data).name.removesuffix(".zip") if Path(data).exists() else data
    about = {
        "model": Path(source).name if Path(source).exists() else source,
        "data": name,
        "split": split,
        "options": options,
        "dtype": inference["dtype"],
        "machine": machine_name(model.device),
        **describe(judgement),
    }
    measured = Measured()
    for column in columns:  # what one column gave is on disk before the next begins
        measured += measure(model, processor, dataset, [column], batch_size, **options)
        results = about | summarised(measured)
        write_report(folder, results, measured.rows)
    print(table(results))
    written = ["results.json", "results.md", "per_image.csv"]
    if results["worst"]:
        shown = options | {"presence_threshold": 0.0}
        draw_worst(
            folder / "worst.png",
            results,
            dataset,
            lambda images: segment(model, processor, images["image"], batch_size, **shown),
        )
        written += ["reliability.png", "worst.png"]
    print(f"{', '.join(written)} are in {output}")


def adapt(
    data: str, output: str, normals: float | None, images: int | None, model: str | None, steps: int, seed: int
) -> int:
    """Fits a checkpoint to a site; 2 if the base is better."""
    import numpy as np

    from .data.loading import load_folder
    from .inference.checkpoints import load_checkpoint
    from .training.adapt import Fit, adapt, table

    if normals is not None:
        return _adapt_threshold(data, output, normals, model)
    site = load_folder(data)
    if images is not None:
        if not 1 <= images <= len(site):
            raise ValueError(f"--images {images} must be between 1 and {len(site)}, the images in {data}.")
        site = site.select(np.sort(np.random.default_rng(seed).choice(len(site), images, replace=False)))
    loaded, processor = load_checkpoint(model)
    kept, versions = adapt(loaded, processor, site, output, model, Fit(steps=steps, seed=seed))
    print(table(versions))
    if kept == "base":
        print(
            f"sfrecsam: adapting does not help on images of {data} that the fit did not see; go on with the base. The "
            f"report is in {output}.",
            file=sys.stderr,
        )
        return 2
    print(f"kept: {kept}; use it with --model {output}")
    return 0


def _adapt_threshold(data: str, output: str, normals: float, model: str | None) -> int:
    from .inference.checkpoints import load_checkpoint
    from .inference.inputs import find_pictures, read_scan
    from .training.adapt import adapt_threshold

    found = find_pictures([data], output)
    print(*found.left_out_in_words(), sep="\n", end="\n" * bool(found.left_out))
    scans = (read_scan(picture.path) for picture in found.pictures)
    threshold = adapt_threshold(*load_checkpoint(model), scans, normals, output, model)
    print(f"kept: thresholds; presence threshold {threshold:.3f}; use it with --model {output}")
    return 0


def rank(inputs: list[str], output: str, shown: int, model: str | None) -> int:
    """Orders scans for labelling; 2 if one of them could not be used."""
    from .inference.checkpoints import load_checkpoint
    from .inference.rank import rank_files

    if shown < 1:
        raise ValueError(f"--shown {shown} must be 1 or more.")
    ranked, problems, left_out = rank_files(*load_checkpoint(model), inputs, output, shown)
    for place, one in enumerate(ranked[:shown], 1):
        print(f"{place:3}. {one.name}")
    print(f"{len(ranked)} scans ranked; all of them are in {output}/ranking.csv, the first {shown} in ranking.png.")
    for line in left_out:
        print(line)
    for problem in problems:
        print(f"sfrecsam: {problem}", file=sys.stderr)
    return 2 if problems else 0


def card(folder: str, name: str, license: str, readme: str | None) -> None:
    """Writes the model card."""
    from .publishing.model_card import write_card
    from .publishing.readme_table import write_readme_table

    print(f"card: {write_card(folder, name, license)}")
    if readme is not None:
        write_readme_table(readme, folder)
        print(f"results table: {readme}")


def push(run: str, name: str, **options: Any) -> None:
    """Publishes a run."""
    from .publishing.push import push

    print(f"published: {push(run, name, **options)}")


def push_data(source: str, name: str, split: str | None, splits: str | None, **options: Any) -> None:
    """Publishes a data set."""
    from .data.loading import load_folder
    from .data.splits import load_parts
    from .publishing.push import checked_name, push_data

    checked_name(name)
    dataset = load_parts(source, splits) if split is None else load_folder(source, splits, split)
    print(f"published: {push_data(dataset, name, split=split, **options)}")


def demo(model: str | None, port: int | None) -> None:
    """Serves the Space."""
    from .inference.bundled import bundled_space

    sys.path.insert(0, str(bundled_space()))
    from app import launch

    launch(model, port)


def _loaded(model: str | None, device: str | None, dtype: str, batch_size: int, **options: Any) -> tuple:
    """Model, processor, batch size, and the options that were given."""
    from .inference.checkpoints import load_checkpoint

    if batch_size < 1:
        raise ValueError(f"--batch-size {batch_size} must be 1 or more.")
    for name in ("suspicion_threshold", "presence_threshold"):
        if options[name] is not None and not 0 <= options[name] <= 1:
            flag = {"suspicion_threshold": "--threshold", "presence_threshold": "--presence-threshold"}[name]
            raise ValueError(f"{flag} {options[name]:g} must be from 0 to 1.")
    if options["mc_samples"] is not None and options["mc_samples"] < 0:
        raise ValueError(f"--samples {options['mc_samples']} must be 0 or more.")
    chosen = {name: value for name, value in options.items() if value is not None}
    return *load_checkpoint(model, device, dtype), batch_size, chosen


def export(model: str | None, output: str, mc_samples: int | None) -> None:
    """Writes the exported files and tells how they differ from the model."""
    from .inference.checkpoints import load_checkpoint
    from .inference.export import export

    loaded, _ = load_checkpoint(model, device="cpu")
    if mc_samples is not None:
        loaded.config.mc_samples = mc_samples
    for file, difference in export(loaded, output).items():
        print(f"{file:16} differs from the model by {difference:.1e}")
    print(f"exported to {output}")


def data(source: str, find_duplicates: bool, splits: str | None) -> None:
    """Reports what a folder holds."""
    from .data.inspection import inspect

    print(inspect(source, find_duplicates, splits))
