"""SF-RecSAM for breast-ultrasound lesion segmentation, native to transformers and the Hugging Face Hub.

Names are imported when they are first used, so that `import sfrecsam_hf` and `sfrecsam --help` stay light.
"""

from importlib import import_module
from typing import Any

from .registration import register_with_transformers

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
    "segment": "modeling.segmentation",
    "train": "training.trainer",
}

__all__ = sorted(_MODULE_OF)


register_with_transformers()


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
