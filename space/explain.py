"""The paper's first idea made visible: the image's spectrum, the learned filter, and what it adds to the features."""

import io
from dataclasses import dataclass

import matplotlib
import numpy as np
import PIL.Image
import torch
from matplotlib.figure import Figure

from pictures import shown
from sfrecsam_hf import SFRecSamModel
from sfrecsam_hf.inference.visualization import heatmap
from sfrecsam_hf.modeling.model_outputs import valid_region
from staged_model import EncodedImage

SPECTRUM_SIDE = 512
LINE_STYLES = ("-", "--", ":", "-.")
TEXT = "#010203"  # stands for the page's text colour, which is light where the page is dark
COLOURS = ("#1A85FF", "#E66100", "#2A9D6F", "#8A5CC2")


@dataclass(frozen=True)
class FrequencyStory:
    r"""
    What the spatial-frequency branch does with one image.

    Args:
        spectrum (`PIL.Image.Image`): Log magnitude of the Fourier transform of what the model sees of the image; zero
            frequency is in the middle.
        responses (`str`): Each stride's learned response over radial frequency, as SVG in the page's text colour.
        energy (`PIL.Image.Image`): Where the filter changes the features, over the scan.
        shares (`list[tuple[int, float]]`): Stride, and energy of the change as a share of the features' energy.
    """

    spectrum: PIL.Image.Image
    responses: str
    energy: PIL.Image.Image
    shares: list[tuple[int, float]]


@torch.inference_mode()
def frequency_story(model: SFRecSamModel, encoded: EncodedImage) -> FrequencyStory:
    """
    Draws the story of one image.

    Raises:
        ValueError: The checkpoint has no frequency filter.
    """
    if model.config.fusion != "spatial-frequency":
        raise ValueError(f"This checkpoint has no frequency filter to explain: its fusion is {model.config.fusion!r}.")
    branch, pixels = model.branch, encoded.pixel_values
    valid = valid_region(pixels, encoded.reshaped_size)
    pyramid = branch(pixels.mean(dim=1, keepdim=True), valid.to(pixels.dtype))
    height, width = encoded.reshaped_size[0].tolist()
    picture = shown(encoded.frame.cut(encoded.image))
    total, shares = np.zeros((picture.height, picture.width)), []
    for level, blocks in enumerate(branch.pretrained.levels[1 : 1 + len(branch.filters)]):
        spatial, stride = blocks(pyramid[level]), 2 ** (level + 2)
        change = (pyramid[level + 1] - spatial).float().square().mean(1)[0]
        shares.append((stride, float(change.mean() / spatial.float().square().mean().clamp(min=1e-12))))
        inside = change[: -(-height // stride), : -(-width // stride)].cpu().numpy()
        layer = PIL.Image.fromarray(inside / max(float(inside.max()), 1e-12))
        total += np.asarray(layer.resize(picture.size, PIL.Image.Resampling.BILINEAR))
    return FrequencyStory(
        spectrum=_spectrum(pixels[0, :, :height, :width].float().mean(0).cpu().numpy()),
        responses=_responses(model),
        energy=heatmap(picture, total / max(float(total.max()), 1e-12)),
        shares=shares,
    )


def _spectrum(gray: np.ndarray) -> PIL.Image.Image:
    window = np.outer(np.hanning(gray.shape[0]), np.hanning(gray.shape[1]))  # or the image's edge draws a cross
    magnitude = np.abs(np.fft.fftshift(np.fft.fft2((gray - gray.mean()) * window)))
    level = np.log1p(magnitude)
    level = level / max(float(level.max()), 1e-12)
    coloured = matplotlib.colormaps["viridis"](level)[..., :3]
    return PIL.Image.fromarray((coloured * 255).astype(np.uint8)).resize((SPECTRUM_SIDE, SPECTRUM_SIDE))


def _responses(model: SFRecSamModel) -> str:
    figure = Figure(figsize=(5, 4.4), layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    for level, learned in enumerate(model.branch.filters):
        response = 1 + learned.curve.float().cpu().numpy()
        radius = np.linspace(0, 1, response.shape[1])
        low, middle, high = np.percentile(response, [10, 50, 90], axis=0)
        colour = COLOURS[level % len(COLOURS)]
        axes.fill_between(radius, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(
            radius,
            middle,
            LINE_STYLES[level % len(LINE_STYLES)],
            color=colour,
            linewidth=2.2,
            label=f"stride {2 ** (level + 2)}",
        )
    axes.axhline(1, color=TEXT, linewidth=0.6)
    axes.set(xlabel="radial frequency (0: brightness, 1: finest speckle)", ylabel="gain (1: unchanged)")
    legend = axes.legend(title="median and 10 to 90 % of channels", frameon=False, labelcolor=TEXT)
    legend.get_title().set_color(TEXT)
    axes.tick_params(colors=TEXT)
    axes.xaxis.label.set_color(TEXT)
    axes.yaxis.label.set_color(TEXT)
    for spine in axes.spines.values():
        spine.set_color(TEXT)
    written = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(written, format="svg")
    picture = written.getvalue()
    words = "Gain of the learned filter over radial frequency, one line for each stride"
    picture = picture[picture.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{words}"', 1)
    return picture.replace(TEXT, "currentColor")
