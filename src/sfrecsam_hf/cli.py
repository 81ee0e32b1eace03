"""`sfrecsam`: one subcommand a job. Heavy imports wait until a job is chosen, so that `--help` is instant."""

import argparse
import dataclasses
import sys
import types
import typing
from importlib import import_module

if typing.TYPE_CHECKING:
    from .inference.predict import PredictionReport


PASSES = "stochastic passes for the uncertainty; with 0 a small head predicts it; the model's own if left out"
# The extra that brings a package, for what `train` does not bring.
EXTRAS = {"gradio": "demo", "onnx": "export", "onnxscript": "export", "onnxruntime": "export"}
EXTRAS |= {"av": "video", "pydicom": "dicom", "pylibjpeg": "dicom", "highdicom": "formats", "nibabel": "formats"}


def main(arguments: list[str] | None = None) -> int:
    """Runs one subcommand and returns the exit code: 2, with one sentence, for input that cannot be used."""
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    job = options.pop("job")
    try:
        import_module(".registration", __package__)
        return job(**options) or 0
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"sfrecsam: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0], "train")
        print(f"sfrecsam: {error.name} is missing; run `pip install 'sfrecsam-hf[{extra}]'`.", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        remedy = str(stop) or ("the same command with --resume goes on from there" if "resume" in options else "")
        print(f"sfrecsam: interrupted{remedy and '; '}{remedy}.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sfrecsam", description="Breast-ultrasound lesion segmentation.")
    jobs = parser.add_subparsers(required=True, metavar="COMMAND")

    job = jobs.add_parser("train", help="train on your own images")
    job.set_defaults(job=_train)
    job.add_argument("config", nargs="?", help="YAML file with any of the settings below")
    job.add_argument("--resume", action="store_true", help="go on from the last state in --output")
    job.add_argument("--folds", type=int, help="cross-validate in so many folds, then train on everything")
    _add_settings(job)

    job = jobs.add_parser("predict", help="segment images: masks, overlays, uncertainty, corrections and a table")
    job.set_defaults(job=_predict)
    job.add_argument("inputs", nargs="+", metavar="INPUT", help="images, clips, folders or globs; DICOM with pydicom")
    job.add_argument("--output", default="predictions", help="folder to write to (%(default)s)")
    job.add_argument("--point", type=float, nargs=2, metavar=("X", "Y"), help="click on the lesion, in pixels")
    job.add_argument("--box", type=float, nargs=4, metavar=("X1", "Y1", "X2", "Y2"), help="box around the lesion")
    job.add_argument(
        "--resume", action="store_true", help="keep what an earlier run has done with the same file and settings"
    )
    job.add_argument("--frame", type=int, default=1, help="frame of a clip that --point or --box is on (%(default)s)")
    job.add_argument(
        "--mm-per-pixel", type=float, metavar="MM", help="size of a pixel, for images that do not tell it themselves"
    )
    job.add_argument(
        "--format",
        dest="formats",
        nargs="+",
        default=[],
        metavar="FORMAT",
        help="also write coco (polygons), coco-rle, labels (numbered PNG), contours (CSV), geojson, nifti, dicom-seg "
        "or dicom-sc (the overlay)",
    )
    job.add_argument("--report", action="store_true", help="also write report.html, a page to look through")
    job.add_argument(
        "--no-tidy",
        dest="tidy",
        action="store_const",
        const=False,
        help="masks as the model says them: no smoothing, with holes, specks and pieces on burnt-in text",
    )
    _add_inference(job)

    job = jobs.add_parser("evaluate", help="measure a checkpoint on images that have masks")
    job.set_defaults(job=_evaluate)
    job.add_argument("--data", required=True, metavar="DIR", help="folder or zip with images and masks")
    job.add_argument("--output", required=True, help="folder for results.json, tables and pictures")
    job.add_argument("--split", help="evaluate only this split of the data")
    job.add_argument("--splits", metavar="CSV", help="table with the columns image, group and split")
    job.add_argument("--exclude", metavar="CSV", help="table of images to leave out, such as BUSI's objections.csv")
    job.add_argument(
        "--include-training-images",
        action="store_true",
        help="also measure on images that the checkpoint was trained on, and on their near-duplicates and patients",
    )
    job.add_argument(
        "--columns",
        nargs="+",
        default=["auto", "oracle-point"],
        help="prompts to measure: auto uses the image alone, oracle-point clicks on the true lesion (both)",
    )
    _add_inference(job)

    job = jobs.add_parser("adapt", help="fit a checkpoint to the scans of another hospital, with 10 to 50 of them")
    job.set_defaults(job=_adapt)
    job.add_argument("--data", required=True, metavar="SITE", help="folder or zip with the site's images and masks")
    job.add_argument(
        "--normals",
        type=float,
        metavar="SHARE",
        help="expected share of normal scans, for a SITE without masks: only the presence threshold is fitted",
    )
    job.add_argument("--output", required=True, help="folder for the difference to the base, and the report")
    job.add_argument("--images", type=int, help="so many images, drawn at random; all if left out")
    job.add_argument("--model", help="the base: checkpoint folder or Hub name; the bundled one if left out")
    job.add_argument("--steps", type=int, default=40, help="optimizer steps of each fit (%(default)s)")
    job.add_argument("--seed", type=int, default=0, help="of the drawing, the folds and the fit (%(default)s)")

    job = jobs.add_parser("rank", help="order unlabelled scans by what labelling them would teach")
    job.set_defaults(job=_rank)
    job.add_argument("inputs", nargs="+", metavar="INPUT", help="image files, folders or globs; DICOM with pydicom")
    job.add_argument("--output", default="ranking", help="folder for ranking.csv and ranking.png (%(default)s)")
    job.add_argument("--shown", type=int, default=20, help="scans on the picture (%(default)s)")
    job.add_argument("--model", help="checkpoint folder or Hub name; the bundled one if left out")

    job = jobs.add_parser("card", help="write the model card from the results of an evaluation")
    job.set_defaults(job=_card)
    job.add_argument("folder", help="holds the checkpoint, results.json and pictures; README.md is written there")
    job.add_argument("--name", default="org/sf-recsam", help="Hub name of the model (%(default)s)")
    job.add_argument("--license", default="apache-2.0", help="licence of the weights (%(default)s)")
    job.add_argument(
        "--readme", metavar="FILE", help="also write the results table into this file, between its markers"
    )

    job = jobs.add_parser("push", help="publish a trained model on the Hub, with code, card and results")
    job.set_defaults(job=_push)
    job.add_argument("run", help="the --output of `sfrecsam train`, evaluated into its folder evaluation/")
    job.add_argument("name", help="Hub name, such as org/sf-recsam")
    job.add_argument("--private", action="store_true", help="only you and your organisation may see it")
    job.add_argument(
        "--adapters-only", action="store_true", help="upload only the trained weights; the SAM is loaded from the Hub"
    )
    job.add_argument("--license", default="apache-2.0", help="licence of the weights (%(default)s)")
    job.add_argument(
        "--no-pictures",
        dest="pictures",
        action="store_false",
        help="leave out worst.png, which shows evaluated images",
    )

    job = jobs.add_parser("push-data", help="publish images and masks on the Hub as a data set")
    job.set_defaults(job=_push_data)
    job.add_argument("source", help="folder or zip with images and masks, as for `sfrecsam data`")
    job.add_argument("name", help="Hub name, such as org/my-scans")
    job.add_argument("--split", help="publish only this split of the data")
    job.add_argument("--splits", metavar="CSV", help="table with the columns image, group and split")
    job.add_argument("--license", help="licence of the data, as the Hub writes it, such as cc-by-4.0")
    job.add_argument("--private", action="store_true", help="only you and your organisation may see it")

    job = jobs.add_parser("demo", help="serve the demo in the browser")
    job.set_defaults(job=_demo)
    job.add_argument("--model", help="checkpoint folder or Hub name; the bundled one if left out")
    job.add_argument("--port", type=int, help="port to serve on; the first free one from 7860 if left out")

    job = jobs.add_parser("export", help="write the model as ONNX and torch.export files, and compare them with it")
    job.set_defaults(job=_export)
    job.add_argument("model", nargs="?", help="checkpoint folder or Hub name; the bundled one if left out")
    job.add_argument("--output", default="exported", help="folder to write to (%(default)s)")
    job.add_argument("--samples", dest="mc_samples", type=int, help=PASSES)

    job = jobs.add_parser("data", help="report what a data folder or zip holds, and what is wrong with it")
    job.set_defaults(job=_data)
    job.add_argument(
        "source",
        help="folder, zip or Hub data set: class folders, images/ with masks/, NAME and NAME_mask, COCO, DICOM-SEG",
    )
    job.add_argument("--splits", metavar="CSV", help="also check this table with the columns image, group and split")
    job.add_argument(
        "--no-duplicates", dest="find_duplicates", action="store_false", help="do not look for duplicates"
    )
    return parser


def _add_inference(job: argparse.ArgumentParser) -> None:
    job.add_argument("--model", help="checkpoint folder or Hub name; the bundled one if left out")
    job.add_argument("--batch-size", type=int, default=4, help="images segmented at a time (%(default)s)")
    job.add_argument("--device", help="device, such as cpu or cuda:0; a GPU if there is one")
    job.add_argument(
        "--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="of the weights (%(default)s)"
    )
    job.add_argument("--samples", dest="mc_samples", type=int, help=PASSES)
    job.add_argument(
        "--threshold",
        dest="suspicion_threshold",
        type=float,
        metavar="BITS",
        help="uncertainty, from 0 to 1 bit, above which a pixel may be corrected",
    )
    job.add_argument(
        "--presence-threshold", type=float, help="probability of a lesion below which the mask is left empty; 0: never"
    )
    job.add_argument(
        "--correctors",
        nargs="*",
        choices=("fp", "fn"),
        help="correctors to apply: fp removes false foreground, fn adds missed foreground; no value: none",
    )
    job.add_argument(
        "--mirror", action="store_const", const=True, help="average with the mirror image; takes twice the time"
    )


def _add_settings(job: argparse.ArgumentParser) -> None:
    """
    One flag per field of the training configuration.

    Not by transformers' `HfArgumentParser`: it knows no flag that is left out, so that a YAML file could not speak.
    """
    from .training.config import TrainingConfig

    for setting in dataclasses.fields(TrainingConfig):
        text = setting.metadata["help"].replace("%", "%%")
        if isinstance(setting.default, (int, float, str)):
            text += f" Default: {setting.default}."
        options: dict[str, typing.Any] = {"default": argparse.SUPPRESS, "help": text}
        kind: typing.Any = setting.type
        if isinstance(kind, types.UnionType):
            kind = typing.get_args(kind)[0]  # the other is None
        if typing.get_origin(kind) is list:
            options |= {"nargs": "+", "type": typing.get_args(kind)[0]}
        elif typing.get_origin(kind) is dict:
            options |= {"type": _mapping, "metavar": "YAML"}
        elif kind is bool:
            options |= {"action": argparse.BooleanOptionalAction}
        else:
            options |= {"type": kind}
        job.add_argument(f"--{setting.name.replace('_', '-')}", **options)


def _mapping(text: str) -> dict:
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("expected a mapping such as '{fusion: spatial}'")
    return value


def _train(config: str | None, resume: bool, folds: int | None, **settings: typing.Any) -> None:
    from .training.config import TrainingConfig
    from .training.folds import train_folds
    from .training.trainer import train

    chosen = TrainingConfig.from_yaml(config, **settings)
    best = train(chosen, resume) if folds is None else train_folds(chosen, folds, resume)
    print(f"best checkpoint: {best}")


def _predict(
    inputs: list[str],
    output: str,
    point: list[float] | None,
    box: list[float] | None,
    resume: bool,
    mm_per_pixel: float | None,
    formats: list[str],
    report: bool,
    frame: int,
    **inference: typing.Any,
) -> int:
    import math

    from accelerate import PartialState

    from .inference.formats import check
    from .inference.predict import predict

    prompts: dict[str, typing.Any] = {}
    if point is not None:
        prompts |= {"input_points": [point], "input_labels": [1]}
    if box is not None:
        if not (box[0] < box[2] and box[1] < box[3]):
            raise ValueError(f"--box {' '.join(f'{side:g}' for side in box)} has no area; give X1 < X2 and Y1 < Y2.")
        prompts["input_boxes"] = [box]
    if mm_per_pixel is not None and not 0 < mm_per_pixel < math.inf:
        raise ValueError(f"--mm-per-pixel {mm_per_pixel:g} must be a length above 0.")
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


def _evaluate(
    data: str,
    output: str,
    split: str | None,
    splits: str | None,
    exclude: str | None,
    include_training_images: bool,
    columns: list[str],
    **inference: typing.Any,
) -> None:
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
    dataset = load_split(data, split, splits, without=exclude)
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


def _adapt(
    data: str, output: str, normals: float | None, images: int | None, model: str | None, steps: int, seed: int
) -> int:
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
    from .data.dicom import is_dicom, read_dicom
    from .inference.checkpoints import load_checkpoint
    from .inference.inputs import find_pictures
    from .modeling.image_reading import read_rgb
    from .training.adapt import adapt_threshold

    found = find_pictures([data], output)
    print(*found.left_out_in_words(), sep="\n", end="\n" * bool(found.left_out))
    paths = (picture.path for picture in found.pictures)
    scans = (read_dicom(path)[0] if is_dicom(path) else read_rgb(path) for path in paths)
    threshold = adapt_threshold(*load_checkpoint(model), scans, normals, output, model)
    print(f"kept: thresholds; presence threshold {threshold:.3f}; use it with --model {output}")
    return 0


def _rank(inputs: list[str], output: str, shown: int, model: str | None) -> int:
    from .inference.checkpoints import load_checkpoint
    from .inference.rank import rank_files

    if shown < 1:
        raise ValueError(f"--shown {shown} must be 1 or more.")
    ranked, problems = rank_files(*load_checkpoint(model), inputs, output, shown)
    for place, one in enumerate(ranked[:shown], 1):
        print(f"{place:3}. {one.name}")
    print(f"{len(ranked)} scans ranked; all of them are in {output}/ranking.csv, the first {shown} in ranking.png.")
    for problem in problems:
        print(f"sfrecsam: {problem}", file=sys.stderr)
    return 2 if problems else 0


def _card(folder: str, name: str, license: str, readme: str | None) -> None:

    from .publishing.model_card import write_card
    from .publishing.readme_table import write_readme_table

    print(f"card: {write_card(folder, name, license)}")
    if readme is not None:
        write_readme_table(readme, folder)
        print(f"results table: {readme}")


def _push(run: str, name: str, **options: typing.Any) -> None:
    from .publishing.push import push

    print(f"published: {push(run, name, **options)}")


def _push_data(source: str, name: str, split: str | None, splits: str | None, **options: typing.Any) -> None:
    from .data.loading import load_folder
    from .data.splits import load_parts
    from .publishing.push import checked_name, push_data

    checked_name(name)
    dataset = load_parts(source, splits) if split is None else load_folder(source, splits, split)
    print(f"published: {push_data(dataset, name, split=split, **options)}")


def _demo(model: str | None, port: int | None) -> None:
    from .inference.bundled import bundled_space

    sys.path.insert(0, str(bundled_space()))
    from app import launch

    launch(model, port)


def _loaded(model: str | None, device: str | None, dtype: str, batch_size: int, **options: typing.Any) -> tuple:
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


def _export(model: str | None, output: str, mc_samples: int | None) -> None:
    from .inference.checkpoints import load_checkpoint
    from .inference.export import export

    loaded, _ = load_checkpoint(model, device="cpu")
    if mc_samples is not None:
        loaded.config.mc_samples = mc_samples
    for file, difference in export(loaded, output).items():
        print(f"{file:16} differs from the model by {difference:.1e}")
    print(f"exported to {output}")


def _data(source: str, find_duplicates: bool, splits: str | None) -> None:
    from .data.inspection import inspect

    print(inspect(source, find_duplicates, splits))


if __name__ == "__main__":
    sys.exit(main())
