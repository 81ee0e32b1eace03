"""SF-RecSAM for breast-ultrasound lesion segmentation, native to transformers and the Hugging Face Hub.

Names are imported when they are first used, so that `import sfrecsam_hf` and `sfrecsam --help` stay light.
"""

from importlib import import_module
from typing import Any

from .auto_classes import register_with_transformers

__version__ = "0.1.0"

_MODULE_OF = {
    "DualFalseCorrector": "false_corrector",
    "LesionSegmentationPipeline": "pipeline_sfrecsam",
    "SFRecSamConfig": "configuration_sfrecsam",
    "SFRecSamImageEmbeddings": "outputs_sfrecsam",
    "SFRecSamImageProcessor": "image_processing_sfrecsam",
    "SFRecSamImageProcessorPil": "image_processing_sfrecsam",
    "SFRecSamModel": "modeling_sfrecsam",
    "SFRecSamOutput": "outputs_sfrecsam",
    "SFRecSamProcessor": "processing_sfrecsam",
    "SFRecSamVisionConfig": "configuration_sfrecsam",
    "Segmentation": "segmentation",
    "SpatialFrequencyBranch": "frequency_fusion",
    "TrainingConfig": "training_config",
    "bundled_checkpoint": "bundled",
    "load_bus_bra": "data",
    "load_busi": "data",
    "load_folder": "data",
    "load_udiat": "data",
    "segment": "segmentation",
    "train": "training",
}

__all__ = sorted(_MODULE_OF)


register_with_transformers()


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
