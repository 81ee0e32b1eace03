"""Where a model comes from: a checkpoint of ours, checked; any Segment Anything; the branch of another model."""

from typing import TYPE_CHECKING, Self

from safetensors import SafetensorError
from transformers.utils import logging

from .adapters_only import base_of, load_base
from .sam_weights import extended_config, fitted_state, read_sam
from .site_adaptation import adaptation_of, load_adapted
from .whole_checkpoint import refuse_damaged, without_report

if TYPE_CHECKING:  # what brings `from_pretrained` beside this one
    from transformers import PreTrainedModel as AnyModel
else:
    AnyModel = object

logger = logging.get_logger(__name__)


class Sources(AnyModel):
    """Gives a model `from_pretrained`, `from_sam` and `take_branch`."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, *model_args, **kwargs) -> Self:
        """
        As for any model, but a damaged checkpoint is refused. Of one that holds only adapters, the SAM below them is
        fetched too; of one that holds a site's adaptation, the checkpoint below it.

        With `output_loading_info=True` the caller judges what is missing, and nothing is refused for it.

        Raises:
            FileNotFoundError: That SAM is not in reach.
            ValueError: A file of the checkpoint is damaged, or its weights are those of another model.
        """
        source = pretrained_model_name_or_path
        access = {name: kwargs[name] for name in ("token", "cache_dir", "local_files_only") if name in kwargs}
        if source is not None:
            settings = adaptation_of(source, revision=kwargs.get("revision"), **access)
            if settings is not None:
                return load_adapted(cls, source, settings, *model_args, **kwargs)
        judged = source is not None and not kwargs.get("output_loading_info")
        try:
            if judged:
                with without_report():
                    asked = {"output_loading_info": True, "ignore_mismatched_sizes": True}
                    model, info = super().from_pretrained(source, *model_args, **{**kwargs, **asked})
            else:
                loaded = super().from_pretrained(source, *model_args, **kwargs)
                model = loaded[0] if isinstance(loaded, tuple) else loaded
        except SafetensorError as error:
            raise ValueError(
                f"The weight file (model*.safetensors) of {source} is truncated or damaged ({error}); fetch it again."
            ) from error
        if judged:
            if kwargs.get("ignore_mismatched_sizes"):
                info = {**info, "mismatched_keys": set()}
            refuse_damaged(model, info, source, kwargs)
        if model.config.adapters_only:
            load_base(model, **access)
            model.config.adapters_only = False
        return model if judged else loaded

    @classmethod
    def from_sam(
        cls,
        source: str,
        image_size: int | None = None,
        patch_stride: int | None = None,
        window_size: int | None = None,
        hub_options: dict | None = None,
        branch_from: str | None = None,
        **overrides,
    ) -> Self:
        """
        Extends a Segment Anything checkpoint; until it is trained, the result answers as that SAM does.

        Args:
            source (`str`): `"facebook/sam-vit-base"` or any other `SamModel` folder or Hub name (MedSAM, ...), or the
                `.pth` of Segment Anything.
            image_size (`int`, *optional*): Another input side; position parameters are interpolated.
            patch_stride (`int`, *optional*): Another distance between tokens, with the same patch kernel.
            window_size (`int`, *optional*): Another attention window; best is one that divides the token grid.
            hub_options (`dict`, *optional*): For `SamModel.from_pretrained`, such as `{"revision": ...}`.
            branch_from (`str`, *optional*): A checkpoint of ours whose trained branch is taken over.
            overrides: Fields of [`SFRecSamConfig`].

        Returns:
            [`SFRecSamModel`] in evaluation mode; its `sam_report` says what was loaded, interpolated and new.

        Raises:
            FileNotFoundError, ValueError: The source is no SAM checkpoint.
        """
        sam, weights = read_sam(source, **(hub_options or {}))
        overrides |= base_of(source, **(hub_options or {}))
        model = cls(extended_config(sam, image_size, patch_stride, window_size, **overrides))
        fitted, model.sam_report = fitted_state(weights, model.state_dict())
        model.load_state_dict(fitted, strict=False)
        logger.info("%s: %s", source, model.sam_report)
        if branch_from is not None:
            model.take_branch(branch_from)
        return model.eval()

    def take_branch(self, source: str) -> None:
        """
        Takes the trained spatial-frequency branch of another checkpoint over.

        Args:
            source (`str`): Folder or Hub name of a checkpoint of ours.

        Raises:
            ValueError: One of the two has no branch, or the branches differ in size.
        """
        other = type(self).from_pretrained(source)
        shapes = [
            {} if model.branch is None else {name: value.shape for name, value in model.branch.state_dict().items()}
            for model in (self, other)
        ]
        if not shapes[0] or shapes[0] != shapes[1]:
            raise ValueError(
                f"The branch of {source} does not fit; fusion, branch_width, branch_depth and filter_bins must be the "
                "same here and there."
            )
        self.branch.load_state_dict(other.branch.state_dict())
