"""
Tells transformers' Auto classes and `pipeline` of SF-RecSAM once `sfrecsam_hf` is imported.

Neither `import sfrecsam_hf` nor `sfrecsam --help` should wait for transformers. So what is to be told, names alone, is
added to a table when transformers itself imports the module that holds it; the classes are imported when needed.
"""

import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

AUTO = "transformers.models.auto"
MODEL_TYPE = "sfrecsam"
NAMES = {
    f"{AUTO}.configuration_auto": {"CONFIG_MAPPING_NAMES": "SFRecSamConfig"},
    f"{AUTO}.modeling_auto": {
        "MODEL_MAPPING_NAMES": "SFRecSamModel",
        "MODEL_FOR_IMAGE_SEGMENTATION_MAPPING_NAMES": "SFRecSamModel",
        "MODEL_FOR_MASK_GENERATION_MAPPING_NAMES": "SFRecSamModel",
        "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES": "SFRecSamModel",
    },
    f"{AUTO}.image_processing_auto": {
        "IMAGE_PROCESSOR_MAPPING_NAMES": {"pil": "SFRecSamImageProcessorPil", "torchvision": "SFRecSamImageProcessor"}
    },
    f"{AUTO}.processing_auto": {"PROCESSOR_MAPPING_NAMES": "SFRecSamProcessor"},
    "transformers.pipelines": {},
}


def register_with_transformers() -> None:
    """Completes the tables that are there already, and arranges that the others follow."""
    sys.meta_path.insert(0, _CompletingFinder)
    for name in NAMES.keys() & sys.modules.keys():
        _complete(sys.modules[name])


def _complete(module: ModuleType) -> None:
    # Where transformers looks for the classes of a model type.
    sys.modules[f"transformers.models.{MODEL_TYPE}"] = sys.modules[__package__]
    for table, entry in NAMES[module.__name__].items():
        getattr(module, table)[MODEL_TYPE] = entry
    for table in vars(module).values():
        # Drawn up from the names of the configurations when the module was imported, perhaps before ours was there.
        if hasattr(table, "_reverse_config_mapping"):
            table._reverse_config_mapping["SFRecSamConfig"] = MODEL_TYPE
    if module.__name__ == "transformers.pipelines":
        module.SUPPORTED_TASKS["lesion-segmentation"] = {
            "impl": f"{__package__}.modeling.pipeline_sfrecsam.LesionSegmentationPipeline",
            "pt": (module.AutoModel,),
            "type": "image",
        }


class _CompletingLoader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _complete(module)


class _CompletingFinder(PathFinder):
    @classmethod
    def find_spec(cls, fullname: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname not in NAMES:
            return None
        spec = super().find_spec(fullname, path, target)
        spec.loader = _CompletingLoader(fullname, spec.origin)
        return spec
