"""A metric for `evaluate`: overlap and surface distances of lesion masks, at the size of each image."""

import datasets
import evaluate
import numpy as np

from .metrics import segmentation_metrics

_DESCRIPTION = """
Dice, IoU, precision and recall, and the 95th-percentile Hausdorff (HD95) and average symmetric surface distance (ASSD)
in pixels, of one binary mask per image, averaged over images. Both masks empty is perfect: 1, and 0 pixels. If one of
them is empty, the overlap is 0 and the distance the diagonal of the image, since no surface is there to measure to.
"""

_INPUTS = """
Args:
    predictions (`list[numpy.ndarray]` of shape `(height, width)` each):
        Predicted masks; every pixel that is not 0 is lesion. Sizes may differ from image to image.
    references (`list[numpy.ndarray]` of shape `(height, width)` each):
        True masks of the same sizes.
    per_image (`bool`, defaults to `False`):
        Also return the list of every image's values as `per_image`.

Returns:
    `dict`: The means `dice`, `iou`, `precision` and `recall` in [0, 1], `hd95` and `assd` in pixels.

Raises:
    ValueError: A prediction differs in size from its reference, or is not two-dimensional.

Example:

    >>> metric = evaluate.load("lesion_segmentation")
    >>> metric.compute(predictions=[[[0, 1], [0, 1]]], references=[[[0, 1], [0, 0]]])["precision"]
    0.5
"""

_CITATION = """
@misc{monai,
  title  = {MONAI: Medical Open Network for AI},
  author = {MONAI Consortium},
  url    = {https://monai.io}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class LesionSegmentation(evaluate.Metric):
    """See the description above; masks are stored as lists of rows."""

    def _info(self) -> evaluate.MetricInfo:
        mask = datasets.List(datasets.List(datasets.Value("uint8")))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": mask, "references": mask}),
        )

    def _compute(
        self, predictions: list[list[list[int]]], references: list[list[list[int]]], per_image: bool = False
    ) -> dict:
        values = []
        for index, pair in enumerate(zip(predictions, references, strict=True)):
            predicted, true = (np.asarray(mask) > 0 for mask in pair)
            if predicted.shape != true.shape or predicted.ndim != 2:
                raise ValueError(
                    f"Image {index}: the prediction has shape {predicted.shape} and the reference {true.shape}; "
                    "resize both to (height, width) of the image."
                )
            values.append(segmentation_metrics(predicted, true))
        means = {name: float(np.mean([value[name] for value in values])) for name in values[0]}
        return {**means, "per_image": values} if per_image else means
