"""SF-RecSAM against plain SAM, repeated passes and a U-Net: cost, speed and memory, one command, one run.

    python examples/benchmark.py                                   # all of it, on the CPU and on a GPU if there is one
    python examples/benchmark.py --flops-only                      # seconds: counts operations, runs nothing
    python examples/benchmark.py --sizes tiny --repeats 5 --modes inference

Rivals are timed in turn, round after round, so that a busy machine slows all of them alike; ratios are taken within
a round, and their median and middle half are shown. Writes benchmark.json, benchmark.md and benchmark.png.
"""

import argparse
import ctypes
import gc
import importlib.util
import itertools
import json
import multiprocessing
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm
from transformers import SamConfig, SamModel

from sfrecsam_hf import SFRecSamConfig, SFRecSamImageProcessor, SFRecSamModel
from sfrecsam_hf.modeling.segmentation import segmentations

SIZES = {"tiny": SFRecSamConfig.tiny, "base": SFRecSamConfig.base, "sam-1024": SFRecSamConfig.sam_geometry}
SAMPLES = 8
OURS, ONE_PASS, FOLDED = "SF-RecSAM", "SF-RecSAM T=0", "SF-RecSAM folded"
REFERENCE = "SF-RecSAM encoder per sample"
PLAIN, EAGER, REPEATED, UNET = "SamModel sdpa", "SamModel eager", f"SamModel {SAMPLES} passes", "MONAI U-Net"
RIVALS = (OURS, ONE_PASS, REFERENCE, FOLDED, PLAIN, EAGER, REPEATED, UNET)


class RepeatedPasses(nn.Module):
    """How the published release corrects: the whole network once per jittered prompt."""

    def __init__(self, sam: SamModel):
        super().__init__()
        self.sam = sam

    def forward(self, pixel_values: torch.Tensor, input_boxes: torch.Tensor) -> torch.Tensor:
        passes = [self.sam(pixel_values, input_boxes=input_boxes + shift).pred_masks for shift in range(SAMPLES)]
        return torch.stack(passes).mean(0)


def plain_sam(config: SFRecSamConfig, attention: str) -> SamModel:
    """A `SamModel` with our encoder's geometry: as many tokens, the same width, depth and windows."""
    ours = config.vision_config
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "window_size", "output_channels")
    vision = {name: getattr(ours, name) for name in names}
    vision |= {"global_attn_indexes": list(ours.global_attn_indexes), "num_pos_feats": ours.num_pos_feats}
    vision["initializer_range"] = ours.initializer_range  # SAM's own, 1e-10, would let a CPU train on denormal numbers
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
    return SamModel._from_config(sam, attn_implementation=attention)


def build(rival: str, size: str) -> tuple[nn.Module, dict[str, tuple[int, ...]], dict]:
    """A rival with random weights, the shapes of the tensors it takes (without the batch), and its other arguments."""
    config = SIZES[size]()
    image = (3, config.vision_config.image_size, config.vision_config.image_size)
    if rival.startswith(OURS):
        attention = "folded" if rival == FOLDED else "unbiased"
        model = SFRecSamModel._from_config(config, attn_implementation=attention)
        samples = 0 if rival == ONE_PASS else SAMPLES
        arguments = {"mc_samples": samples, "presence_threshold": 0.0, "sample_encoder": rival == REFERENCE}
        return model, {"pixel_values": image}, arguments
    if rival == UNET:
        from monai.networks.nets import BasicUNet

        return BasicUNet(2, 3, 1), {"x": image}, {}
    sam = plain_sam(config, "eager" if rival == EAGER else "sdpa")
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
    """
    Floating-point operations of one image and numbers in the model, without computing anything.

    Counted on the meta device, where attention falls apart into the matrix products it consists of, as the CPU runs
    them: our attention is `"banded"` there.
    """
    with torch.device("meta"):
        model, shapes, arguments = build(rival, size)
        inputs = inputs_of(shapes, 1, "meta")
    if rival in (OURS, ONE_PASS):
        model.set_attn_implementation("banded")
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
    model, shapes, arguments = build(rival, size)
    model = model.to(device, getattr(torch, dtype) if mode == "inference" else None)
    inputs = inputs_of(shapes, batch, device)
    precision = next(model.parameters()).dtype
    inputs |= {name: value.to(precision) for name, value in inputs.items() if name in ("pixel_values", "x")}
    if mode == "inference":
        model.eval()

        def infer() -> None:
            with torch.inference_mode():
                model(**inputs, **arguments)

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


def spread(values: list[float]) -> dict[str, float]:
    """Median and middle half."""
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"median": statistics.median(values), "low": low, "high": high}


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
        if options.memory:
            rows[rival]["peak_mib"] = peak_memory(rival, size, mode, device, options.batch_size, dtype)
    if options.memory:
        for row in rows.values():
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

    Encode and post-process are timed by themselves. The others are differences: what a pass without samples and
    correction takes beyond encoding, what samples add, and what correction adds.
    """
    model, shapes, _ = build(OURS, size)
    model = model.to(device).eval()
    processor = SFRecSamImageProcessor(image_size=model.config.vision_config.image_size)
    pixels = inputs_of(shapes, options.batch_size, device)["pixel_values"]
    sizes = [(480, 560)] * options.batch_size
    noise = model.draw_noise(SAMPLES)
    taken: dict[str, list[float]] = {}
    with torch.inference_mode():
        encoded = model.encode(pixels)
        prompted = model.prompt(encoded)
        decoded = model.decode(prompted, sample_noise=noise)
        outputs = model(image_embeddings=encoded, mc_samples=SAMPLES, presence_threshold=0.0)
        jobs: dict[str, Callable[[], object]] = {
            "encode": lambda: model.encode(pixels),
            "prompt": lambda: model.prompt(encoded),
            "decode": lambda: model.decode(prompted),
            "decode and sample": lambda: model.decode(prompted, sample_noise=noise),
            "correct": lambda: model.correct(decoded),
            "post-process": lambda: segmentations(outputs, sizes, processor),
        }
        for job in jobs.values():
            job()
        for _ in range(options.repeats):
            for name, job in jobs.items():
                taken.setdefault(name, []).append(seconds(job, device) / options.batch_size)
    sampled = [both - once for both, once in zip(taken.pop("decode and sample"), taken["decode"], strict=True)]
    return {name: spread(values) for name, values in {**taken, "sample": sampled}.items()}


def table(report: dict) -> str:
    """The report as Markdown."""
    lines = [f"{report['machine']}; T = {SAMPLES}; one box for SamModel, no prompt for ours.", ""]
    for size, rows in report["cost"].items():
        ours = rows[OURS]["gflop"]
        lines += [f"## Operations, {size}", "", "| model | GFLOP | of ours | parameters |", "|---|---|---|---|"]
        for rival, row in rows.items():
            lines.append(
                f"| {rival} | {row['gflop']:.1f} | {row['gflop'] / ours:.2f} | {row['parameters_million']:.1f} M |"
            )
        parts = ", ".join(
            f"{name} {value:.1f}" for name, value in rows[OURS]["gflop_by_part"].items() if value >= 0.05
        )
        lines += ["", f"GFLOP of ours by part: {parts}", ""]
    for run in report["runs"]:
        lines += [f"## {run['mode'].capitalize()}, {run['size']}, {run['device']}, batch {run['batch_size']}", ""]
        lines += ["| model | ms per image | images/s | time / ours | peak MiB | memory / ours |"]
        lines += ["|---|---|---|---|---|---|"]
        for rival, row in run["rows"].items():
            taken, ratio = row["seconds_per_image"], row["time_over_ours"]
            memory = f"{row['peak_mib']:.0f} | {row['memory_over_ours']:.2f}" if "peak_mib" in row else "- | -"
            lines.append(
                f"| {rival} | {taken['median'] * 1e3:.1f} ({taken['low'] * 1e3:.1f} to {taken['high'] * 1e3:.1f}) "
                f"| {row['images_per_second']:.2f} "
                f"| {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}) | {memory} |"
            )
        lines.append("")
    for run in report["stages"]:
        lines += [f"## Stages, {run['size']}, {run['device']}", "", "| stage | ms per image |", "|---|---|"]
        for name, taken in run["seconds"].items():
            shown = f"{taken['median'] * 1e3:.1f} ({taken['low'] * 1e3:.1f} to {taken['high'] * 1e3:.1f})"
            lines.append(f"| {name} | {shown} |")
        lines.append("")
    return "\n".join(lines)


def plot(report: dict, path: Path) -> None:
    """Time over ours in every run, or operations over ours if nothing was timed."""
    from matplotlib.figure import Figure

    panels = [
        (
            f"{run['mode']}, {run['size']}, {run['device']}",
            {name: row["time_over_ours"] for name, row in run["rows"].items()},
        )
        for run in report["runs"]
    ] or [
        (f"operations, {size}", {name: spread([row["gflop"] / rows[OURS]["gflop"]]) for name, row in rows.items()})
        for size, rows in report["cost"].items()
    ]
    figure = Figure(figsize=(5 * len(panels), 3.2), layout="constrained")
    for axes, (title, ratios) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        middle = [ratio["median"] for ratio in ratios.values()]
        error = [
            [max(ratio["median"] - ratio["low"], 0) for ratio in ratios.values()],
            [max(ratio["high"] - ratio["median"], 0) for ratio in ratios.values()],
        ]
        colours = ["#c2410c" if name == OURS else "#64748b" for name in ratios]
        axes.barh(list(ratios), middle, xerr=error, color=colours)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.invert_yaxis()
        axes.set(title=title, xlabel="relative to SF-RecSAM (less is better)")
    figure.savefig(path, dpi=150)


def write(report: dict, folder: Path) -> None:
    """Writes what is measured so far; what is interrupted has lost nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmark.json").write_text(json.dumps(report, indent=2))
    (folder / "benchmark.md").write_text(table(report))
    plot(report, folder / "benchmark.png")


def installed(rivals: list[str]) -> list[str]:
    """The rivals that can be built here, ours first."""
    if importlib.util.find_spec("monai") is None:
        rivals = [rival for rival in rivals if rival != UNET]
    return [OURS, *(rival for rival in rivals if rival != OURS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS))
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
        "cost": {size: {rival: count(rival, size) for rival in rivals} for size in options.sizes},
        "runs": [],
        "stages": [],
    }
    write(report, options.output)
    if not options.flops_only:
        for size, device in tqdm(list(itertools.product(options.sizes, devices)), desc="benchmark"):
            where = {"size": size, "device": device, "batch_size": options.batch_size}
            for mode in options.modes:
                # Repeating the network is a way to answer, not to train; so is T.
                skipped = () if mode == "inference" else (REPEATED, REFERENCE, ONE_PASS)
                rows = measure([rival for rival in rivals if rival not in skipped], size, mode, device, options)
                report["runs"].append({"mode": mode, **where, "rows": rows})
                write(report, options.output)
            report["stages"].append({**where, "seconds": stages(size, device, options)})
            write(report, options.output)
            tidy()
    print(table(report))


if __name__ == "__main__":
    main()
