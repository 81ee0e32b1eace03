"""The model's public stages with their results kept: a new prompt or a moved slider repeats only what it must."""

from dataclasses import dataclass
from pathlib import Path

import PIL.Image
import torch

from sfrecsam_hf import (
    Segmentation,
    SFRecSamDecoderOutput,
    SFRecSamImageEmbeddings,
    SFRecSamModel,
    SFRecSamOutput,
    SFRecSamProcessor,
)
from sfrecsam_hf.inference.guided import AUTOMATIC, Prompt
from sfrecsam_hf.inference.identity import checkpoint_hash
from sfrecsam_hf.modeling.closer_look import Click, look_closer
from sfrecsam_hf.modeling.scan_frame import ScanFrame
from sfrecsam_hf.modeling.segmentation import segmentations


@dataclass(frozen=True)
class Controls:
    """What the sliders say; each field means what it means in [`SFRecSamModel.forward`]."""

    mc_samples: int
    suspicion_threshold: float
    presence_threshold: float
    correctors: tuple[str, ...]


@dataclass(frozen=True)
class EncodedImage:
    r"""
    An image, and all that the encoder says about it.

    Args:
        image (`PIL.Image.Image`): RGB, upright.
        frame ([`ScanFrame`]): What the encoder was not shown.
        pixel_values (`torch.Tensor` of shape `(1, 3, size, size)`): The model's input.
        text (`torch.Tensor` of shape `(1, 2, size, size)`): From the processor, for post-processing.
        reshaped_size (`torch.Tensor` of shape `(1, 2)`): Height and width of the scan inside the input's padding.
        embeddings ([`SFRecSamImageEmbeddings`]): From `get_image_embeddings`.
    """

    image: PIL.Image.Image
    frame: ScanFrame
    pixel_values: torch.Tensor
    text: torch.Tensor
    reshaped_size: torch.Tensor
    embeddings: SFRecSamImageEmbeddings


class StagedModel:
    """
    Encodes an image once, decodes once per prompt and number of samples, corrects whenever asked.

    Stage by stage it answers exactly as [`segment`] does in one go.

    Args:
        model ([`SFRecSamModel`]): In evaluation mode.
        processor ([`SFRecSamProcessor`]): Belonging to the model.
    """

    def __init__(self, model: SFRecSamModel, processor: SFRecSamProcessor):
        self.model = model
        self.processor = processor
        source = model.config.name_or_path
        self.checkpoint = Path(source).resolve().name if Path(source).is_dir() else source
        self.revision = getattr(model.config, "_commit_hash", None) or checkpoint_hash(model, processor)

    def default_controls(self) -> Controls:
        """The settings that the checkpoint was calibrated with."""
        config = self.model.config
        return Controls(
            config.mc_samples, config.suspicion_threshold, config.presence_threshold, tuple(config.correctors)
        )

    def warm_up(self) -> None:
        """Answers once for nothing, so that the first visitor does not wait for what is prepared only once."""
        encoded, controls = self.encode(PIL.Image.new("RGB", (64, 64))), self.default_controls()
        self.correct(encoded, self.decode(encoded, AUTOMATIC, controls.mc_samples), controls)

    @torch.inference_mode()
    def encode(self, image: PIL.Image.Image) -> EncodedImage:
        """Runs the image encoder: the slow part, once per image."""
        inputs = self.processor(image).to(self.model.device, self.model.dtype)
        frame = ScanFrame(tuple(inputs["scan_boxes"][0].tolist()), image.size)
        reshaped_size = inputs["reshaped_input_sizes"].int()
        embeddings = self.model.get_image_embeddings(inputs["pixel_values"], reshaped_size)
        return EncodedImage(image, frame, inputs["pixel_values"], inputs["text"], reshaped_size, embeddings)

    @torch.inference_mode()
    def decode(self, encoded: EncodedImage, prompt: Prompt, mc_samples: int) -> SFRecSamDecoderOutput:
        """Decodes the initial mask and the stochastic passes."""
        frame = encoded.frame
        given: dict[str, list] = {}
        if prompt.points:
            given |= {"input_points": [prompt.points], "input_labels": [prompt.labels]}
        if prompt.box is not None:
            given["input_boxes"] = [prompt.box]
        mapped = self.processor.map_prompts([frame.size[::-1]], [frame.box], **given)
        prompts = {name: torch.from_numpy(value).to(self.model.device) for name, value in mapped.items()}
        prompted = self.model.prompt(encoded.embeddings, **prompts)
        return self.model.decode(prompted, sample_noise=self.model.draw_noise(mc_samples) if mc_samples else None)

    @torch.inference_mode()
    def correct(self, encoded: EncodedImage, decoded: SFRecSamDecoderOutput, controls: Controls) -> Segmentation:
        """Runs the corrector on decoded masks, and empties them where the model sees no lesion."""
        correction = self.model.correct(decoded, controls.suspicion_threshold, controls.correctors)
        boxes = torch.tensor([encoded.frame.box])
        output = SFRecSamOutput.from_stages(decoded, correction, scan_boxes=boxes, text=encoded.text)
        output = self.model.apply_presence_threshold(output, controls.presence_threshold)
        return segmentations(output, [encoded.frame.size[::-1]], self.processor.image_processor)[0]

    def look_closer(
        self, found: Segmentation, encoded: EncodedImage, prompt: Prompt, controls: Controls
    ) -> Segmentation:
        """Asks about a part of the image where the answer leaves out a click on a lesion, as [`segment`] does."""

        def answer(part: PIL.Image.Image, clicks: list[Click]) -> Segmentation:
            points, labels = tuple((x, y) for x, y, _ in clicks), tuple(label for *_, label in clicks)
            near, clicked = self.encode(part), Prompt(points, labels)
            return self.correct(near, self.decode(near, clicked, controls.mc_samples), controls)

        clicks = [(*point, label) for point, label in zip(prompt.points, prompt.labels, strict=True)]
        return look_closer(found, encoded.image, clicks, answer)
