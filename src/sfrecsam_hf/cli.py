"""`sfrecsam`: one subcommand a job. Heavy imports wait until a job is chosen, so that `--help` is instant."""

import argparse
import dataclasses
import re
import sys
import types
import typing

if typing.TYPE_CHECKING:
    from .inference.predict import PredictionReport


def main(arguments: list[str] | None = None) -> int:
    """Runs one subcommand and returns the exit code: 2, with one sentence, for input that cannot be used."""
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    job = options.pop("job")
    try:
        return job(**options) or 0
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"sfrecsam: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        extra = {"gradio": "demo", "onnx": "export", "onnxscript": "export", "onnxruntime": "export"}.get(
            error.name, "train"
        )
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
    job.add_argument("inputs", nargs="+", metavar="INPUT", help="image files, folders or globs; DICOM with pydicom")
    job.add_argument("--output", default="predictions", help="folder to write to (%(default)s)")
    job.add_argument("--point", type=float, nargs=2, metavar=("X", "Y"), help="click on the lesion, in pixels")
    job.add_argument("--box", type=float, nargs=4, metavar=("X1", "Y1", "X2", "Y2"), help="box around the lesion")
    job.add_argument("--resume", action="store_true", help="keep what an interrupted run has done")
    _add_inference(job)

    job = jobs.add_parser("evaluate", help="measure a checkpoint on images with masks")
    job.set_defaults(job=_evaluate)
    job.add_argument("--data", required=True, metavar="DIR", help="folder or zip with images and masks")
    job.add_argument("--output", required=True, help="folder for results.json, table and figures")
    job.add_argument("--split", help="only this split of the data")
    job.add_argument("--splits", metavar="CSV", help="table with the columns image, group and split")
    job.add_argument("--columns", nargs="+", default=["auto", "oracle-point"], help="prompts (%(default)s)")
    _add_inference(job)

    job = jobs.add_parser("card", help="write the model card of a model repository from its results")
    job.set_defaults(job=_card)
    job.add_argument("folder", help="holds a checkpoint, its results.json and figures; README.md is written there")
    job.add_argument("--name", default="org/sf-recsam", help="Hub name in the quick start (%(default)s)")
    job.add_argument("--license", default="apache-2.0", help="of the weights (%(default)s)")
    job.add_argument("--readme", metavar="FILE", help="also write the results table between this file's markers")

    job = jobs.add_parser("push", help="publish a training run on the Hub, with code, card, results and figures")
    job.set_defaults(job=_push)
    job.add_argument("run", help="--output of `sfrecsam train`, evaluated into its folder evaluation")
    job.add_argument("name", help="Hub name, such as org/sf-recsam")
    job.add_argument("--private", action="store_true", help="only you and your organisation may see it")
    job.add_argument("--adapters-only", action="store_true", help="what was trained, with a reference to the SAM")
    job.add_argument("--license", default="apache-2.0", help="of the weights (%(default)s)")
    job.add_argument(
        "--no-pictures", dest="pictures", action="store_false", help="leave worst.png out: it shows evaluated images"
    )

    job = jobs.add_parser("push-data", help="publish a data folder or zip on the Hub as a data set")
    job.set_defaults(job=_push_data)
    job.add_argument("source", help="folder or zip with images and masks, as for `sfrecsam data`")
    job.add_argument("name", help="Hub name, such as org/my-scans")
    job.add_argument("--split", help="only this split of the data")
    job.add_argument("--splits", metavar="CSV", help="table with the columns image, group and split")
    job.add_argument("--private", action="store_true", help="only you and your organisation may see it")

    job = jobs.add_parser("demo", help="serve the demo in the browser")
    job.set_defaults(job=_demo)
    job.add_argument("--model", help="checkpoint folder or Hub name; the bundled one if left out")
    job.add_argument("--port", type=int, help="port to serve on; the first free one from 7860 if left out")

    job = jobs.add_parser("export", help="write ONNX and torch.export files, checked against the model")
    job.set_defaults(job=_export)
    job.add_argument("model", nargs="?", help="checkpoint folder or Hub name; the bundled one if left out")
    job.add_argument("--output", default="exported", help="folder to write to (%(default)s)")
    job.add_argument("--samples", dest="mc_samples", type=int, help="stochastic passes; 0 for the learned uncertainty")

    job = jobs.add_parser("data", help="report what a data folder or zip holds, and what is wrong with it")
    job.set_defaults(job=_data)
    job.add_argument("source", help="folder or zip: BUSI, UDIAT, BUS-BRA, images/ with masks/, NAME and NAME_mask")
    job.add_argument(
        "--no-duplicates", dest="find_duplicates", action="store_false", help="do not look for duplicates"
    )
    return parser


def _add_inference(job: argparse.ArgumentParser) -> None:
    job.add_argument("--model", help="checkpoint folder or Hub name; the bundled one if left out")
    job.add_argument("--batch-size", type=int, default=4, help="images at a time (%(default)s)")
    job.add_argument("--device", help="such as cpu and cuda:0; the accelerator if there is one")
    job.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    job.add_argument("--samples", dest="mc_samples", type=int, help="stochastic passes; 0 for the learned uncertainty")
    job.add_argument("--threshold", dest="suspicion_threshold", type=float, help="entropy in bits that is suspicious")
    job.add_argument("--presence-threshold", type=float, help="presence below which the mask is empty; 0 for never")
    job.add_argument("--correctors", nargs="*", choices=("fp", "fn"), help="which correctors to apply; none if empty")
    job.add_argument("--mirror", action="store_const", const=True, help="average with the mirror image: twice as slow")


def _add_settings(job: argparse.ArgumentParser) -> None:
    """One flag per field of the training configuration, described by its docstring."""
    from .training.config import TrainingConfig

    described = dict(re.findall(r"^ +(\w+) \(.*?\): (.+)$", TrainingConfig.__doc__ or "", re.MULTILINE))
    for setting in dataclasses.fields(TrainingConfig):
        kind = setting.type
        text = described[setting.name].translate(str.maketrans({"`": "", "[": "", "]": "", "%": "%%"}))
        if isinstance(setting.default, (int, float, str)) and setting.default != "":
            text += f" ({setting.default})"
        options: dict[str, typing.Any] = {"default": argparse.SUPPRESS, "help": text}
        members = [member for member in typing.get_args(kind) if member is not types.NoneType]
        plain = members[0] if isinstance(kind, types.UnionType) else kind
        if typing.get_origin(plain) is list:
            options |= {"nargs": "+", "type": typing.get_args(plain)[0]}
        elif typing.get_origin(plain) is dict:
            options |= {"type": _mapping, "metavar": "YAML"}
        elif plain is bool:
            options |= {"action": argparse.BooleanOptionalAction}
        else:
            options |= {"type": plain}
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
    **inference: typing.Any,
) -> int:
    from accelerate import PartialState

    from .inference.predict import predict

    prompts: dict[str, typing.Any] = {}
    if point is not None:
        prompts |= {"input_points": [point], "input_labels": [1]}
    if box is not None:
        prompts["input_boxes"] = [box]
    model, processor, batch_size, options = _loaded(**inference)
    report = predict(model, processor, inputs, output, batch_size, prompts, resume, **options)
    if PartialState().is_main_process:
        _print_predictions(report, output)
    return 2 if report.problems else 0


def _print_predictions(report: "PredictionReport", output: str) -> None:
    print(f"{'image':32} {'presence':>8} {'area px':>8} {'diameter px':>11} {'uncertainty':>11}")
    for row in report.rows[:40]:
        shown = f"{float(row['presence']):8.3f} {row['area']:>8} {float(row['longest_diameter']):11.1f}"
        print(f"{row['image'][-32:]:32} {shown} {float(row['mean_uncertainty']):11.3f}")
    print(f"{len(report.rows)} images segmented; pictures and predictions.csv are in {output}")
    for problem in report.problems:
        print(f"sfrecsam: {problem}", file=sys.stderr)


def _evaluate(
    data: str, output: str, split: str | None, splits: str | None, columns: list[str], **inference: typing.Any
) -> None:
    from pathlib import Path

    from .data.loading import load_folder
    from .evaluation.evaluate import evaluate, table, write_report
    from .modeling.segmentation import segment
    from .training.summary import machine_name

    dataset = load_folder(data, splits, split)
    model, processor, batch_size, options = _loaded(**inference)
    results, pixels = evaluate(model, processor, dataset, columns, batch_size, **options)
    source = inference["model"] or "bundled"
    about = {
        "model": Path(source).name if Path(source).exists() else source,
        "data": Path(data).name.removesuffix(".zip"),
        "split": split,
        "options": options,
        "dtype": inference["dtype"],
        "machine": machine_name(model.device),
    }
    results = about | results

    def redraw(indices: list[int]) -> typing.Any:
        prompts = {"presence_threshold": 0.0} | options
        return segment(model, processor, dataset.select(indices)["image"], batch_size, **prompts)

    write_report(Path(output), results, pixels, dataset, redraw)
    print(table(results))
    print(f"results.json, results.md, worst.png and reliability.png are in {output}")


def _card(folder: str, name: str, license: str, readme: str | None) -> None:
    from pathlib import Path

    from .publishing.model_card import write_card, write_table

    print(f"card: {write_card(folder, name, license)}")
    if readme is not None:
        write_table(Path(readme), Path(folder) / "results.json")
        print(f"results table: {readme}")


def _push(run: str, name: str, **options: typing.Any) -> None:
    from .publishing.push import push

    print(f"published: {push(run, name, **options)}")


def _push_data(source: str, name: str, split: str | None, splits: str | None, private: bool) -> None:
    from .data.loading import load_folder
    from .publishing.push import checked_name, push_data

    checked_name(name)
    print(f"published: {push_data(load_folder(source, splits, split), name, split, private)}")


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


def _data(source: str, find_duplicates: bool) -> None:
    from .data.inspection import inspect

    print(inspect(source, find_duplicates))


if __name__ == "__main__":
    sys.exit(main())
