"""What cutting off frames takes from the lesions of a data set; it should be nothing.

    python examples/scan_frames.py BUSI BUS-BRA --output scan_frames.md

Training and validation images. Counts those that lose a hundredth of their pixels and more to a frame or to black
corners, and those whose lesion loses any.
"""

import argparse
from pathlib import Path

import numpy as np
from mirrored_view import as_table
from tqdm import tqdm

from sfrecsam_hf.data.splits import load_split
from sfrecsam_hf.modeling.scan_frame import ScanFrame

HEADS = ("data", "images", "cut by 1 % and more", "lesions cut")


def changed(image: np.ndarray, frame: ScanFrame, scan: np.ndarray) -> np.ndarray:
    """Where the model does not see the picture, of its height and width."""
    left, top, right, bottom = frame.box
    return ~frame.put_back((image[top:bottom, left:right] == scan).all(axis=-1))


def main() -> None:
    """Writes and prints one row for each data folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", help="data folders")
    parser.add_argument("--output", default="scan_frames.md", help="table to write (%(default)s)")
    options = parser.parse_args()

    lines = []
    for source in options.data:
        lost, touched = [], 0
        for dataset in (load_split(source, split) for split in ("train", "val")):
            for row in tqdm(dataset, desc=Path(source).name):
                image = row["image"].convert("RGB")
                frame = ScanFrame.around(image)
                unseen = changed(np.asarray(image), frame, np.asarray(frame.cut(image)))
                lost.append(unseen.mean())
                touched += (unseen & (np.asarray(row["mask"]) > 0)).any()
        lines.append((Path(source).name, len(lost), sum(share >= 0.01 for share in lost), touched))
    table = as_table(HEADS, lines)
    Path(options.output).write_text(table)
    print(table, end="")


if __name__ == "__main__":
    main()
