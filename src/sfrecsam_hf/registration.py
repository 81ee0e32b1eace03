"""Tells transformers' Auto classes and `pipeline` of SF-RecSAM; `import sfrecsam_hf` does it."""

from importlib import import_module

import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .modeling.configuration_sfrecsam import (
    AUTO_MAP,
    IMAGE_PROCESSOR_AUTO_MAP,
    PIPELINES,
    PROCESSOR_AUTO_MAP,
    SFRecSamConfig,
)


def register() -> None:
    """Registers all that the tables in `configuration_sfrecsam.py` name."""
    AutoConfig.register(SFRecSamConfig.model_type, SFRecSamConfig)
    for auto, name in AUTO_MAP.items():
        if auto != "AutoConfig":
            getattr(transformers, auto).register(SFRecSamConfig, _class(name))
    pil, torchvision = map(_class, IMAGE_PROCESSOR_AUTO_MAP["AutoImageProcessor"])
    AutoImageProcessor.register(SFRecSamConfig, image_processor_classes={"pil": pil, "torchvision": torchvision})
    AutoProcessor.register(SFRecSamConfig, _class(PROCESSOR_AUTO_MAP["AutoProcessor"]))
    # The other two tasks have pipelines for other models, too: a checkpoint names its own in config.json.
    task = "lesion-segmentation"
    PIPELINE_REGISTRY.register_pipeline(task, _class(PIPELINES[task]), pt_model=AutoModel, type="image")


def _class(name: str) -> type:
    module, name = name.split(".")
    return getattr(import_module(f".modeling.{module}", __package__), name)
