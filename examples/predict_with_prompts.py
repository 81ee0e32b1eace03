"""Outlines the lesion that a click or a box points at, beside the one that the model finds by itself.

    python examples/predict_with_prompts.py space/samples/bus_0180-l.png --click 100 100
    python examples/predict_with_prompts.py space/samples/bus_0180-l.png --box 30 35 180 165
    python examples/predict_with_prompts.py space/samples/bus_0180-l.png --click 100 100 --not 20 250

Coordinates are pixels of the image. Clicks may be repeated; --not is a click on what is no lesion.
"""

import argparse

import PIL.Image

from sfrecsam_hf import segment
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.inference.visualization import contact_sheet, overlay


def main() -> None:
    """Writes the two outlines side by side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image")
    parser.add_argument("--click", type=float, nargs=2, action="append", default=[], metavar=("X", "Y"))
    parser.add_argument("--not", dest="background", type=float, nargs=2, action="append", default=[])
    parser.add_argument("--box", type=float, nargs=4, metavar=("X1", "Y1", "X2", "Y2"))
    parser.add_argument("--model", help="checkpoint; the bundled one if left out")
    parser.add_argument("--output", default="prompted.png", help="picture to write (%(default)s)")
    options = parser.parse_args()

    prompts = {}
    if options.click or options.background:
        prompts["input_points"] = options.click + options.background
        prompts["input_labels"] = [1] * len(options.click) + [0] * len(options.background)
    if options.box:
        prompts["input_boxes"] = [options.box]
    if not prompts:
        parser.error("give --click or --box")

    model, processor = load_checkpoint(options.model)
    # One batch may mix images with and without prompts.
    alone, prompted = segment(model, processor, [options.image, (options.image, prompts)])
    image = PIL.Image.open(options.image)
    tiles = [overlay(image, found.mask) for found in (alone, prompted)]
    contact_sheet(tiles, ["by itself", "prompted"], columns=2).save(options.output)
    print(f"by itself {alone.mask.sum()} pixels, prompted {prompted.mask.sum()} pixels: {options.output}")


if __name__ == "__main__":
    main()
