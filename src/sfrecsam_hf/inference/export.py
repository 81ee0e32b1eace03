"""Exports the automatic path to ONNX and `torch.export`, and checks each file against the model itself.

Three graphs, each with a free batch size and the seeded noise of its samples inside:

- `encoder`: an image to what answers any prompt about it;
- `decoder`: that, and one box per image, to the corrected mask;
- `automatic`: an image to the corrected mask, end to end.

The Fourier transform needs no stand-in: ONNX has had it as the operator `DFT` since opset 17.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..modeling.configuration_sfrecsam import SFRecSamConfig
from ..modeling.model_outputs import SFRecSamImageEmbeddings, SFRecSamOutput
from ..modeling.modeling_sfrecsam import SFRecSamModel
from ..modeling.sample_noise import SampleNoise

EMBEDDINGS = (
    "image_embeddings",
    "high_resolution_features",
    "coarse_masks",
    "presence_logits",
    "valid_region",
    "pixels",
)
ANSWER = ("probability", "initial_probability", "uncertainty", "presence", "iou_score")
TOLERANCE = 1e-3
OPSET = 20


class _Graph(nn.Module):
    """A part of the model as a function of tensors; the noise of its samples is a constant."""

    def __init__(self, model: SFRecSamModel):
        super().__init__()
        self.model = model
        self.sampled = model.config.mc_samples > 0
        if self.sampled:
            noise = model.draw_noise()
            self.register_buffer("embedding_noise", noise.embedding, persistent=False)
            self.register_buffer("feature_noise", noise.features, persistent=False)
            self.register_buffer("prompt_noise", noise.prompts, persistent=False)

    def answer(self, **inputs: Tensor | SFRecSamImageEmbeddings) -> tuple[Tensor, ...]:
        """Corrected and initial probability, uncertainty, all `(batch, 1, height, width)`, presence, IoU estimate."""
        noise = None
        if self.sampled:
            noise = SampleNoise(self.embedding_noise, self.feature_noise, self.prompt_noise)
        outputs: SFRecSamOutput = self.model(sample_noise=noise, **inputs)
        return (
            outputs.pred_masks[:, 0].sigmoid(),
            outputs.initial_masks[:, 0].sigmoid(),
            outputs.predictive_entropy[:, 0],
            outputs.presence_logits.sigmoid(),
            outputs.iou_scores[:, 0, 0],
        )


class EncoderGraph(_Graph):
    """An image to [`SFRecSamImageEmbeddings`], as a tuple in the order of `EMBEDDINGS`."""

    inputs = ("pixel_values", "pixel_mask")
    outputs = EMBEDDINGS

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[Tensor, ...]:
        encoded = self.model.encode(pixel_values, pixel_mask=pixel_mask)
        return tuple(encoded[name] for name in EMBEDDINGS)


class DecoderGraph(_Graph):
    """Embeddings and one box per image, `(batch, 4)` in input pixels, to the answer."""

    inputs = (*EMBEDDINGS, "boxes")
    outputs = ANSWER

    def forward(
        self,
        image_embeddings: Tensor,
        high_resolution_features: Tensor,
        coarse_masks: Tensor,
        presence_logits: Tensor,
        valid_region: Tensor,
        pixels: Tensor,
        boxes: Tensor,
    ) -> tuple[Tensor, ...]:
        encoded = SFRecSamImageEmbeddings(
            image_embeddings, high_resolution_features, coarse_masks, presence_logits, valid_region, pixels
        )
        return self.answer(image_embeddings=encoded, input_boxes=boxes[:, None])


class AutomaticGraph(_Graph):
    """An image to the answer, with the prompts that the model makes itself."""

    inputs = ("pixel_values", "pixel_mask")
    outputs = ANSWER

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[Tensor, ...]:
        return self.answer(pixel_values=pixel_values, pixel_mask=pixel_mask)


GRAPHS: dict[str, type[_Graph]] = {"encoder": EncoderGraph, "decoder": DecoderGraph, "automatic": AutomaticGraph}


@torch.no_grad()
def example_inputs(model: SFRecSamModel, batch: int, seed: int = 0) -> dict[str, Tensor]:
    """
    Random images with some padding, their embeddings and a box each, by the names the graphs use.

    Args:
        model ([`SFRecSamModel`]): To be exported.
        batch (`int`): Number of images.
        seed (`int`): Of the images.
    """
    side = model.config.vision_config.image_size
    generator = torch.Generator().manual_seed(seed)
    pixel_values = torch.randn(batch, model.config.vision_config.num_channels, side, side, generator=generator)
    pixel_mask = torch.ones(batch, side, side, dtype=torch.long)
    pixel_mask[:, side - side // 8 :] = 0
    corners = torch.rand(batch, 2, generator=generator) * side / 3 + side / 8
    encoded = model.encode(pixel_values, pixel_mask=pixel_mask)
    inputs = {name: encoded[name] for name in EMBEDDINGS}
    boxes = torch.cat([corners, corners + side / 3], dim=1)
    return inputs | {"pixel_values": pixel_values, "pixel_mask": pixel_mask, "boxes": boxes}


def export(model: SFRecSamModel, output: str | Path) -> dict[str, float]:
    """
    Writes `encoder`, `decoder` and `automatic` as `.onnx` and `.pt2` files and checks them against the model.

    Args:
        model ([`SFRecSamModel`]): In evaluation mode, on the CPU, in float32.
        output (`str` or `Path`): Folder, made if it does not exist.

    Returns:
        `dict[str, float]`: For every file the largest difference to the model's own answer, on a batch of another
        size than the one it was exported with.

    Raises:
        ModuleNotFoundError: The export extra is not installed.
        ValueError: A file's answer differs from the model's by more than `TOLERANCE` where that is [`settled`].
    """
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    model = model.eval().requires_grad_(False)
    traced, fresh = example_inputs(model, batch=2), example_inputs(model, batch=3, seed=1)
    differences = {}
    for name, graph_class in GRAPHS.items():
        graph = graph_class(model).eval()
        chosen = {key: fresh[key] for key in graph.inputs}
        with torch.no_grad():
            expected = [value.float().numpy() for value in graph(**chosen)]
        program = _program(graph, {key: traced[key] for key in graph.inputs})

        path = folder / f"{name}.pt2"
        torch.export.save(program, path)
        with torch.no_grad():
            loaded = torch.export.load(path).module()(**chosen)
        differences[path.name] = _difference(graph, expected, [value.float().numpy() for value in loaded])

        path = folder / f"{name}.onnx"
        torch.onnx.export(
            program, input_names=graph.inputs, output_names=graph.outputs, opset_version=OPSET, external_data=False
        ).save(path)
        differences[path.name] = _difference(graph, expected, run_onnx(path, chosen))
    for file, difference in differences.items():
        if not difference <= TOLERANCE:
            raise ValueError(
                f"{file} differs from the model by {difference:.1e}, more than {TOLERANCE}; do not use it."
            )
    return differences


def _program(graph: _Graph, inputs: dict[str, Tensor]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=1024)
    # Without oneDNN, whose choice of a kernel would cut the free batch size at 16.
    with torch.backends.mkldnn.flags(enabled=False), torch.no_grad():
        return torch.export.export(graph, (), inputs, dynamic_shapes={name: {0: batch} for name in inputs})


def run_onnx(path: str | Path, inputs: dict[str, Tensor]) -> list[np.ndarray]:
    """
    Runs one exported file on the CPU.

    Args:
        path (`str` or `Path`): An `.onnx` file.
        inputs (`dict[str, torch.Tensor]`): By the names of the graph's inputs.

    Returns:
        `list[numpy.ndarray]`: Its outputs, float32, in the order of the graph's `outputs`.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return [value.astype(np.float32) for value in outputs]


def settled(answer: dict[str, np.ndarray], config: SFRecSamConfig) -> np.ndarray:
    """
    Where rounding cannot turn the corrected mask over: no score is within `TOLERANCE` of its threshold.

    Args:
        answer (`dict[str, numpy.ndarray]`): What a graph gives, by the names of `ANSWER`.
        config ([`SFRecSamConfig`]): Of the model.

    Returns:
        `numpy.ndarray` of shape `(batch, 1, height, width)`: Boolean.
    """
    held = (
        (answer["uncertainty"], config.suspicion_threshold),
        (answer["initial_probability"], 0.5),
        (answer["presence"][:, None, None, None], config.presence_threshold),
    )
    return np.logical_and.reduce(np.broadcast_arrays(*(np.abs(score - at) > TOLERANCE for score, at in held)))


def _difference(graph: _Graph, expected: list[np.ndarray], given: list[np.ndarray]) -> float:
    """Largest absolute difference, relative where the numbers are above 1 (logits and embeddings are)."""
    pairs = dict(zip(graph.outputs, zip(expected, given, strict=True), strict=True))
    if "probability" in pairs:
        sure = settled(dict(zip(graph.outputs, expected, strict=True)), graph.model.config)
        pairs["probability"] = tuple(np.where(sure, values, 0) for values in pairs["probability"])
    return max(float(np.max(np.abs(a - b) / np.maximum(1, np.abs(a).max()))) for a, b in pairs.values())
