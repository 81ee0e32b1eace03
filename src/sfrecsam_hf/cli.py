"""`sfrecsam`: its subcommands and their flags. What each does is in `commands.py`."""

import argparse
import sys
from importlib import import_module

from . import commands

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
        from .inference.writing import in_words

        of_the_system = isinstance(error, OSError) and error.errno and error.filename
        print(f"sfrecsam: {in_words(error, error.filename) if of_the_system else error}", file=sys.stderr)
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
    from .training.config import TrainingConfig
    from .training.flags import add_flags

    parser = argparse.ArgumentParser(prog="sfrecsam", description="Breast-ultrasound lesion segmentation.")
    jobs = parser.add_subparsers(required=True, metavar="COMMAND")

    job = jobs.add_parser("train", help="train on your own images")
    job.set_defaults(job=commands.train)
    job.add_argument("config", nargs="?", help="YAML file with any of the settings below")
    job.add_argument("--resume", action="store_true", help="go on from the last state in --output")
    job.add_argument("--folds", type=int, help="cross-validate in so many folds, then train on everything")
    add_flags(job, TrainingConfig)

    job = jobs.add_parser("predict", help="segment images: masks, overlays, uncertainty, corrections and a table")
    job.set_defaults(job=commands.predict)
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
    job.set_defaults(job=commands.evaluate)
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
    job.set_defaults(job=commands.adapt)
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
    job.set_defaults(job=commands.rank)
    job.add_argument("inputs", nargs="+", metavar="INPUT", help="image files, folders or globs; DICOM with pydicom")
    job.add_argument("--output", default="ranking", help="folder for ranking.csv and ranking.png (%(default)s)")
    job.add_argument("--shown", type=int, default=20, help="scans on the picture (%(default)s)")
    job.add_argument("--model", help="checkpoint folder or Hub name; the bundled one if left out")

    job = jobs.add_parser("card", help="write the model card from the results of an evaluation")
    job.set_defaults(job=commands.card)
    job.add_argument("folder", help="holds the checkpoint, results.json and pictures; README.md is written there")
    job.add_argument("--name", default="org/sf-recsam", help="Hub name of the model (%(default)s)")
    job.add_argument("--license", default="apache-2.0", help="licence of the weights (%(default)s)")
    job.add_argument(
        "--readme", metavar="FILE", help="also write the results table into this file, between its markers"
    )

    job = jobs.add_parser("push", help="publish a trained model on the Hub, with code, card and results")
    job.set_defaults(job=commands.push)
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
    job.set_defaults(job=commands.push_data)
    job.add_argument("source", help="folder or zip with images and masks, as for `sfrecsam data`")
    job.add_argument("name", help="Hub name, such as org/my-scans")
    job.add_argument("--split", help="publish only this split of the data")
    job.add_argument("--splits", metavar="CSV", help="table with the columns image, group and split")
    job.add_argument("--license", help="licence of the data, as the Hub writes it, such as cc-by-4.0")
    job.add_argument("--private", action="store_true", help="only you and your organisation may see it")

    job = jobs.add_parser("demo", help="serve the demo in the browser")
    job.set_defaults(job=commands.demo)
    job.add_argument("--model", help="checkpoint folder or Hub name; the bundled one if left out")
    job.add_argument("--port", type=int, help="port to serve on; the first free one from 7860 if left out")

    job = jobs.add_parser("export", help="write the model as ONNX and torch.export files, and compare them with it")
    job.set_defaults(job=commands.export)
    job.add_argument("model", nargs="?", help="checkpoint folder or Hub name; the bundled one if left out")
    job.add_argument("--output", default="exported", help="folder to write to (%(default)s)")
    job.add_argument("--samples", dest="mc_samples", type=int, help=PASSES)

    job = jobs.add_parser("data", help="report what a data folder or zip holds, and what is wrong with it")
    job.set_defaults(job=commands.data)
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


if __name__ == "__main__":
    sys.exit(main())
