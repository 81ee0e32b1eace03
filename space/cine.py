"""An opened clip: its frames, what was pointed out on them, and the answers, by the code of `sfrecsam predict`."""

import json
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from pictures import drawn_axes, rings
from scan import Guidance, Shown, read_prompt
from sfrecsam_hf import Segmentation
from sfrecsam_hf.data.clips import Clip
from sfrecsam_hf.data.dicom import Calibration
from sfrecsam_hf.inference.guided import AUTOMATIC, Prompt, agreeing
from sfrecsam_hf.inference.predict_clip import ClipReport, predict_clip
from staged_model import Controls, StagedModel

MAPS = ("probability", "initial_probability", "final_probability", "uncertainty")
MASKS = ("mask", "initial_mask")


@dataclass(frozen=True)
class Kept:
    """An answer, small enough to keep one for each frame: masks as they are, maps in steps of 1/255."""

    shape: tuple[int, ...]
    content: bytes
    presence: float
    score: float

    @classmethod
    def of(cls, found: Segmentation) -> "Kept":
        maps = [np.rint(255 * getattr(found, name)).astype(np.uint8) for name in MAPS]
        masks = [getattr(found, name).astype(np.uint8) for name in MASKS]
        return cls(
            found.mask.shape, zlib.compress(np.stack([*maps, *masks]).tobytes(), 1), found.presence, found.score
        )

    def answer(self) -> Segmentation:
        stack = np.frombuffer(zlib.decompress(self.content), np.uint8).reshape(-1, *self.shape)
        maps = {name: layer / np.float32(255) for name, layer in zip(MAPS, stack, strict=False)}
        masks = {name: layer > 0 for name, layer in zip(MASKS, stack[len(MAPS) :], strict=True)}
        return Segmentation(**maps, **masks, presence=self.presence, score=self.score)


@dataclass(eq=False)
class Cine:
    """
    A clip with its guidance.

    Args:
        name (`str`): File name, as the visitor knows it.
        clip ([`Clip`]): What was opened.
        calibration ([`Calibration`]): Size of its pixels, where known.
        pictures (`Path`): Folder of the frames as the page loads them, `0001.jpg` and so on.
        frame (`int`): Index of the frame that is shown.
        prompts (`dict[int, Prompt]`): Clicks and box by the index of the frame that they are on.
        report ([`ClipReport`], *optional*): What was found, and the files of the whole clip.
        outlines (`Path`, *optional*): Outline and axes of every frame, for the page.
        spent_s (`float`): Seconds that the last answer took.
    """

    name: str
    clip: Clip
    calibration: Calibration
    pictures: Path
    frame: int = 0
    prompts: dict[int, Prompt] = field(default_factory=dict)
    report: ClipReport | None = None
    outlines: Path | None = None
    spent_s: float = 0.0
    _kept: list[Kept] = field(default_factory=list)
    _asked: Any = None

    def answer(
        self, staged: StagedModel, controls: Controls, new_folder: Callable[[], Path], tell: Callable[[int], None]
    ) -> Segmentation:
        """
        The answer to the frame that is shown; segments the whole clip where something else is asked than before.

        Args:
            staged ([`StagedModel`]): Model and processor.
            controls ([`Controls`]): As for one image.
            new_folder (`Callable`): Makes an empty folder for the files of the clip.
            tell (`Callable`): Told how many frames are done.
        """
        asked = dict(self.prompts), controls, self.calibration
        if asked != self._asked:
            self._segment(staged, controls, new_folder(), tell)
            if self._asked is None:
                self.frame = self.report.largest or 0
            self._asked = asked
        return self._kept[self.frame].answer()

    def point_out(self, frames: Any) -> None:
        """
        Replaces all clicks and boxes.

        Args:
            frames (`dict`): By the index of a frame `points`, `labels` and `box`, as for one image.

        Raises:
            ValueError: Something has another form, lies outside the image, or marks background alone.
        """
        if not isinstance(frames, dict):
            raise ValueError("frames must say what was pointed out on each frame.")
        size, prompts = self._image().size, {}
        for index, said in frames.items():
            if not str(index).isdecimal() or int(index) >= self.clip.frames or not isinstance(said, dict):
                raise ValueError(f"The clip has no frame {index}; reload the page.")
            prompt = read_prompt(*(said.get(kind) for kind in ("points", "labels", "box")), size)
            if prompt != AUTOMATIC:
                prompts[int(index)] = prompt
        if any(not prompt.of(1) and prompt.box is None for prompt in prompts.values()):
            raise ValueError("On a clip, mark the lesion before the background beside it.")
        self.prompts = prompts

    def show(self, frame: Any) -> None:
        """Shows another frame."""
        if frame not in range(self.clip.frames):
            raise ValueError(f"The clip has no frame {frame}; reload the page.")
        self.frame = int(frame)

    def shown(self) -> Shown:
        """The frame that is shown, named after its number."""
        name = f"{Path(self.name).stem}_frame_{self.frame + 1:04d}.png"
        guidance = Guidance(self.prompts.get(self.frame, AUTOMATIC))
        return Shown(name, self._image(), self.calibration, guidance)

    def picture(self) -> Path:
        """The frame that is shown, as the page loads it."""
        return self.pictures / f"{self.frame + 1:04d}.jpg"

    def _image(self) -> PIL.Image.Image:
        return self.clip[self.frame]

    def _segment(self, staged: StagedModel, controls: Controls, folder: Path, tell: Callable[[int], None]) -> None:
        started, kept, drawn = time.perf_counter(), [], []

        def seen(index: int, image: PIL.Image.Image, found: Segmentation) -> None:
            tell(index + 1)
            kept.append(Kept.of(found))
            spacing = self.calibration.spacing(found.mask)
            axes = [axis for lesion in found.lesions for axis in drawn_axes(lesion, spacing)]
            drawn.append({"mask": rings(agreeing(found.final_probability, found.mask)), "axes": axes})
            if self._asked is None:
                image.save(self.pictures / f"{index + 1:04d}.jpg", quality=95, subsampling=0)

        prompts = {index: _said(prompt) for index, prompt in self.prompts.items()}
        clip, stem = replace(self.clip, calibration=self.calibration), folder / Path(self.name).stem
        self.report = predict_clip(
            staged.model, staged.processor, clip, stem, prompts, quiet=True, seen=seen, **asdict(controls)
        )
        self._kept, self.outlines, self.spent_s = kept, folder / "outlines.json", time.perf_counter() - started
        self.outlines.write_text(json.dumps(drawn))


def _said(prompt: Prompt) -> dict[str, Any]:
    """A prompt as the model takes it."""
    given: dict[str, Any] = {}
    if prompt.points:
        given |= {"input_points": [list(point) for point in prompt.points], "input_labels": list(prompt.labels)}
    if prompt.box is not None:
        given["input_boxes"] = [list(prompt.box)]
    return given
