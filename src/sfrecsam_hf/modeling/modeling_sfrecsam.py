"""SF-RecSAM: encode -> prompt -> decode -> correct, as a `SamModel`."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import SamModel
from transformers.models.sam.modeling_sam import (
    SamMaskDecoder,
    SamPositionalEmbedding,
    SamPromptEncoder,
    SamTwoWayAttentionBlock,
)
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder

from .coarse_mask_head import CoarseMaskHead, HighResolutionJoin
from .configuration_sfrecsam import SFRecSamConfig
from .false_corrector import DualFalseCorrector
from .frequency_fusion import SpatialFrequencyBranch
from .layers import row_by_row, stacked
from .losses import heard, weighted_sum
from .model_outputs import (
    EMPTY_LOGIT,
    PromptedGroup,
    PromptedRows,
    SFRecSamCorrection,
    SFRecSamDecoderOutput,
    SFRecSamImageEmbeddings,
    SFRecSamOutput,
    checked_embeddings,
    emptied_below,
    one_per_row,
    repeated,
    share,
    sizes_inside_padding,
    valid_region,
)
from .prompt_fusion import PromptFusion
from .prompts import automatic_prompts, given_prompts, group_by_kind, jittered
from .sample_noise import SampleNoise
from .sources import Sources
from .training_stages import NEW_MODULES, StagedTraining
from .uncertainty import UncertaintyHead, uncertainty_from_samples
from .vision_encoder import SFRecSamPreTrainedModel, SFRecSamVisionEncoder

if TYPE_CHECKING:  # never executed: names the files that travel to the Hub with the model
    from .pipeline_sfrecsam import LesionSegmentationPipeline as LesionSegmentationPipeline

SPOT = 0.005  # of the coarse mask, as large as a small lesion: a single pixel is as sure in many a normal scan


def correction_context(encoded: SFRecSamImageEmbeddings | SFRecSamDecoderOutput) -> Tensor:
    """
    What the correctors see beside probabilities: the pixels, and the coarse mask, which knows the whole image.

    Nothing in it depends on one base more than on another, so correctors learn from the errors of several: those that
    the bases of a cross-validation make on the images that each did not see.

    Args:
        encoded ([`SFRecSamImageEmbeddings`] or [`SFRecSamDecoderOutput`]): Of a batch.

    Returns:
        `torch.Tensor` of shape `(batch, mask_stride ** 2 + 1, height, width)`.
    """
    return stacked(encoded.pixels, encoded.coarse_masks.clamp(-10, 10) / 10)


class SFRecSamModel(Sources, StagedTraining, SFRecSamPreTrainedModel, SamModel):
    r"""
    Segment Anything extended by spatial-frequency fusion, automatic prompts, uncertainty and dual false correction.

    Called with an image alone it prompts itself. With points, boxes or masks it answers those, as `SamModel` does.
    """

    config: SFRecSamConfig
    # Saved before prompt fusion saw the pixels; at zero, as it is then, it answers as it did.
    _keys_to_ignore_on_load_missing = {r"prompt_fusion\.look\."}
    _can_record_outputs = {"mask_decoder_attentions": OutputRecorder(SamTwoWayAttentionBlock, index=2)}

    def __init__(self, config: SFRecSamConfig):
        super(SamModel, self).__init__(config)
        self.shared_image_embedding = SamPositionalEmbedding(config.vision_config)
        self.vision_encoder = SFRecSamVisionEncoder(config.vision_config)
        self.prompt_encoder = SamPromptEncoder(config)
        config.mask_decoder_config._attn_implementation = config._attn_implementation
        self.mask_decoder = SamMaskDecoder(config.mask_decoder_config)

        fused = config.fusion != "none"
        self.branch = None
        if fused:
            self.branch = SpatialFrequencyBranch(
                config.branch_width, config.branch_depth, config.filter_bins, config.fusion == "spatial-frequency"
            )
        embedding_channels, token_stride = config.vision_config.output_channels, config.vision_config.patch_size
        self.coarse_mask_head = CoarseMaskHead(
            embedding_channels,
            token_stride,
            config.branch_channels if fused else (),
            config.decoder_channels,
            config.mask_stride,
        )
        feature_channels = config.decoder_channels[config.mask_stride.bit_length() - 2]
        self.prompt_fusion = PromptFusion(
            feature_channels,
            config.mask_stride**2,
            embedding_channels,
            levels=(token_stride // config.mask_stride).bit_length() - 1,
        )
        self.high_resolution_join = HighResolutionJoin(feature_channels)
        self.uncertainty_head = UncertaintyHead(feature_channels, config.corrector_channels)
        self.corrector = DualFalseCorrector(config.mask_stride**2 + 1, config.corrector_channels, config.correctors)
        self.post_init()
        if config.adapters_only:
            self._keys_to_ignore_on_load_missing |= {rf"^(?!.*({'|'.join(NEW_MODULES)}))"}

    def encode(
        self,
        pixel_values: Tensor,
        reshaped_input_sizes: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        **kwargs,
    ) -> SFRecSamImageEmbeddings:
        """
        Runs the image encoder and the spatial-frequency branch, once per image.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, channels, image_size, image_size)`): From the processor.
            reshaped_input_sizes (`torch.Tensor` of shape `(batch, 2)`, *optional*):
                Height and width of each image inside its padding; without it nothing is padding.
            pixel_mask (`torch.Tensor` of shape `(batch, image_size, image_size)`, *optional*):
                In its place, for padding of any shape: 1 on the image, 0 on padding.
        """
        kwargs["return_dict"] = True  # of the encoder, whatever `forward` is asked for
        valid = valid_region(pixel_values, reshaped_input_sizes, pixel_mask)
        gray = pixel_values.mean(dim=1, keepdim=True) * valid
        pyramid = [] if self.branch is None else self.branch(gray, valid.to(pixel_values.dtype))
        vision = self.vision_encoder(pixel_values, pyramid[3] if pyramid else None, **kwargs)
        features, coarse, presence = self.coarse_mask_head(vision.last_hidden_state, pyramid)
        stride = self.config.mask_stride
        valid = valid[..., stride // 2 :: stride, stride // 2 :: stride]
        coarse = torch.where(valid, coarse, EMPTY_LOGIT)
        # What the head pools over the token grid and the surest spot of the coarse mask err on different images.
        surest = coarse.flatten(1).topk(max(1, round(SPOT * coarse[0].numel()))).values.mean(dim=1)
        presence = (presence + surest) / 2
        return SFRecSamImageEmbeddings(
            image_embeddings=vision.last_hidden_state,
            high_resolution_features=features,
            coarse_masks=coarse,
            presence_logits=presence,
            valid_region=valid,
            pixels=F.pixel_unshuffle(gray, stride),
            vision_hidden_states=vision.hidden_states,
            vision_attentions=vision.attentions,
        )

    @torch.no_grad()
    def get_image_embeddings(
        self, pixel_values: Tensor, reshaped_input_sizes: Tensor | None = None, **kwargs
    ) -> SFRecSamImageEmbeddings:
        """
        What `encode` returns, without gradients: compute it once per image and prompt it as often as you like.

        SAM's pipeline hands over the pixels alone; then the zeros at the right and the bottom are taken for padding.
        """
        if reshaped_input_sizes is None and kwargs.get("pixel_mask") is None:
            reshaped_input_sizes = sizes_inside_padding(pixel_values)
        return self.encode(pixel_values, reshaped_input_sizes, **kwargs)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_boxes: Tensor | None = None,
        input_masks: Tensor | None = None,
        image_embeddings: SFRecSamImageEmbeddings | None = None,
        multimask_output: bool = False,
        labels: Tensor | None = None,
        prompt_labels: Tensor | None = None,
        mc_samples: int | None = None,
        generator: torch.Generator | None = None,
        reshaped_input_sizes: Tensor | None = None,
        original_sizes: Tensor | None = None,
        scan_boxes: Tensor | None = None,
        text: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        suspicion_threshold: float | None = None,
        presence_threshold: float | None = None,
        correctors: tuple[str, ...] | list[str] | None = None,
        sample_noise: SampleNoise | None = None,
        **kwargs,
    ) -> SFRecSamOutput:
        """
        `encode`, `prompt`, `decode`, `correct` and `apply_presence_threshold` in one call.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, channels, image_size, image_size)`, *optional*):
                From the image processor. Give either this or `image_embeddings`.
            input_points (`torch.Tensor` of shape `(batch, prompts, points, 2)`, *optional*):
                `(x, y)` in input pixels. Rows whose labels are all -10 and that have no box prompt themselves.
            input_labels (`torch.Tensor` of shape `(batch, prompts, points)`, *optional*):
                1 foreground, 0 background, -10 no point.
            input_boxes (`torch.Tensor` of shape `(batch, prompts, 4)`, *optional*):
                `(x1, y1, x2, y2)` in input pixels; four times -10 is no box.
            input_masks (`torch.Tensor` of shape `(batch, 1, 4 * grid, 4 * grid)`, *optional*): Mask prompt logits.
            image_embeddings ([`SFRecSamImageEmbeddings`], *optional*): From `get_image_embeddings`.
            multimask_output (`bool`): SAM's three masks per prompt in place of one.
            labels (`torch.Tensor` of shape `(batch, height, width)`, *optional*):
                Ground truth in {0, 1} at any resolution with the input's aspect ratio, padding included.
            prompt_labels (`torch.Tensor` of shape `(batch, prompts, height, width)`, *optional*):
                What each prompt asks for, where that is not all of `labels`.
            mc_samples (`int`, *optional*): Overrides the configuration.
            generator (`torch.Generator`, *optional*): Source of the sampling noise; seed 0 if not given.
            reshaped_input_sizes (`torch.Tensor` of shape `(batch, 2)`, *optional*): From the image processor.
            original_sizes (`torch.Tensor` of shape `(batch, 2)`, *optional*):
                Accepted so that the processor's output can be passed whole; not used.
            scan_boxes (`torch.Tensor` of shape `(batch, 4)`, *optional*),
            text (`torch.Tensor` of shape `(batch, 2, image_size, image_size)`, *optional*):
                From the image processor; handed on to its post-processing with the output.
            pixel_mask (`torch.Tensor` of shape `(batch, image_size, image_size)`, *optional*): As for `encode`.
            suspicion_threshold, presence_threshold (`float`, *optional*): Override the configuration.
            correctors (`Sequence[str]`, *optional*): Overrides the configuration with a subset of it.
            sample_noise ([`SampleNoise`], *optional*): From `draw_noise`, in place of a generator, which compiled
                and exported graphs cannot take.

        Raises:
            ValueError: Neither or both of image and embeddings are given, prompts or labels do not fit, or a switch
                is out of range.
        """
        if (pixel_values is None) == (image_embeddings is None):
            raise ValueError("Give either pixel_values or image_embeddings, and not both.")
        mc_samples = self.config.mc_samples if mc_samples is None else mc_samples
        if mc_samples < 0 or mc_samples % 1:
            raise ValueError(f"mc_samples={mc_samples} must be 0 or more, and whole.")
        share("presence_threshold", presence_threshold, 0.0)
        if unknown := set(correctors or ()) - set(self.config.correctors):
            raise ValueError(f"correctors={correctors} names {unknown}, but this model has {self.config.correctors}.")
        correcting = self.training_stage != 1 or not self.training

        with torch.set_grad_enabled(torch.is_grad_enabled() and self.training_stage != 2):
            if image_embeddings is None:
                encoded = self.encode(pixel_values, reshaped_input_sizes, pixel_mask, **kwargs)
            else:
                encoded = checked_embeddings(image_embeddings)
            prompted = self.prompt(encoded, input_points, input_labels, input_boxes, input_masks)
            if not correcting or not mc_samples:
                sample_noise = None
            elif sample_noise is None:
                sample_noise = self.draw_noise(mc_samples, generator)
            decoded = self.decode(prompted, multimask_output, sample_noise)
        correction = self.correct(decoded, suspicion_threshold, correctors) if correcting else None

        further: dict[str, Any] = {"scan_boxes": scan_boxes, "text": text}
        if labels is not None:
            terms = self.loss_terms(labels, prompt_labels, prompted, decoded, correction)
            further |= {"loss": heard(weighted_sum(terms), self.parameters()), "loss_terms": terms}
        output = SFRecSamOutput.from_stages(decoded, correction, **further)
        return output if self.training else self.apply_presence_threshold(output, presence_threshold)

    def prompt(
        self,
        image_embeddings: SFRecSamImageEmbeddings,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_boxes: Tensor | None = None,
        input_masks: Tensor | None = None,
    ) -> PromptedRows:
        """
        One row per mask to decode: the caller's prompts where there are any, automatic ones elsewhere.

        Args:
            image_embeddings ([`SFRecSamImageEmbeddings`]): From `encode`.
            input_points, input_labels, input_boxes, input_masks: As for `forward`.

        Returns:
            [`PromptedRows`]: What `decode` takes.

        Raises:
            ValueError: The prompts do not fit each other or the images.
        """
        batch, device = image_embeddings.presence_logits.shape[0], image_embeddings.image_embeddings.device
        image_size = self.config.vision_config.image_size
        mask_size = 4 * self.config.prompt_encoder_config.image_embedding_size
        given, prompts_per_image = given_prompts(
            input_points, input_labels, input_boxes, input_masks, batch, image_size, mask_size
        )
        rows = image_embeddings.repeat_interleave(prompts_per_image)
        groups = []
        automatic = torch.zeros(batch * prompts_per_image, dtype=torch.bool, device=device)
        for index, prompts in group_by_kind(given, batch * prompts_per_image):
            index = index.to(device)
            own = prompts is None
            if own:
                automatic[index] = True
                prompts = automatic_prompts(rows.coarse_masks[index], image_size, self.config.box_margin, mask_size)
            groups.append(PromptedGroup(index, prompts, own))
        return self._fused(PromptedRows(image_embeddings, rows, groups, automatic, prompts_per_image))

    def _fused(self, prompted: PromptedRows) -> PromptedRows:
        """
        The rows with the caller's prompts in their high-resolution features.

        Automatic prompts come from these features and tell them nothing; fusing them too cost validation Dice.
        """
        image_size = self.config.vision_config.image_size
        features = [
            part.high_resolution_features
            if group.automatic
            else self.prompt_fusion(
                part.high_resolution_features, part.pixels, part.image_embeddings, group.prompts, image_size
            )
            for part, group in prompted.parts()
        ]
        return prompted.with_features(prompted.in_order(features))

    def draw_noise(self, samples: int | None = None, generator: torch.Generator | None = None) -> SampleNoise:
        """The noise that `forward` draws itself if it is given none: `config.mc_samples` passes, seed 0."""
        return SampleNoise.draw(
            self.config.mc_samples if samples is None else samples,
            embedding_channels=self.config.vision_config.output_channels,
            feature_channels=self.coarse_mask_head.classify.in_channels,
            dropout=self.config.sample_dropout,
            jitter=self.config.prompt_jitter,
            generator=generator,
        ).to(self.device, self.dtype)

    def decode(
        self, prompted: PromptedRows, multimask_output: bool = False, sample_noise: SampleNoise | None = None
    ) -> SFRecSamDecoderOutput:
        """
        Runs SAM's decoder and the high-resolution join, once without noise and once for each sample.

        Args:
            prompted ([`PromptedRows`]): From `prompt`.
            multimask_output (`bool`): SAM's three masks per prompt in place of one.
            sample_noise ([`SampleNoise`], *optional*): From `draw_noise`; without it there are no samples.

        Returns:
            [`SFRecSamDecoderOutput`]: What `correct` takes.
        """
        decoded = [self._decode_group(part, group, multimask_output, sample_noise) for part, group in prompted.parts()]
        masks, iou_scores = zip(*decoded, strict=True)
        masks, iou_scores = prompted.in_order(masks, dim=1), prompted.in_order(iou_scores)
        masks = torch.where(prompted.rows.valid_region[None], masks, EMPTY_LOGIT)
        masks = masks.unflatten(1, (-1, prompted.prompts_per_image))
        embeddings = prompted.image_embeddings
        return SFRecSamDecoderOutput(
            iou_scores=prompted.per_image(iou_scores),
            initial_masks=masks[0],
            sample_masks=None if sample_noise is None else masks[1:],
            high_resolution_features=embeddings.high_resolution_features,
            pixels=embeddings.pixels,
            coarse_masks=embeddings.coarse_masks,
            presence_logits=embeddings.presence_logits,
            prompt_is_automatic=prompted.per_image(prompted.automatic),
            vision_hidden_states=embeddings.vision_hidden_states,
            vision_attentions=embeddings.vision_attentions,
            **prompted.used_prompts(),
        )

    def _decode_group(
        self,
        encoded: SFRecSamImageEmbeddings,
        group: PromptedGroup,
        multimask_output: bool,
        noise: SampleNoise | None,
    ) -> tuple[Tensor, Tensor]:
        """
        Logits of shape `(1 + samples, rows, masks, height, width)`, the first without noise, and IoU estimates of
        shape `(rows, masks)`; all samples of a group are one batch.
        """
        image, features, prompts = encoded.image_embeddings, encoded.high_resolution_features, group.prompts
        count = image.shape[0]
        if noise is not None:
            image = (image * noise.embedding).flatten(0, 1)
            features = (features * noise.features).flatten(0, 1)
            prompts = jittered(prompts, noise.prompts, self.config.vision_config.image_size)
        elif self.training:
            image = F.dropout2d(image, self.config.sample_dropout)
            features = F.dropout2d(features, self.config.sample_dropout)
        sparse, dense = self.prompt_encoder(
            input_points=None if prompts.points is None else prompts.points[:, None],
            input_labels=None if prompts.labels is None else prompts.labels[:, None],
            input_boxes=None if prompts.boxes is None else prompts.boxes[:, None],
            input_masks=None if prompts.masks is None else prompts.masks.to(image.dtype),
        )
        rough = self.coarse_mask_head.classify(features)
        if prompts.masks is not None and not group.automatic:
            rough = F.interpolate(prompts.masks.to(image.dtype), size=features.shape[-2:], mode="bilinear")
        masks, iou_scores = self.mask_decoder(
            image_embeddings=image,
            image_positional_embeddings=self.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask_output,
        )
        per_prompt = masks.shape[2]
        masks = row_by_row(
            self.high_resolution_join,
            masks.flatten(0, 2)[:, None],
            repeated(features, per_prompt),
            repeated(rough, per_prompt),
        )
        return masks.view(-1, count, per_prompt, *masks.shape[-2:]), iou_scores[:count, 0]

    def correct(
        self,
        decoded: SFRecSamDecoderOutput,
        suspicion_threshold: float | None = None,
        correctors: tuple[str, ...] | list[str] | None = None,
    ) -> SFRecSamCorrection:
        """
        Finds the suspicious region of each initial mask and corrects inside it.

        No gradient flows back into `decoded`: the correctors learn on a fixed base (paper section 3.4).

        Args:
            decoded ([`SFRecSamDecoderOutput`]): From `decode`.
            suspicion_threshold (`float`, *optional*): Overrides the configuration.
            correctors (`Sequence[str]`, *optional*): Overrides the configuration with a subset of it.

        Returns:
            [`SFRecSamCorrection`], which [`SFRecSamOutput.from_stages`] joins with `decoded`.
        """
        threshold = share("suspicion_threshold", suspicion_threshold, self.config.suspicion_threshold)
        shape = decoded.initial_masks.shape
        initial = one_per_row(decoded.initial_masks.detach())
        features = repeated(decoded.high_resolution_features.detach(), shape[1] * shape[2])
        context = repeated(correction_context(decoded).detach(), shape[1] * shape[2])
        possible = initial > EMPTY_LOGIT
        entropy_logits = self.uncertainty_head(features, initial.sigmoid())
        if decoded.sample_masks is not None:
            samples = decoded.sample_masks.detach().flatten(1, 3)[:, :, None].sigmoid() * possible
            mean, entropy, information = uncertainty_from_samples(samples)
        else:
            mean, entropy = initial.float().sigmoid(), entropy_logits.detach().float().sigmoid() * possible
            information = torch.zeros_like(entropy)
        corrected = self.corrector(
            mean_probability=mean,
            uncertainty=entropy,
            mutual_information=information,
            features=context,
            initial_logits=initial,
            suspicion_threshold=threshold,
            correctors=self.config.correctors if correctors is None else correctors,
        )
        maps = {
            "pred_masks": corrected.logits,
            "mean_probability": mean,
            "predictive_entropy": entropy,
            "mutual_information": information,
            "suspicious_region": corrected.suspicious_region,
            "false_positive_logits": corrected.false_positive_logits,
            "false_negative_logits": corrected.false_negative_logits,
            "entropy_logits": entropy_logits,
        }
        return SFRecSamCorrection(**{name: value.view(shape) for name, value in maps.items() if value is not None})

    def apply_presence_threshold(
        self, output: SFRecSamOutput, presence_threshold: float | None = None
    ) -> SFRecSamOutput:
        """
        Empties the masks of self-prompted images in which the presence score sees no lesion.

        Probability and uncertainty stay those of a lesion that may be there all the same: the mask's probability
        times that of presence, and the entropy of this product. A score just below the threshold is not shown as
        certain tissue.

        Args:
            output ([`SFRecSamOutput`]): Of a corrected batch.
            presence_threshold (`float`, *optional*): Presence probability below which a mask is emptied; the
                configuration's if not given.

        Returns:
            [`SFRecSamOutput`] in which the masks concerned are empty and nothing in them is suspicious.
        """
        return emptied_below(output, share("presence_threshold", presence_threshold, self.config.presence_threshold))


SFRecSamModel.register_for_auto_class("AutoModel")

__all__ = [
    "SFRecSamCorrection",
    "SFRecSamDecoderOutput",
    "SFRecSamImageEmbeddings",
    "SFRecSamModel",
    "SFRecSamOutput",
]
