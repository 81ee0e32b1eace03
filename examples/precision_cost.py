"""What half precision, 8 bits, compilation and ONNX gain in time, and the accuracy that each costs.

    python examples/precision_cost.py
    python examples/precision_cost.py --data Dataset_BUSI_with_GT --splits splits.csv --split val

Every variant of one checkpoint answers the same batches, in turn, so that a busy machine slows all of them alike;
ratios are taken within a batch, and their median and middle half are shown. Writes precision_cost.json and .md.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sfrecsam_hf.data.loading import load_folder
from sfrecsam_hf.evaluation.metrics import overlap
from sfrecsam_hf.inference.bundled import bundled_checkpoint, bundled_space
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.modeling.model_outputs import SFRecSamOutput
from sfrecsam_hf.modeling.segmentation import segmentations

Answer = Callable[[dict[str, torch.Tensor]], SFRecSamOutput]
PLAIN = "float32"


def in_precision(name: str, checkpoint: str, device: str) -> Answer:
    """The model with weights and activations of that precision."""
    model, _ = load_checkpoint(checkpoint, device, name)
    return lambda inputs: model(**inputs | {"pixel_values": inputs["pixel_values"].to(model.dtype)})


def in_8_bits(checkpoint: str) -> Answer:
    """The model whose encoder holds its linear weights in 8 bits and rounds what they are multiplied with."""
    model, _ = load_checkpoint(checkpoint, "cpu")
    model.vision_encoder = torch.ao.quantization.quantize_dynamic(model.vision_encoder, {nn.Linear}, torch.qint8)
    return lambda inputs: model(**inputs)


def compiled(checkpoint: str, device: str) -> Answer:
    """The model as one compiled graph."""
    model, _ = load_checkpoint(checkpoint, device)
    forward = torch.compile(model.forward, dynamic=True)
    return lambda inputs: forward(**inputs)


def as_onnx(checkpoint: str) -> Answer:
    """The exported end-to-end graph on onnxruntime, with as many threads as torch."""
    import onnxruntime

    from sfrecsam_hf.inference.export import ANSWER, export

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        export(load_checkpoint(checkpoint, "cpu")[0], folder)
        session = onnxruntime.InferenceSession(Path(folder) / "automatic.onnx", settings)

    def answer(inputs: dict[str, torch.Tensor]) -> SFRecSamOutput:
        side = inputs["pixel_values"].shape[-1]
        inside = [torch.arange(side) < inputs["reshaped_input_sizes"][:, axis, None] for axis in (0, 1)]
        mask = (inside[0][:, :, None] & inside[1][:, None]).long()
        found = session.run(None, {"pixel_values": inputs["pixel_values"].numpy(), "pixel_mask": mask.numpy()})
        given = {name: torch.from_numpy(value) for name, value in zip(ANSWER, found, strict=True)}
        return SFRecSamOutput(
            pred_masks=given["probability"].logit(1e-7)[:, None],
            initial_masks=given["initial_probability"].logit(1e-7)[:, None],
            mean_probability=given["probability"][:, None],
            predictive_entropy=given["uncertainty"][:, None],
            presence_logits=given["presence"].logit(1e-7),
            iou_scores=given["iou_score"][:, None, None],
        )

    return answer


def measure(
    answers: dict[str, Answer], processor: Any, dataset: Any, batch_size: int, device: str
) -> dict[str, dict[str, Any]]:
    """Mean Dice and IoU of lesion images, largest change of a probability, and time, of every variant."""
    found: dict[str, dict[str, list[float]]] = {
        name: {"dice": [], "iou": [], "change": [], "seconds": []} for name in answers
    }
    for first in range(0, len(dataset), batch_size):
        rows = dataset[first : first + batch_size]
        inputs = {name: value.to(device) for name, value in processor(rows["image"]).items()}
        truths = [np.asarray(mask) > 0 for mask in rows["mask"]]
        if not first:  # what is made or chosen at the first call is no part of the time
            for answer in answers.values():
                answer(inputs)
        expected = None
        for name, answer in answers.items():
            start = time.perf_counter()
            outputs = answer(inputs)
            outputs.pred_masks.cpu()
            found[name]["seconds"].append((time.perf_counter() - start) / len(truths))
            probability = outputs.pred_masks.float().sigmoid()
            expected = probability if expected is None else expected
            found[name]["change"].append(float((probability - expected).abs().max()))
            for segmentation, truth in zip(
                segmentations(outputs, [truth.shape for truth in truths], processor.image_processor),
                truths,
                strict=True,
            ):
                if truth.any():
                    agreed = overlap(segmentation.mask, truth)
                    found[name]["dice"].append(agreed["dice"])
                    found[name]["iou"].append(agreed["iou"])
    return {
        name: {
            "dice": statistics.fmean(values["dice"]),
            "iou": statistics.fmean(values["iou"]),
            "largest_change": max(values["change"]),
            "seconds_per_image": statistics.median(values["seconds"]),
            "time_over_float32": spread(
                [ours / plain for ours, plain in zip(values["seconds"], found[PLAIN]["seconds"], strict=True)]
            ),
        }
        for name, values in found.items()
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median and middle half."""
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"median": statistics.median(values), "low": low, "high": high}


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = [f"{report['model']} on {report['images']} images of {report['data']}; {report['machine']}.", ""]
    lines += ["| variant | Dice | IoU | largest change of a probability | ms per image | time / float32 |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, row in report["variants"].items():
        ratio = row["time_over_float32"]
        lines.append(
            f"| {name} | {row['dice']:.4f} | {row['iou']:.4f} | {row['largest_change']:.1e} "
            f"| {row['seconds_per_image'] * 1e3:.1f} "
            f"| {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}) |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Measures the variants, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=bundled_space() / "samples", help="folder or zip with images and masks")
    parser.add_argument("--splits", help="table with the columns image, group and split")
    parser.add_argument("--split", help="only this split of the data")
    parser.add_argument("--model", default=bundled_checkpoint(), help="checkpoint; the bundled one if left out")
    parser.add_argument("--device", default="cpu", help="such as cuda; int8 and onnx are for the CPU")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--variants", nargs="+", help="some of float32, bfloat16, float16, int8, compiled, onnx")
    parser.add_argument("--output", type=Path, default=Path("precision"), help="folder to write to (%(default)s)")
    options = parser.parse_args()

    where = (str(options.model), options.device)
    makers: dict[str, Callable[[], Answer]] = {
        name: lambda name=name: in_precision(name, *where) for name in (PLAIN, "bfloat16", "float16")
    }
    makers["compiled"] = lambda: compiled(*where)
    if options.device == "cpu":
        makers |= {"int8": lambda: in_8_bits(where[0]), "onnx": lambda: as_onnx(where[0])}
    chosen = [PLAIN, *(name for name in options.variants or makers if name != PLAIN)]
    if unknown := set(chosen) - makers.keys():
        parser.error(f"{sorted(unknown)} are unknown; choose from {', '.join(makers)}")

    dataset = load_folder(options.data, options.splits, options.split)
    _, processor = load_checkpoint(*where)
    with torch.inference_mode():
        rows = measure(
            {name: makers[name]() for name in chosen}, processor, dataset, options.batch_size, options.device
        )
    threads = f"{torch.get_num_threads()} CPU threads" if options.device == "cpu" else torch.cuda.get_device_name()
    report = {
        "model": Path(options.model).name,
        "data": Path(options.data).name,
        "split": options.split,
        "images": len(dataset),
        "batch_size": options.batch_size,
        "machine": f"{platform.machine()}, {threads}, torch {torch.__version__}",
        "variants": rows,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "precision_cost.json").write_text(json.dumps(report, indent=2))
    (options.output / "precision_cost.md").write_text(table(report))
    print(table(report))


if __name__ == "__main__":
    main()
