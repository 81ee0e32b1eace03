"""What is written of one image, in whatever format."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from ..modeling.segmentation import Segmentation

MOST_LABELS = 255


@dataclass(frozen=True)
class Answer:
    """
    What is written.

    Args:
        name (`str`): Of the image's file.
        scan (`PIL.Image.Image`): The image that was segmented.
        found ([`Segmentation`]): Its answer.
        spacing (`tuple[float, float]`, *optional*): Height and width of a pixel in millimetres.
        source (`Path`, *optional*): The DICOM file that the image was read from, if it was one.
        label (`str`): What a lesion is called.
    """

    name: str
    scan: PIL.Image.Image
    found: Segmentation
    spacing: tuple[float, float] | None = None
    source: Path | None = None
    label: str = "lesion"

    def labels(self) -> np.ndarray:
        """The number of the lesion at each pixel, 1 for the largest and 0 outside; 8 bits, `(height, width)`."""
        lesions = self.found.lesions
        if len(lesions) > MOST_LABELS:
            raise ValueError(f"{len(lesions)} lesions are more than 8 bits can number; write COCO or leave tidy on.")
        numbered = np.zeros(self.found.mask.shape, dtype=np.uint8)
        for number, lesion in enumerate(lesions, 1):
            left, top, right, bottom = lesion.box
            numbered[top:bottom, left:right][lesion.inside] = number
        return numbered
