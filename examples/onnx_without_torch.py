"""Segments image files with an exported model on onnxruntime, NumPy and Pillow: neither torch nor transformers.

    python examples/onnx_without_torch.py exported space/samples/bus_0180-l.png space/samples/bus_0560-r.png

The folder is what `sfrecsam export --output exported` has written. `--samples 0` makes it a graph of one pass. Of this
package it needs two files of `sfrecsam_hf/modeling/`, which need NumPy and Pillow only: take them along.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import PIL.Image
import PIL.ImageOps

from sfrecsam_hf.modeling.scan_frame import ScanFrame
from sfrecsam_hf.modeling.tidying import burnt_in_text, smoothed, tidied

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def read(path: str) -> PIL.Image.Image:
    """The image, upright and gray: tissue has no colour."""
    return PIL.ImageOps.exif_transpose(PIL.Image.open(path)).convert("RGB").convert("L")


def size_inside(image: PIL.Image.Image, side: int) -> tuple[int, int]:
    """Width and height that it has in the model's input of `side` pixels."""
    return tuple(max(int(extent * side / max(image.size) + 0.5), 1) for extent in image.size)


def prepared(image: PIL.Image.Image, side: int) -> tuple[np.ndarray, np.ndarray]:
    """`(3, side, side)` normalised pixels, zero at the right and the bottom, and `(side, side)` ones on the image."""
    width, height = size_inside(image, side)
    resized = image.convert("RGB").resize((width, height), PIL.Image.Resampling.BILINEAR)
    pixels, inside = np.zeros((3, side, side), np.float32), np.zeros((side, side), np.int64)
    pixels[:, :height, :width] = ((np.asarray(resized, np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)
    inside[:height, :width] = 1
    return pixels, inside


def restored(probability: np.ndarray, image: PIL.Image.Image, side: int) -> np.ndarray:
    """The boolean mask at the image's own size, from `(height, width)` probabilities of the padded input."""
    stride = side / len(probability)
    width, height = size_inside(image, side)
    # As the model reads it: a pixel of the mask lies inside where its centre does.
    columns, rows = (max(1, int(np.ceil((extent - stride // 2) / stride))) for extent in (width, height))
    probability[rows:], probability[:, columns:] = probability[rows - 1], probability[:, columns - 1 : columns]
    whole = PIL.Image.fromarray(smoothed(probability)).resize((side, side), PIL.Image.Resampling.BILINEAR)
    restored = whole.crop((0, 0, width, height)).resize(image.size, PIL.Image.Resampling.BILINEAR)
    return tidied(np.asarray(restored) > 0.5, burnt_in_text(image, (width, height)))


def segment(
    session: onnxruntime.InferenceSession, paths: list[str], batch_size: int
) -> Iterator[tuple[str, np.ndarray, float]]:
    """Path, mask and presence of every image."""
    side = session.get_inputs()[0].shape[-1]
    for first in range(0, len(paths), batch_size):
        some = paths[first : first + batch_size]
        images = [read(path) for path in some]
        frames = [ScanFrame.around(image) for image in images]
        scans = [frame.cut(image) for frame, image in zip(frames, images, strict=True)]
        pixels, inside = zip(*(prepared(scan, side) for scan in scans), strict=True)
        inputs = {"pixel_values": np.stack(pixels), "pixel_mask": np.stack(inside)}
        probability, presence = session.run(["probability", "presence"], inputs)
        for path, frame, scan, one, score in zip(some, frames, scans, probability, presence, strict=True):
            yield path, frame.put_back(restored(one[0], scan, side)), float(score)


def main() -> None:
    """Writes a mask for each image and prints the rate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exported", type=Path, help="folder that `sfrecsam export` has written")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; as many as there are cores if left out")
    parser.add_argument("--output", type=Path, default=Path("segmented"), help="folder to write to (%(default)s)")
    options = parser.parse_args()

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    session = onnxruntime.InferenceSession(options.exported / "automatic.onnx", settings)
    options.output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    for path, mask, presence in segment(session, options.images, options.batch_size):
        picture = options.output / f"{Path(path).stem}_mask.png"
        PIL.Image.fromarray(mask).save(picture)
        print(f"{picture}: lesion with probability {presence:.2f}, {mask.sum()} pixels")
    taken = time.perf_counter() - start
    print(f"{len(options.images)} images, {len(options.images) / taken:.1f} images/s with reading and writing")


if __name__ == "__main__":
    main()
