"""Cost, speed and memory of SF-RecSAM, as it is, in bfloat16, compiled and as ONNX, beside plain SAM and a U-Net.

    python examples/benchmark.py                                   # on the CPU, and on a GPU if there is one
    python examples/benchmark.py --flops-only                      # takes seconds: counts operations, runs nothing
    python examples/benchmark.py --sizes tiny --repeats 5 --modes inference

Weights are random. Rivals are timed in turn, round after round, so that a busy machine slows all of them alike. Ratios
are taken within a round; their median and middle half are shown. Writes `benchmark.json` and `benchmark.md`.
"""

import argparse
import ctypes
import gc
import importlib.util
import itertools
import multiprocessing
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from tables import as_table, spread, write
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm
from transformers import SamConfig, SamModel

from sfrecsam_hf import SFRecSamConfig, SFRecSamImageProcessor, SFRecSamModel
from sfrecsam_hf.modeling.segmentation import segmentations

SIZES = {"tiny": SFRecSamConfig.tiny, "base": SFRecSamConfig.base, "sam-1024": SFRecSamConfig.sam_geometry}
SAMPLES = 8
OURS, ONE_PASS = "SF-RecSAM", "SF-RecSAM T=0"
BFLOAT16, COMPILED, ONNX = "SF-RecSAM bfloat16", "SF-RecSAM compiled", "SF-RecSAM ONNX"
PLAIN, REPEATED, UNET = "SamModel", f"SamModel {SAMPLES} passes", "MONAI U-Net"
RIVALS = (OURS, ONE_PASS, BFLOAT16, COMPILED, ONNX, PLAIN, REPEATED, UNET)
TRAINED = (OURS, PLAIN, UNET)
NETWORKS = (OURS, ONE_PASS, PLAIN, REPEATED, UNET)  # the others are the first in another form: the same operations


class RepeatedPasses(nn.Module):
    """How the published release corrects: the whole network once per jittered prompt."""

    def __init__(self, sam: SamModel):
        super().__init__()
        self.sam = sam

    def forward(self, pixel_values: torch.Tensor, input_boxes: torch.Tensor) -> torch.Tensor:
        passes = [self.sam(pixel_values, input_boxes=input_boxes + shift).pred_masks for shift in range(SAMPLES)]
        return torch.stack(passes).mean(0)


def plain_sam(config: SFRecSamConfig) -> SamModel:
    """A `SamModel` with our encoder's geometry: as many tokens, the same width, depth and windows."""
    ours = config.vision_config
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "window_size", "output_channels")
    vision = {name: getattr(ours, name) for name in names}
    vision |= {"global_attn_indexes": list(ours.global_attn_indexes), "num_pos_feats": ours.num_pos_feats}
    vision["initializer_range"] = ours.initializer_range  # with SAM's own, 1e-10, a CPU trains on denormal numbers
    # SAM's kernel is as wide as its stride, so the same token grid and kernel need a larger picture.
    image_size = ours.patch_kernel_size * ours.image_size // ours.patch_size
    grid = {"image_size": image_size, "patch_size": ours.patch_kernel_size}
    prompt = {"hidden_size": config.prompt_encoder_config.hidden_size, **grid}
    decoder = config.mask_decoder_config
    sam = SamConfig(
        vision_config={**vision, **grid},
        prompt_encoder_config=prompt,
        mask_decoder_config={
            name: getattr(decoder, name) for name in ("hidden_size", "mlp_dim", "iou_head_hidden_dim")
        },
    )
    return SamModel._from_config(sam)


def build(rival: str, size: str) -> tuple[nn.Module, dict[str, tuple[int, ...]], dict]:
    """A rival with random weights, the shapes of the tensors it takes (without the batch), and its other arguments."""
    config = SIZES[size]()
    image = (3, config.vision_config.image_size, config.vision_config.image_size)
    if rival.startswith(OURS):
        arguments = {"mc_samples": 0 if rival == ONE_PASS else SAMPLES, "presence_threshold": 0.0}
        return SFRecSamModel(config), {"pixel_values": image}, arguments
    if rival == UNET:
        from monai.networks.nets import BasicUNet

        return BasicUNet(2, 3, 1), {"x": image}, {}
    sam = plain_sam(config)
    side = sam.config.vision_config.image_size
    shapes = {"pixel_values": (3, side, side), "input_boxes": (1, 4)}
    if rival == REPEATED:
        return RepeatedPasses(sam), shapes, {}
    return sam, shapes, {"multimask_output": False}


def inputs_of(shapes: dict[str, tuple[int, ...]], batch: int, device: str) -> dict[str, torch.Tensor]:
    inputs = {name: torch.randn(batch, *shape, device=device) for name, shape in shapes.items()}
    if "input_boxes" in inputs:
        inputs["input_boxes"] = torch.tensor([[[60.0, 50.0, 180.0, 160.0]]], device=device).repeat(batch, 1, 1)
    return inputs


def count(rival: str, size: str) -> dict[str, float]:
    """Operations of one image and numbers in the model, counted on the meta device without computing anything."""
    with torch.device("meta"):
        model, shapes, arguments = build(rival, size)
        inputs = inputs_of(shapes, 1, "meta")
    if rival in (OURS, ONE_PASS):
        model.set_attn_implementation("eager")  # the matrix products that attention consists of
    model.eval().requires_grad_(False)
    with torch.no_grad(), FlopCounterMode(display=False, depth=2) as counter:
        model(**inputs, **arguments)
    parts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items() if name.count(".") == 1}
    return {
        "gflop": counter.get_total_flops() / 1e9,
        "parameters_million": sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        "gflop_by_part": {name.split(".")[1]: flops / 1e9 for name, flops in parts.items()},
    }


def step_of(rival: str, size: str, mode: str, device: str, batch: int, dtype: str) -> Callable[[], None]:
    """One inference or training step, ready to run."""
    if rival == ONNX:
        return onnx_step(size, batch)
    model, shapes, arguments = build(rival, size)
    dtype = "bfloat16" if rival == BFLOAT16 else dtype
    model = model.to(device, getattr(torch, dtype) if mode == "inference" else None)
    inputs = inputs_of(shapes, batch, device)
    precision = next(model.parameters()).dtype
    inputs |= {name: value.to(precision) for name, value in inputs.items() if name in ("pixel_values", "x")}
    if mode == "inference":
        model.eval()
        call = torch.compile(model, dynamic=True) if rival == COMPILED else model

        def infer() -> None:
            with torch.inference_mode():
                call(**inputs, **arguments)

        return infer
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    if rival.startswith(OURS):
        model.train_stage(1)
        side = SIZES[size]().vision_config.image_size
        inputs["labels"] = (torch.rand(batch, side, side, device=device) > 0.7).float()

    def train() -> None:
        optimizer.zero_grad()
        outputs = model(**inputs, **arguments)
        if rival.startswith(OURS):
            loss = outputs.loss
        else:
            loss = (outputs.pred_masks if hasattr(outputs, "pred_masks") else outputs).square().mean()
        loss.backward()
        optimizer.step()

    return train


def onnx_step(size: str, batch: int) -> Callable[[], None]:
    """The exported graph on onnxruntime, with as many threads as torch."""
    import onnxruntime

    from sfrecsam_hf.inference.export import export

    model, shapes, arguments = build(ONNX, size)
    model.config.mc_samples = arguments["mc_samples"]
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        export(model.eval(), folder)
        session = onnxruntime.InferenceSession(Path(folder, "automatic.onnx"), settings)
    pixels = torch.randn(batch, *shapes["pixel_values"]).numpy()
    inputs = {"pixel_values": pixels, "pixel_mask": np.ones((batch, *pixels.shape[-2:]), np.int64)}
    return lambda: session.run(None, inputs)


def seconds(step: Callable[[], None], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(rival: str, size: str, mode: str, device: str, batch: int, dtype: str) -> float:
    """Peak memory of one step in MiB, in a process of its own, beyond what that holds before the model is built."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak, (rival, size, mode, device, batch, dtype, torch.get_num_threads()))


def _peak(rival: str, size: str, mode: str, device: str, batch: int, dtype: str, threads: int) -> float:
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(threads)
    if device == "cuda":
        step = step_of(rival, size, mode, device, batch, dtype)
        step()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() / 2**20
    before = _peak_resident_kib()
    step_of(rival, size, mode, device, batch, dtype)()
    return (_peak_resident_kib() - before) / 1024


def _peak_resident_kib() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux hands ru_maxrss down from the parent process; VmHWM is this process's own.
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))


def measure(rivals: list[str], size: str, mode: str, device: str, options: argparse.Namespace) -> dict[str, dict]:
    """Seconds per image, images per second and peak memory of every rival, and their ratios to ours."""
    dtype = options.gpu_dtype if device == "cuda" else "float32"
    samples: dict[str, list[float]] = {rival: [] for rival in rivals}
    steps = {rival: step_of(rival, size, mode, device, options.batch_size, dtype) for rival in rivals}
    for step in steps.values():
        step()
    for _ in range(options.repeats):
        for rival, step in steps.items():
            samples[rival].append(seconds(step, device) / options.batch_size)
    del steps
    tidy()
    rows = {}
    for rival in rivals:
        ratios = [theirs / ours for theirs, ours in zip(samples[rival], samples[OURS], strict=True)]
        latency = spread(samples[rival])
        rows[rival] = {
            "seconds_per_image": latency,
            "images_per_second": 1 / latency["median"],
            "time_over_ours": spread(ratios),
        }
        if options.memory and rival not in (COMPILED, ONNX):  # their peak would be that of compiling and exporting
            rows[rival]["peak_mib"] = peak_memory(rival, size, mode, device, options.batch_size, dtype)
    for row in rows.values():
        if "peak_mib" in row:
            row["memory_over_ours"] = row["peak_mib"] / max(rows[OURS]["peak_mib"], 1)
    return rows


def tidy() -> None:
    """Gives freed memory back to the system, so that one measurement does not weigh on the next."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if platform.system() == "Linux":
        ctypes.CDLL(None).malloc_trim(0)


def stages(size: str, device: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """
    Seconds per image that each stage of an automatic answer takes.

    Encode and post-process are timed by themselves. The others are differences: what an answer without passes and
    correction takes after encoding, what the passes add to it, and what the correction adds.
    """
    model, shapes, _ = build(OURS, size)
    model = model.to(device).eval()
    processor = SFRecSamImageProcessor(image_size=model.config.vision_config.image_size, do_crop_border=False)
    pixels = inputs_of(shapes, options.batch_size, device)["pixel_values"]
    sizes = [(480, 560)] * options.batch_size
    taken: dict[str, list[float]] = {}
    with torch.inference_mode():
        encoded = model.encode(pixels)

        def answer(passes: int, correctors: tuple[str, ...]) -> object:
            return model(image_embeddings=encoded, mc_samples=passes, correctors=correctors, presence_threshold=0.0)

        outputs = answer(SAMPLES, ("fp", "fn"))
        jobs: dict[str, Callable[[], object]] = {
            "encode": lambda: model.encode(pixels),
            "decode": lambda: answer(0, ()),
            "sample": lambda: answer(SAMPLES, ()),
            "correct": lambda: answer(SAMPLES, ("fp", "fn")),
            "post-process": lambda: segmentations(outputs, sizes, processor),
        }
        for job in jobs.values():
            job()
        for _ in range(options.repeats):
            for name, job in jobs.items():
                taken.setdefault(name, []).append(seconds(job, device) / options.batch_size)
    for later, earlier in (("correct", "sample"), ("sample", "decode")):
        taken[later] = [more - less for more, less in zip(taken[later], taken[earlier], strict=True)]
    return {name: spread(values) for name, values in taken.items()}


def table(report: dict) -> str:
    """The report as Markdown."""
    parts = [f"{report['machine']}; T = {SAMPLES}; one box for SamModel, no prompt for ours.\n"]
    for size, rows in report["cost"].items():
        ours = rows[OURS]
        lines = [
            (name, f"{row['gflop']:.1f}", f"{row['gflop'] / ours['gflop']:.2f}", f"{row['parameters_million']:.1f} M")
            for name, row in rows.items()
        ]
        shares = ", ".join(f"{name} {value:.1f}" for name, value in ours["gflop_by_part"].items() if value >= 0.05)
        parts.append(f"## Operations, {size}\n\n{as_table(('model', 'GFLOP', 'of ours', 'parameters'), lines)}")
        parts.append(f"GFLOP of ours by part: {shares}\n")
    for run in report["runs"]:
        heads = ("model", "ms per image", "images/s", "time / ours", "peak MiB", "memory / ours")
        lines = [
            (
                name,
                with_spread(row["seconds_per_image"], 1e3, 1),
                f"{row['images_per_second']:.2f}",
                with_spread(row["time_over_ours"], 1, 2),
                *((f"{row['peak_mib']:.0f}", f"{row['memory_over_ours']:.2f}") if "peak_mib" in row else "--"),
            )
            for name, row in run["rows"].items()
        ]
        where = f"{run['mode'].capitalize()}, {run['size']}, {run['device']}, batch {run['batch_size']}"
        parts.append(f"## {where}\n\n{as_table(heads, lines)}")
    for run in report["stages"]:
        lines = [(name, with_spread(taken, 1e3, 1)) for name, taken in run["seconds"].items()]
        parts.append(f"## Stages, {run['size']}, {run['device']}\n\n{as_table(('stage', 'ms per image'), lines)}")
    return "\n".join(parts)


def with_spread(found: dict[str, float], factor: float, digits: int) -> str:
    """Median and middle half, times a factor."""
    median, low, high = (f"{found[name] * factor:.{digits}f}" for name in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


def installed(rivals: list[str]) -> list[str]:
    """The rivals that can be built here, ours first."""
    needed = {UNET: "monai", ONNX: "onnxruntime"}
    rivals = [rival for rival in rivals if rival not in needed or importlib.util.find_spec(needed[rival])]
    return [OURS, *(rival for rival in rivals if rival != OURS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    quick = [rival for rival in RIVALS if rival != COMPILED]
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=quick, help="(all but compiled: takes minutes)")
    parser.add_argument("--modes", nargs="+", choices=("inference", "training"), default=["inference", "training"])
    parser.add_argument("--devices", nargs="+", choices=("cpu", "cuda"), help="the CPU, and a GPU if there is one")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7, help="rounds (%(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--gpu-dtype", default="bfloat16", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--flops-only", action="store_true", help="count operations and run nothing")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="skip peak memory")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark"), help="folder (%(default)s)")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    devices = options.devices or ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    rivals = installed(options.rivals)

    gpu = f", {torch.cuda.get_device_name()}" if "cuda" in devices else ""
    machine = f"{platform.machine()}, {torch.get_num_threads()} CPU threads{gpu}, torch {torch.__version__}"
    report: dict = {
        "machine": f"{machine}, transformers {transformers.__version__}",
        "cost": {size: {rival: count(rival, size) for rival in rivals if rival in NETWORKS} for size in options.sizes},
        "runs": [],
        "stages": [],
    }
    write(options.output, "benchmark", report, table(report))
    if not options.flops_only:
        for size, device in tqdm(list(itertools.product(options.sizes, devices)), desc="benchmark"):
            where = {"size": size, "device": device, "batch_size": options.batch_size}
            for mode in options.modes:
                chosen = rivals if mode == "inference" else [rival for rival in rivals if rival in TRAINED]
                if device != "cpu":
                    chosen = [rival for rival in chosen if rival != ONNX]
                rows = measure(chosen, size, mode, device, options)
                report["runs"].append({"mode": mode, **where, "rows": rows})
                write(options.output, "benchmark", report, table(report))
            report["stages"].append({**where, "seconds": stages(size, device, options)})
            write(options.output, "benchmark", report, table(report))
            tidy()
    print(table(report))


if __name__ == "__main__":
    main()
