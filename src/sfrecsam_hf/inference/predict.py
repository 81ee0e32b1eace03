"""Segments files, folders and globs into pictures and tables, in constant memory, on any number of processes."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.accelerator import is_available
from tqdm import tqdm

from ..data.clips import is_clip, open_clip
from ..data.dicom import DICOM_EXTENSIONS, Calibration, is_dicom, read_dicom
from ..modeling.image_reading import max_megapixels, read_rgb
from ..modeling.modeling_sfrecsam import SFRecSamModel
from ..modeling.segmentation import Segmentation, segment_batch
from .formats import Answer, check, encoded, joined_coco
from .identity import checkpoint_hash, content_hash
from .inputs import OWN, Picture, find_pictures, shown, signed
from .predict_clip import ClipReport, predict_clip
from .report import write_report
from .tables import REMEMBERED, Part, Row, Tables, rows_of
from .visualization import ADDED, CONTOUR, REMOVED, VIRIDIS, answer_picture, corrections, heatmap, keyed
from .writing import in_words, is_full, replacing

UNCERTAINTY = {"1 bit": VIRIDIS[8], "0.5 bit": VIRIDIS[4], "0.25 bit": VIRIDIS[2]}
KINDS = ("mask", "overlay", "uncertainty", "corrections")
Spacing = tuple[float, float] | None
PATIENCE = timedelta(days=7)  # a process that has done its share waits for the others


@dataclass
class PredictionReport:
    """
    What a run did.

    Args:
        rows (`list[Row]`): One for each image that was asked for, in the order of the inputs.
        problems (`list[str]`): A sentence for each input that could not be used.
        left_out (`list[str]`): A sentence for each kind of file that is no scan.
        kept (`int`): How many rows are those of an earlier run.
        clips (`dict[str, ClipReport]`): What was found in each clip, by its name.
    """

    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    kept: int = 0
    clips: dict[str, ClipReport] = field(default_factory=dict)


@dataclass
class _Scan:
    """One input that was read."""

    picture: Picture
    image: PIL.Image.Image
    calibration: Calibration
    content: str
    is_dicom: bool


def predict(
    model: SFRecSamModel,
    processor: Any,
    inputs: list[str],
    output: str | Path,
    batch_size: int = 4,
    prompts: dict[str, Any] | None = None,
    resume: bool = False,
    quiet: bool = False,
    mm_per_pixel: float | None = None,
    formats: Sequence[str] = (),
    report: bool = False,
    frame: int = 1,
    **options: Any,
) -> PredictionReport:
    """
    Writes mask, overlay, uncertainty and corrections of every image, `predictions.csv` and `lesions.csv`.

    Whatever goes wrong with one image is reported and does not stop the others. Rows of an earlier run stay where
    their images are not asked for. Under `accelerate launch` the images are dealt out to the processes, and each of
    them returns the report of all.

    Args:
        model ([`SFRecSamModel`]): In evaluation mode.
        processor ([`SFRecSamProcessor`]): Belonging to the model.
        inputs (`list[str]`): Files, folders (searched at every depth) and globs.
        output (`str`): Folder; sub-folders of the inputs are mirrored. Nothing below it is an input.
        batch_size (`int`): Images per batch.
        prompts (`dict`, *optional*): `input_points`, `input_labels`, `input_boxes` of one image, used for all.
        resume (`bool`): Keep an image's row of an earlier run if path, content, settings and checkpoint are the same.
        quiet (`bool`): No progress bar.
        mm_per_pixel (`float`, *optional*): Size of a pixel in images that do not tell it themselves.
        formats (`Sequence[str]`): Of [`~sfrecsam_hf.inference.formats.FORMATS`], beside the pictures.
        report (`bool`): Also write `report.html`, a page to look through.
        frame (`int`): Frame of a clip that the prompts are on, counted from 1; followed from there in both directions.
        options: As for [`segment`].

    Raises:
        FileNotFoundError: None of the inputs exists.
        OSError: The output folder cannot be written to, or its disk is full. What was done is kept.
        ValueError: There is no scan, or two scans would be written to the same place.
    """
    for format in formats:
        check(format)
    found, output = find_pictures(inputs, output), Path(output)
    state = PartialState(cpu=not is_available(), timeout=PATIENCE)
    settings = {**(prompts or {}), **options, "mm_per_pixel": mm_per_pixel, "formats": sorted(formats)}
    settings = {name: value for name, value in settings.items() if value not in (None, [])}
    asked = {"settings": json.dumps(settings, sort_keys=True), "checkpoint": checkpoint_hash(model, processor)}
    run = _Run(model, processor, output, batch_size, prompts or {}, options, asked, mm_per_pixel, formats)
    clips = [picture for picture in found.pictures if is_clip(picture.path)]
    stills = [picture for picture in found.pictures if picture not in clips]
    names = [picture.name for picture in stills]
    try:
        output.mkdir(parents=True, exist_ok=True)
        if state.is_main_process:
            Tables.read(output).write(output)
        state.wait_for_everyone()
        finished = _finished(output, stills, asked) if resume else set()
        left = [picture for picture in stills if picture.name not in finished]
        mine = left[state.process_index :: state.num_processes]
        run.segment(mine, Part(output, state.process_index), quiet or not state.is_main_process)
        run.segment_clips(clips if state.is_main_process else [], frame, quiet)
        problems = gather_object(list(run.problems.items()))
        if state.is_main_process:
            tables = Tables.read(output).without(name for name, _ in problems).sorted(names)
            tables.write(output)
            _write_joined(output, tables, formats)
            if report:
                write_report(output, tables, model.config.presence_threshold)
        state.wait_for_everyone()
        tables = Tables.read(output)
    except OSError as error:
        if error.errno is None:
            raise
        raise type(error)(in_words(error, output)) from error
    rows = [tables.images[name] for name in names if name in tables.images]
    sentences = [*found.missing, *(sentence for _, sentence in problems)]
    left_out = found.left_out_in_words()
    if clips and (formats or report or options.get("mirror")):
        left_out.append(f"{len(clips)} clips are left out of other formats, report.html and --mirror")
    return PredictionReport(rows, sentences, left_out, len(finished), run.clips)


def _finished(output: Path, pictures: list[Picture], asked: dict[str, str]) -> set[str]:
    """The images whose rows answer what is asked now, and whose pictures are there."""
    tables, finished = Tables.read(output), set()
    for picture in pictures:
        row = tables.images.get(picture.name)
        now = asked | {"source": shown(picture.path)}
        if row is None or any(row[key] != value for key, value in now.items()):
            continue
        try:
            there = all((output / f"{picture.name}_{kind}.png").is_file() for kind in KINDS)
            if there and row["content"] == content_hash(picture.path):
                finished.add(picture.name)
        except OSError:  # said where it is read
            pass
    return finished


@dataclass
class _Run:
    """What is the same for all images, and what went wrong, by the name of the image."""

    model: SFRecSamModel
    processor: Any
    output: Path
    batch_size: int
    prompts: dict[str, Any]
    options: dict[str, Any]
    asked: dict[str, str]
    mm_per_pixel: float | None
    formats: Sequence[str]
    problems: dict[str, str] = field(default_factory=dict)
    clips: dict[str, ClipReport] = field(default_factory=dict)

    def segment_clips(self, clips: list[Picture], frame: int, quiet: bool) -> None:
        """Segments clips one after the other; each is done anew, also where an earlier run did it."""
        for picture in clips:
            try:
                clip = open_clip(picture.path)
                if self.prompts and frame > clip.frames:
                    raise ValueError(f"{shown(picture.path)} has {clip.frames} frames, so that none is frame {frame}.")
                prompts = {frame - 1: self.prompts} if self.prompts else None
                stem, more = self.output / picture.name, {"formats": self.formats, **self.options}
                self.clips[picture.name] = predict_clip(
                    self.model, self.processor, clip, stem, prompts, self.mm_per_pixel, quiet, **more
                )
            except Exception as error:  # whatever is wrong with one clip stops no other
                if isinstance(error, OSError) and is_full(error):
                    raise
                self._report(picture, error)

    def segment(self, pictures: list[Picture], part: Part, quiet: bool) -> None:
        """Segments these images, and reads the next batch while the model works on this one."""
        batches = self._batches(pictures)
        bar = tqdm(total=len(pictures), desc="segmenting", disable=quiet)
        try:
            with ThreadPoolExecutor(max_workers=1) as reader:
                upcoming = reader.submit(next, batches, None)
                while (batch := upcoming.result()) is not None:
                    upcoming = reader.submit(next, batches, None)
                    for scan, answer in self._answers(batch):
                        self._keep(scan, answer, part)
                    bar.update(len(batch))
        finally:
            bar.close()
            part.close()

    def _batches(self, pictures: list[Picture]) -> Iterator[list[_Scan]]:
        """Batches that hold no more pixels together than one image may have."""
        batch: list[_Scan] = []
        for picture in pictures:
            try:
                scan = _read(picture)
            except Exception as error:  # whatever is wrong with one file stops no other
                self._report(picture, error)
                continue
            pixels = sum(other.image.width * other.image.height for other in (*batch, scan))
            if batch and (len(batch) == self.batch_size or pixels > max_megapixels() * 1e6):
                yield batch
                batch = []
            batch.append(scan)
        if batch:
            yield batch

    def _answers(self, batch: list[_Scan]) -> Iterator[tuple[_Scan, Segmentation]]:
        """The answers to a batch; one by one if something is wrong with one of its images."""
        try:
            pairs = [(scan.image, self.prompts) for scan in batch]
            found = segment_batch(self.model, self.processor, pairs, **self.options)
        except Exception as error:
            if len(batch) == 1:
                self._report(batch[0].picture, error)
            else:
                for scan in batch:
                    yield from self._answers([scan])
            return
        yield from zip(batch, found, strict=True)

    def _keep(self, scan: _Scan, answer: Segmentation, part: Part) -> None:
        """Measures one answer and writes it: all of it, or nothing and a problem."""
        try:
            spacings = [self._spacing(scan, lesion.placed(answer.mask.shape)) for lesion in answer.lesions]
            row, lesions = rows_of(scan.picture.name, answer, spacings)
            name, label = shown(scan.picture.path.name), self.model.config.id2label[1]
            dicom = scan.picture.path if scan.is_dicom else None
            whole = Answer(name, scan.image, answer, next(iter(spacings), None), dicom, label)
            _write(self.output / scan.picture.name, whole, spacings, self.formats)
        except Exception as error:
            if isinstance(error, OSError) and is_full(error):
                raise
            self._report(scan.picture, error)
            return
        remembered = (shown(scan.picture.path), scan.content, self.asked["settings"], self.asked["checkpoint"])
        part.add(row | dict(zip(REMEMBERED, remembered, strict=True)), lesions)

    def _spacing(self, scan: _Scan, lesion: np.ndarray) -> Spacing:
        given = None if self.mm_per_pixel is None else (self.mm_per_pixel, self.mm_per_pixel)
        return scan.calibration.spacing(lesion) or given

    def _report(self, picture: Picture, error: Exception) -> None:
        place = shown(picture.path)
        said = in_words(error, picture.path) if isinstance(error, OSError) and error.errno else shown(str(error))
        self.problems[picture.name] = said if place in said else f"{place}: {said}"


def _read(picture: Picture) -> _Scan:
    path = picture.path
    content = content_hash(path)
    if path.suffix.lower() in DICOM_EXTENSIONS or is_dicom(path):
        return _Scan(picture, *read_dicom(path, shown(path)), content, is_dicom=True)
    return _Scan(picture, read_rgb(path), Calibration(), content, is_dicom=False)


def _write_joined(output: Path, tables: Tables, formats: Sequence[str]) -> None:
    """One COCO file of all images whose last answer has one, beside one for each."""
    for format in {"coco", "coco-rle"} & set(formats):
        ending = f"_{format.replace('-', '_')}.json"
        has = [
            name
            for name, row in tables.images.items()
            if format in json.loads(row["settings"] or "{}").get("formats", [])
        ]
        files = [path for name in has if (path := output / f"{name}{ending}").is_file()]
        with replacing(output / f"{OWN}{ending}") as fresh:
            fresh.write_text(json.dumps(joined_coco(files)), encoding="utf-8")


def _write(stem: Path, answer: Answer, spacings: list[Spacing], formats: Sequence[str]) -> None:
    """The files of one image: all of them or none."""
    image, found = answer.scan, answer.found
    changed = {"lesion": CONTOUR, "added": ADDED, "removed": REMOVED}
    pictures = (
        PIL.Image.fromarray(found.mask.astype(np.uint8) * 255),
        answer_picture(image, found, spacings),
        keyed(heatmap(image, found.uncertainty), UNCERTAINTY, found.mask),
        keyed(corrections(image, found.initial_mask, found.mask), changed, found.mask),
    )
    stem.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as whole:
        for kind, picture in zip(KINDS, pictures, strict=True):
            fresh = whole.enter_context(replacing(stem.with_name(f"{stem.name}_{kind}.png")))
            # A higher compression takes thrice the time for a tenth less.
            picture.save(fresh, format="PNG", compress_level=1, pnginfo=signed())
        for format in formats:
            for ending, content in encoded(format, answer).items():
                whole.enter_context(replacing(stem.with_name(stem.name + ending))).write_bytes(content)
