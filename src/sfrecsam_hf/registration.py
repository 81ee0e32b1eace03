"""Registers SF-RecSAM with the Auto classes and `pipeline` of transformers; `import sfrecsam_hf` imports it."""

from importlib import import_module

import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
from transformers.pipelines import PIPELINE_REGISTRY

from .modeling.configuration_sfrecsam import (
    AUTO_MAP,
    IMAGE_PROCESSOR_AUTO_MAP,
    PIPELINES,
    PROCESSOR_AUTO_MAP,
    SFRecSamConfig,
)


def _class(name: str) -> type:
    module, name = name.split(".")
    return getattr(import_module(f".modeling.{module}", __package__), name)


AutoConfig.register(SFRecSamConfig.model_type, SFRecSamConfig)
for _auto, _name in AUTO_MAP.items():
    if _auto != "AutoConfig":
        getattr(transformers, _auto).register(SFRecSamConfig, _class(_name))
_pil, _torchvision = map(_class, IMAGE_PROCESSOR_AUTO_MAP["AutoImageProcessor"])
AutoImageProcessor.register(SFRecSamConfig, image_processor_classes={"pil": _pil, "torchvision": _torchvision})
AutoProcessor.register(SFRecSamConfig, _class(PROCESSOR_AUTO_MAP["AutoProcessor"]))
# The other two tasks have pipelines for other models, too: a checkpoint names its own in config.json.
PIPELINE_REGISTRY.register_pipeline(
    "lesion-segmentation", _class(PIPELINES["lesion-segmentation"]), pt_model=AutoModel, type="image"
)
# transformers' own pipeline, which a model in memory gets, copies these names without what was registered, and would
# call the model unsupported.
MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES[SFRecSamConfig.model_type] = AUTO_MAP["AutoModel"].split(".")[1]
