"""SF-RecSAM for breast-ultrasound lesion segmentation, native to transformers and the Hugging Face Hub.

`import sfrecsam_hf` registers it with the Auto classes. What only some jobs need is imported when it is first used.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.2.0"

_MODULE_OF = {
    "DualFalseCorrector": "modeling.false_corrector",
    "LesionSegmentationPipeline": "modeling.pipeline_sfrecsam",
    "SFRecSamConfig": "modeling.configuration_sfrecsam",
    "SFRecSamCorrection": "modeling.model_outputs",
    "SFRecSamDecoderOutput": "modeling.model_outputs",
    "SFRecSamImageEmbeddings": "modeling.model_outputs",
    "SFRecSamImageProcessor": "modeling.image_processing_sfrecsam",
    "SFRecSamImageProcessorPil": "modeling.image_processing_sfrecsam",
    "SFRecSamModel": "modeling.modeling_sfrecsam",
    "SFRecSamOutput": "modeling.model_outputs",
    "SFRecSamProcessor": "modeling.processing_sfrecsam",
    "SFRecSamVisionConfig": "modeling.configuration_sfrecsam",
    "Segmentation": "modeling.segmentation",
    "SpatialFrequencyBranch": "modeling.frequency_fusion",
    "TrainingConfig": "training.config",
    "bundled_checkpoint": "inference.bundled",
    "load_bus_bra": "data.loading",
    "load_busi": "data.loading",
    "load_folder": "data.loading",
    "load_udiat": "data.loading",
    "open_clip": "data.clips",
    "segment": "modeling.segmentation",
    "segment_clip": "modeling.clip_tracking",
    "train": "training.trainer",
}

__all__ = sorted(_MODULE_OF)


# The command `sfrecsam` registers once a job begins, so that `sfrecsam --help` does not wait for torch.
if Path(sys.argv[0]).stem != "sfrecsam":
    import_module(".registration", __name__)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
