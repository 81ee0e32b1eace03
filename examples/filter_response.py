"""What the learned frequency filter does: its response over spatial frequency, for each stride of the branch.

    python examples/filter_response.py
    python examples/filter_response.py --model runs/mine/best --output response.png

A response of 1 passes a frequency on as it is, which is where training starts. The band is that of the middle half of
the channels. Prints how far the responses of each stride have moved from 1.
"""

import argparse

import torch
from matplotlib.figure import Figure

from sfrecsam_hf.inference.checkpoints import load_checkpoint


def main() -> None:
    """Draws one panel for each filter."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="checkpoint; the bundled one if left out")
    parser.add_argument("--output", default="filter_response.png", help="picture to write (%(default)s)")
    options = parser.parse_args()

    model, _ = load_checkpoint(options.model, device="cpu")
    if model.config.fusion != "spatial-frequency":
        raise SystemExit(f"fusion={model.config.fusion!r} has no frequency filter; give a spatial-frequency model.")
    filters = model.branch.filters
    figure = Figure(figsize=(4 * len(filters), 3), layout="constrained")
    axes = figure.subplots(1, len(filters), sharey=True, squeeze=False)[0]
    for level, (axis, learned) in enumerate(zip(axes, filters, strict=True)):
        response = 1 + learned.curve.detach()
        stride = 2 ** (level + 2)
        # The last bin is the corner of the Fourier plane: half a cycle a feature in both directions.
        cycles = torch.linspace(0, 0.5**0.5, response.shape[1]) / stride
        low, middle, high = response.quantile(torch.tensor([0.25, 0.5, 0.75]), dim=0)
        axis.axhline(1, color="0.6", linestyle="--")
        axis.fill_between(cycles, low, high, alpha=0.3)
        axis.plot(cycles, middle)
        axis.set(title=f"stride {stride}, {len(response)} channels", xlabel="cycles per input pixel")
        print(f"stride {stride}: mean distance from 1 is {(response - 1).abs().mean():.3f}")
    axes[0].set(ylabel="response")
    figure.savefig(options.output, dpi=120)


if __name__ == "__main__":
    main()
