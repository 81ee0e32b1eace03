"""Outlines the lesions in images.

    python examples/predict.py
    python examples/predict.py space/samples/bus_0560-r.png space/samples/bus_0850-l.png --output outlined

Any checkpoint will do: the bundled one if left out, else --model with a folder or a name on the Hub.
"""

import argparse
from pathlib import Path

import PIL.Image

from sfrecsam_hf import segment
from sfrecsam_hf.inference.bundled import bundled_space
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.inference.visualization import overlay


def main() -> None:
    """Writes each image with its outline and prints its measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="*", default=[bundled_space() / "samples" / "bus_0180-l.png"])
    parser.add_argument("--model", help="checkpoint; the bundled one if left out")
    parser.add_argument("--output", default="outlined", type=Path, help="folder to write to (%(default)s)")
    options = parser.parse_args()

    model, processor = load_checkpoint(options.model)
    options.output.mkdir(parents=True, exist_ok=True)
    for path, found in zip(options.images, segment(model, processor, options.images), strict=True):
        picture = options.output / f"{Path(path).stem}.png"
        overlay(PIL.Image.open(path), found.mask).save(picture)
        measured = found.measurements()
        print(
            f"{picture}: lesion with probability {found.presence:.2f}, {measured['area']} pixels, longest diameter "
            f"{measured['longest_diameter']:.0f} pixels"
        )


if __name__ == "__main__":
    main()
