"""Tells transformers of our image processors, so that a local checkpoint's processor loads without remote code."""

from transformers import AutoImageProcessor

from .configuration_sfrecsam import SFRecSamConfig
from .image_processing_sfrecsam import SFRecSamImageProcessor, SFRecSamImageProcessorPil
from .processing_sfrecsam import SFRecSamProcessor

AutoImageProcessor.register(
    SFRecSamConfig,
    image_processor_classes={"pil": SFRecSamImageProcessorPil, "torchvision": SFRecSamImageProcessor},
)

__all__ = ["SFRecSamProcessor"]
