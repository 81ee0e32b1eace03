"""The samples of the page: six lesions, and two parts of these images that show none."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from sfrecsam_hf.modeling.image_reading import read_mask, read_rgb

FOLDER = Path(__file__).resolve().parent / "samples"


@dataclass(frozen=True)
class Sample:
    """
    One sample.

    Args:
        file (`str`): Name in `samples/`, without its ending.
        label (`str`): What it shows, as BUS-BRA's biopsies say.
        below (`int`): Row from which the image is shown; what lies above is cut off.
    """

    file: str
    label: str
    below: int = 0

    @property
    def name(self) -> str:
        """As it is called on the page."""
        return f"{self.file}-below.png" if self.below else f"{self.file}.png"

    def image(self) -> PIL.Image.Image:
        """As RGB."""
        image = read_rgb(FOLDER / f"{self.file}.png")
        return image.crop((0, self.below, *image.size))

    def reference(self) -> np.ndarray:
        """The radiologists' outline, boolean, of shape `(height, width)`."""
        return read_mask(FOLDER / f"{self.file}_mask.png")[self.below :]


SAMPLES = (
    Sample("bus_0160-l", "Fibroadenoma, wide"),
    Sample("bus_0180-l", "Carcinoma"),
    Sample("bus_0440-r", "Carcinoma, faint border"),
    Sample("bus_0560-r", "Carcinoma, oval"),
    Sample("bus_0850-l", "Fibroadenoma, small"),
    Sample("bus_0980-r", "Carcinoma, large"),
    Sample("bus_0560-r", "No lesion in view", below=111),
    Sample("bus_0850-l", "No lesion in view, a hard one", below=106),
)
