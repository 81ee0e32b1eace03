"""The Space through its API: the masks of the pipeline, one encoding per image, visits apart, nothing left behind."""

import csv
import dataclasses
import io
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections import defaultdict
from pathlib import Path

import gradio as gr
import highdicom
import httpx
import nibabel
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageOps
import PIL.ImageSequence
import pydicom
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from pycocotools.coco import COCO
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
from test_clips import COUNT, panned, write
from transformers import pipeline

import batch
import uploads
from actions import Actions
from downloads import OTHER_FORMATS
from explain import frequency_story
from pictures import rings
from sample_list import SAMPLES as PICKED
from scan import Guidance
from sfrecsam_hf import Segmentation, segment
from sfrecsam_hf.data.clips import open_clip
from sfrecsam_hf.evaluation.metrics import overlap
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.inference.formats import FORMATS
from sfrecsam_hf.inference.guided import AUTOMATIC, Prompt, guided
from sfrecsam_hf.inference.identity import checkpoint_hash
from sfrecsam_hf.inference.predict_clip import predict_clip
from sfrecsam_hf.inference.visualization import ADDED, CONTOUR, REMOVED
from staged_model import Controls, StagedModel
from uploads import read_upload
from visits import IDLE_SECONDS, Visit, sweep
from words import head_line, initial_is_better

SPACE = Path(__file__).resolve().parents[1] / "space"
SAMPLES = sorted(path for path in (SPACE / "samples").glob("*.png") if not path.stem.endswith("_mask"))

CONTROLS = Controls(2, 0.5, 0.5, ("fp", "fn"))


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint):
    return load_checkpoint(tiny_checkpoint, "cpu")


@pytest.fixture(scope="module")
def staged(loaded):
    return StagedModel(*loaded)


@pytest.fixture
def client(space_page, tmp_path):
    return Client(space_page.local_url, download_files=str(tmp_path / "downloads"), verbose=False)


def handed(path):
    return handle_file(str(path))


def pixels(path) -> np.ndarray:
    return np.asarray(PIL.Image.open(path)) > 0


def expected(loaded, path, prompt=AUTOMATIC, **options):
    """What the package says, with the rules of the Space for clicks and boxes."""

    def answer(asked):
        given = {}
        if asked.points:
            given |= {"input_points": [list(point) for point in asked.points], "input_labels": list(asked.labels)}
        if asked.box:
            given["input_boxes"] = [list(asked.box)]
        return next(segment(*loaded, [(str(path), given)], **options))

    return guided(prompt, answer)


def test_the_same_mask_and_numbers_as_the_pipeline(client, tiny_checkpoint):
    segmenter = pipeline("lesion-segmentation", model=str(tiny_checkpoint), trust_remote_code=True)
    mask, numbers = client.predict(handed(SAMPLES[0]), api_name="/segment")
    wanted = segmenter(str(SAMPLES[0]))
    assert np.array_equal(pixels(mask), np.asarray(wanted["mask"]) > 0)
    assert 0 < wanted["measurements"]["area"] < pixels(mask).size
    for name, value in wanted["measurements"].items():
        assert numbers[name] == pytest.approx(value, abs=1e-5), name
    assert numbers["estimated_iou"] == pytest.approx(wanted["score"], abs=1e-5)
    assert "not for diagnosis" in numbers["notice"]
    assert numbers["revision"] == checkpoint_hash(*load_checkpoint(tiny_checkpoint, "cpu"))
    assert numbers["mm_per_pixel"] is None


PROMPTS = {
    "point": {"points": [[100, 120]]},
    "points": {"points": [[100, 120], [20, 30]], "labels": [1, 0]},
    "box": {"box": [150, 160, 40, 60]},
    "box and point": {"points": [[90, 100]], "labels": [1], "box": [40, 60, 150, 160]},
}


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("framed", [False, True], ids=["scan", "scan in a frame"])
def test_prompts_are_answered_by_the_rules_of_the_package(client, loaded, tmp_path, prompts, framed):
    path = SAMPLES[0]
    if framed:
        path = tmp_path / "framed.png"
        PIL.ImageOps.expand(PIL.Image.open(SAMPLES[0]), (30, 20, 60, 10), 0).save(path)
    mask, numbers = client.predict(handed(path), **prompts, api_name="/segment")
    points, box = (tuple(map(tuple, prompts.get("points", ()))), prompts.get("box"))
    box = (*np.reshape(box, (2, 2)).min(0), *np.reshape(box, (2, 2)).max(0)) if box else None
    wanted = expected(loaded, path, Prompt(points, tuple(prompts.get("labels", [1] * len(points))), box))
    assert wanted.mask.any()
    assert np.array_equal(pixels(mask), wanted.mask)
    assert numbers["guidance"]["points"] == [list(point) for point in points]
    assert not wanted.uncertainty[:, :30].any() or not framed


@pytest.mark.parametrize(
    "options",
    [
        {"mc_samples": 0},
        {"mc_samples": 5, "suspicion_threshold": 0.5},
        {"suspicion_threshold": 0.2, "correctors": ["fp"]},
        {"correctors": []},
        {"presence_threshold": 1.0},
    ],
    ids=str,
)
def test_every_control_means_what_it_means_to_the_model(client, loaded, options):
    mask, numbers = client.predict(handed(SAMPLES[1]), **options, api_name="/segment")
    wanted = expected(loaded, SAMPLES[1], **options)
    assert np.array_equal(pixels(mask), wanted.mask)
    assert numbers["mean_uncertainty"] == pytest.approx(wanted.measurements()["mean_uncertainty"], abs=1e-5)
    assert numbers["settings"] | options == numbers["settings"]


def test_correctors_matter_in_these_tests(loaded):
    corrected = expected(loaded, SAMPLES[1], suspicion_threshold=0.2)
    assert (corrected.mask ^ corrected.initial_mask).any()


@pytest.fixture
def stages(monkeypatch):
    """Which stages ran, in order."""
    ran = []
    for stage in ("encode", "decode", "correct"):
        original = getattr(StagedModel, stage)

        def noted(*args, _original=original, _stage=stage, **kwargs):
            ran.append(_stage)
            return _original(*args, **kwargs)

        monkeypatch.setattr(StagedModel, stage, noted)
    return ran


def test_a_client_that_asks_again_about_an_image_finds_it_encoded(client, stages):
    client.predict(handed(SAMPLES[0]), api_name="/segment")
    client.predict(handed(SAMPLES[0]), points=[[100, 120]], api_name="/segment")
    assert stages.count("encode") == 1
    client.predict(handed(SAMPLES[1]), api_name="/segment")
    assert stages.count("encode") == 2


OPENING = (2, 0.5, 0.5, ["fp", "fn"])
VIEWER, HEAD, TABLE, SWITCH, MASK, OVERLAY, REPORT, OTHER, CLIP, STACK, ROWS, FOOT = range(1, 13)


@pytest.fixture
def page(staged, tmp_path):
    """The page's own actions, for one visitor."""
    visit = Visit.begin(tmp_path, CONTROLS)

    def act(name, *inputs, **said):
        event = (gr.EventData(None, {"ticket": 1, **said}),) if said else ()
        return getattr(Actions(staged), name)(visit, *event, *inputs)

    act.visit = visit
    return act


NOTHING = {"points": [], "labels": [], "box": None, "strokes": []}


def test_controls_repeat_only_what_they_must(page, stages):
    page("open_sample", *OPENING, index=0)
    assert [stage for stage in stages if stage != "correct"] == ["encode", "decode"]
    for changed in ((2, 0.3, 0.5, ["fp", "fn"]), (2, 0.5, 0.9, ["fp", "fn"]), (2, 0.5, 0.5, ["fp"])):
        stages.clear()
        page("control", *changed)
        assert set(stages) == {"correct"}, changed
    stages.clear()
    page("control", 3, 0.5, 0.5, ["fp", "fn"])
    assert stages.count("decode") == 1
    assert "encode" not in stages


def test_guidance_is_answered_whole_and_undone_without_decoding(page, loaded, stages):
    opened = page("open_sample", *OPENING, index=0)
    point = {**NOTHING, "points": [[100, 120]], "labels": [1]}
    clicked = page("guide", **point)
    wanted = expected(loaded, SAMPLES[0], Prompt(((100, 120),), (1,)))
    assert np.array_equal(pixels(clicked[MASK]), wanted.mask)
    stroke = {"path": [[20, 20], [60, 20]], "radius": 6, "erase": False}
    edited = page("guide", **{**point, "strokes": [stroke]})
    assert pixels(edited[MASK])[20, 20:60].all(), "the edited mask is what is saved"
    numbers = json.loads(Path(edited[REPORT]).read_text())
    assert numbers["area"] == pixels(edited[MASK]).sum(), "and measured"
    assert numbers["guidance"]["strokes"] == [stroke]
    assert numbers["guidance"]["points"] == [[100.0, 120.0]]
    stages.clear()
    undone = page("guide", **NOTHING)
    assert "decode" not in stages
    assert undone[VIEWER]["mask"] == opened[VIEWER]["mask"]
    assert stages.count("encode") == 0


def test_what_is_shown_is_what_can_be_taken_away(page):
    shown = page("open_sample", *OPENING, index=1)
    boxed = page("guide", **{**NOTHING, "box": [20, 20, 150, 150]})
    for answer in (shown, boxed):
        mask, numbers = pixels(answer[MASK]), json.loads(Path(answer[REPORT]).read_text())
        assert rings(mask) or not mask.any()
        assert numbers["area"] == mask.sum()
        assert len(answer[VIEWER]["axes"]) == 2 * len(numbers["each_lesion"])
        assert (np.asarray(PIL.Image.open(answer[OVERLAY])) == CONTOUR).all(-1).any()
    assert numbers["guidance"]["box"] == [20, 20, 150, 150]
    assert numbers["checkpoint"]
    assert numbers["revision"]


def coco_mask(path):
    coco = COCO(path)
    return np.logical_or.reduce([coco.annToMask(one) > 0 for one in coco.loadAnns(coco.getAnnIds())])


def drawn(rings, size):
    """Pixels whose middle the rings hold, the first of which are outer ones, by whether they are."""
    fine = PIL.Image.new("1", (4 * size[0], 4 * size[1]))
    for ring, outer in sorted(rings, key=lambda one: not one[1]):
        PIL.ImageDraw.Draw(fine).polygon([(4 * float(x), 4 * float(y)) for x, y in ring], fill=int(outer))
    return np.asarray(fine)[2::4, 2::4]


def csv_mask(path, size):
    rings = defaultdict(list)
    for row in csv.DictReader(io.StringIO(Path(path).read_text())):
        rings[row["lesion"], row["ring"]].append((row["x"], row["y"]))
    return drawn([(ends, ring == "0") for (_, ring), ends in rings.items()], size)


def geojson_mask(path, size):
    shapes = [feature["geometry"]["coordinates"] for feature in json.loads(Path(path).read_text())["features"]]
    return drawn([(ring, index == 0) for shape in shapes for index, ring in enumerate(shape)], size)


def segmentation_mask(path, source):
    """Of a DICOM segmentation, beside the scan that it refers to; or of a ZIP with both."""
    if Path(path).suffix == ".zip":
        seg, scan = (io.BytesIO(unpacked(path)[name]) for name in sorted(unpacked(path), reverse=True))
    else:
        seg, scan = path, source
    uid = pydicom.dcmread(scan).SOPInstanceUID
    return highdicom.seg.segread(seg).get_pixels_by_source_instance([uid], combine_segments=True)[0] > 0


@pytest.mark.parametrize("given", ["PNG", "DICOM"])
def test_every_format_holds_what_is_shown(page, tmp_path, given):
    source = dicom(tmp_path, spacing=(0.2, 0.1))
    if given == "PNG":
        page("open_sample", *OPENING, index=0)
    else:
        page("open_upload", *OPENING, path=str(arrived(tmp_path, source)))
    stroke = {"path": [[20, 20], [60, 20]], "radius": 6, "erase": False}
    shown = page("guide", **{**NOTHING, "points": [[100, 120]], "labels": [1], "strokes": [stroke]})
    mask, image = pixels(shown[MASK]), PIL.Image.open(SAMPLES[0]).convert("RGB")
    assert mask[20, 20:60].all()
    readers = {
        "coco": coco_mask,
        "coco-rle": coco_mask,
        "labels": pixels,
        "nifti": lambda path: np.asarray(nibabel.load(path).dataobj)[..., 0].T > 0,
        "contours": lambda path: csv_mask(path, image.size),
        "geojson": lambda path: geojson_mask(path, image.size),
        "dicom-seg": lambda path: segmentation_mask(path, source),
        "dicom-sc": lambda path: pydicom.dcmread(path).pixel_array,
    }
    assert set(readers) == set(FORMATS) == {format for _, format in OTHER_FORMATS}
    for format, read in readers.items():
        path = page("choose_format", format)[OTHER]
        if format == "dicom-sc":
            assert (read(path) == CONTOUR).all(-1).any()
        else:  # pycocotools rounds polygons
            assert (read(path) != mask).sum() <= (0.02 * mask.sum() if format == "coco" else 0), format
        if given == "DICOM":
            assert Path(path).suffix != ".zip", "it refers to the file that was opened"
            if format == "nifti":
                assert nibabel.load(path).header.get_zooms()[:2] == pytest.approx((0.1, 0.2))


def test_a_call_is_answered_in_the_format_that_it_asks_for(client, loaded):
    path, numbers = client.predict(handed(SAMPLES[1]), format="coco-rle", api_name="/segment")
    assert np.array_equal(coco_mask(path), expected(loaded, SAMPLES[1]).mask)
    assert numbers["area"] == expected(loaded, SAMPLES[1]).mask.sum()


def arrived(root, path):
    """A file as Gradio stores an upload of it."""
    folder = root / ("ef" * 32)
    folder.mkdir(exist_ok=True)
    (folder / path.name).write_bytes(path.read_bytes())
    return folder / path.name


CLICKED = {"points": [[60, 60]], "labels": [1]}


@pytest.fixture
def clip(page, tmp_path):
    """A clip that is open, and what the page shows then."""
    return page("open_upload", *OPENING, path=str(arrived(tmp_path, write("gif", panned(), tmp_path))))


def stacked(answer):
    with PIL.Image.open(answer[STACK]["value"]) as stack:
        return [np.asarray(one) > 0 for one in PIL.ImageSequence.Iterator(stack)]


def test_a_clip_is_answered_as_by_predict(page, clip, loaded, tmp_path):
    frames = clip[VIEWER]["frames"]
    wanted = predict_clip(*loaded, open_clip(tmp_path / "clip.gif"), tmp_path / "wanted", quiet=True, **asked())
    assert (frames["count"], frames["measure"], frames["shown"]) == (COUNT, wanted.largest, wanted.largest)
    assert Path(clip[ROWS]["value"]).read_bytes() == wanted.files[2].read_bytes()
    assert open_clip(clip[CLIP]["value"]).frames == COUNT
    assert "measure there" in clip[HEAD]["lines"][0]
    outlines = json.loads(Path(frames["outlines"]["path"]).read_text())
    assert len(outlines) == COUNT
    for index, mask in enumerate(stacked(clip)):
        shown = page("show_frame", frame=index)
        assert np.array_equal(pixels(shown[MASK]), mask), "what is shown is what is in the stack"
        assert bool(outlines[index]["mask"]) == bool(shown[VIEWER]["mask"]) == mask.any()
        assert json.loads(Path(shown[REPORT]).read_text())["image"] == f"clip_frame_{index + 1:04d}.png"
    assert shown[CLIP] == clip[CLIP], "the clip is not segmented again"


def asked():
    return dataclasses.asdict(CONTROLS)


def test_a_click_on_a_frame_is_followed_and_taken_back(page, clip):
    before = stacked(clip)
    clicked = page("guide", frames={"3": CLICKED}, frame=3)
    assert clicked[VIEWER]["frames"]["shown"] == 3
    assert clicked[HEAD]["title"] == "Outlined with your guidance"
    changed = [not np.array_equal(old, new) for old, new in zip(before, stacked(clicked), strict=True)]
    assert any(changed[:3]), "backward"
    assert any(changed[4:]), "and forward"
    undone = page("guide", frames={}, frame=3)
    assert all(np.array_equal(old, new) for old, new in zip(before, stacked(undone), strict=True))


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ({"3": {"points": [[60, 60]], "labels": [0]}}, "mark the lesion before"),
        ({"99": CLICKED}, "no frame 99"),
        ({"3": {"points": [[9000, 60]], "labels": [1]}}, "outside the image"),
        ([], "frames must say"),
    ],
)
def test_what_cannot_be_followed_is_explained(page, clip, frames, said):
    with pytest.warns(UserWarning, match=said):
        page("guide", frames=frames, frame=0)
    assert stacked(page("show_frame", frame=0))


def test_a_clip_that_is_too_long_or_damaged_leaves_what_was_open(page, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_FRAMES", COUNT - 1)
    with pytest.warns(UserWarning, match=f"{COUNT} frames of .* cut it to at most {COUNT - 1} frames"):
        page("open_upload", *OPENING, path=str(arrived(tmp_path, tmp_path / "clip.gif")))
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.warns(UserWarning, match="broken.mp4 is not"):
        shown = page("open_upload", *OPENING, path=str(arrived(tmp_path, tmp_path / "broken.mp4")))
    assert shown[VIEWER]["frames"]["count"] == COUNT


def test_the_mask_before_correction_is_one_press_away(page):
    corrected = page("open_sample", *OPENING, index=1)
    before = page("switch_correction")
    assert not np.array_equal(pixels(before[MASK]), pixels(corrected[MASK]))
    assert json.loads(Path(before[REPORT]).read_text())["corrected_pixels"] == 0
    assert before[SWITCH]["visible"]
    assert np.array_equal(pixels(page("switch_correction")[MASK]), pixels(corrected[MASK]))


def test_outlines_are_where_the_mask_is():
    mask = np.zeros((20, 30), bool)
    mask[4:9, 10:16] = True
    mask[6, 12] = False
    outer, hole = sorted(rings(mask), key=len, reverse=True)
    assert np.min(outer, 0).tolist() == [10.0, 4.0]
    assert np.max(outer, 0).tolist() == [16.0, 9.0]
    assert np.mean(hole[:-1], 0) == pytest.approx([12.5, 6.5])
    assert rings(np.ones((3, 3), bool)), "up to the edge of the image"
    assert rings(np.zeros((3, 3))) == []


HEAD_LINES = [(0.1, "No lesion seen", "none"), (0.6, "Unsure", "unsure"), (0.95, "Lesion likely", "likely")]


@pytest.mark.parametrize(("presence", "title", "level"), HEAD_LINES)
def test_the_answer_comes_first_and_says_what_it_is_worth(loaded, presence, title, level):
    found = dataclasses.replace(expected(loaded, SAMPLES[1]), presence=presence, score=0.9)
    said = head_line(found, Guidance(), CONTROLS)
    assert (said["title"], said["level"]) == (title, level)
    assert said["lines"][0] == "The outline probably fits well."
    assert "often wrong" in said["lines"][-1]


def disk(radius, teeth=0):
    rows, columns = np.mgrid[:90, :90] - 45
    waves = teeth and 6 * np.sin(teeth * np.arctan2(rows, columns))
    return np.hypot(rows, columns) < radius + waves


@pytest.mark.parametrize(
    ("corrected", "why"),
    [
        (disk(20), ""),
        (disk(20.2), ""),
        (disk(20, teeth=14), "ragged"),
        (disk(20) & ~disk(12) | disk(8), "pieces"),
        (disk(30), "lowered"),
    ],
    ids=["same", "hardly another", "ragged", "pieces", "larger than is probable"],
)
def test_the_mask_before_correction_is_offered_where_it_may_be_better(corrected, why):
    before = disk(20)
    probability = np.where(before, 0.9, 0.05)
    maps = dict.fromkeys(("probability", "initial_probability", "final_probability", "uncertainty"), probability)
    found = Segmentation(corrected, before, **maps, presence=0.9, score=0.9)
    assert (why in initial_is_better(found)) if why else (initial_is_better(found) == "")


def test_two_visitors_do_not_meet(space_page, tmp_path):
    first, second = (Client(space_page.local_url, download_files=str(tmp_path), verbose=False) for _ in range(2))
    alone = first.predict(handed(SAMPLES[0]), api_name="/segment")
    other = second.predict(handed(SAMPLES[1]), points=[[60, 60]], api_name="/segment")
    again = first.predict(handed(SAMPLES[0]), api_name="/segment")
    assert again[1] == alone[1] != other[1]


def test_two_at_a_time_and_the_others_wait(space_page, loaded, tmp_path, monkeypatch):
    visitors, inside, most, both = 6, 0, 0, threading.Barrier(2)
    encode, lock = StagedModel.encode, threading.Lock()

    def noted(*args):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        both.wait(timeout=60)  # goes on only with another one beside it
        answer = encode(*args)
        with lock:
            inside -= 1
        return answer

    monkeypatch.setattr(StagedModel, "encode", noted)
    clients = [Client(space_page.local_url, download_files=str(tmp_path), verbose=False) for _ in range(visitors)]
    jobs = [
        client.submit(handed(sample), api_name="/segment") for client, sample in zip(clients, SAMPLES, strict=True)
    ]
    for job, sample in zip(jobs, SAMPLES, strict=True):
        assert np.array_equal(pixels(job.result()[0]), expected(loaded, sample).mask)
    assert most == 2


def dicom(folder, name="frame.dcm", spacing=None, pixels=None):
    path = folder / name
    pixels = np.asarray(PIL.Image.open(SAMPLES[0]).convert("L")) if pixels is None else pixels
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    if spacing:
        dataset.PixelSpacing = list(spacing)
    dataset.PixelData = pixels.tobytes() + bytes(pixels.size % 2)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_dicom_opens_and_is_measured_in_millimetres(client, loaded, tmp_path):
    path = dicom(tmp_path, spacing=(0.2, 0.1))
    mask, numbers = client.predict(handed(path), api_name="/segment")
    wanted = expected(loaded, SAMPLES[0])
    assert np.array_equal(pixels(mask), wanted.mask)
    assert numbers["mm_per_pixel"] == [0.2, 0.1]
    areas = [lesion["area_mm2"] for lesion in numbers["each_lesion"]]
    assert sum(areas) == pytest.approx(wanted.mask.sum() * 0.02)
    table, *_, archive, _ = client.predict([handed(path)], None, api_name="/batch")
    assert table["data"][0][3] == f"{wanted.mask.sum() * 0.02:.1f} mm²"
    assert "mm" in table["data"][0][4]
    rows = list(csv.DictReader(io.StringIO(unpacked(archive)["table.csv"].decode())))
    assert float(rows[0]["area_mm2"]) == pytest.approx(wanted.mask.sum() * 0.02)


def test_a_picture_without_a_scale_is_given_one(page):
    plain = page("open_sample", *OPENING, index=0)
    by_line = page("calibrate_by_line", mm_per_pixel=0.25)
    typed = page("calibrate", 0.5)
    for answer, side in ((by_line, 0.25), (typed, 0.5)):
        numbers = json.loads(Path(answer[REPORT]).read_text())
        assert numbers["mm_per_pixel"] == [side, side]
        assert numbers["each_lesion"][0]["area_mm2"] == pytest.approx(numbers["each_lesion"][0]["area"] * side**2)
        assert "mm" in answer[VIEWER]["axes"][0]["text"]
        assert any("mm" in value for _, value in answer[TABLE])
    assert plain[TABLE] == page("calibrate", None)[TABLE]
    with pytest.warns(UserWarning, match="between"):
        page("calibrate", -1.0)


def broken_png(folder):
    path = folder / "broken.png"
    path.write_bytes(SAMPLES[0].read_bytes()[:3000])
    return path


def text_file(folder):
    path = folder / "letter.png"
    path.write_text("Dear doctor")
    return path


def empty_file(folder):
    path = folder / "empty.png"
    path.touch()
    return path


def vector_picture(folder):
    path = folder / "drawing.svg"
    path.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    return path


def huge_picture(folder):
    path = folder / "poster.png"
    PIL.Image.new("1", (5000, 5000)).save(path)
    return path


def heavy_file(folder):
    path = folder / "heavy.png"
    path.write_bytes(SAMPLES[0].read_bytes() + bytes(20_500_000))
    return path


def damaged_dicom(folder):
    path = folder / "frame.dcm"
    path.write_bytes(bytes(128) + b"DICM" + bytes(100))
    return path


BAD_FILES = {
    broken_png: "truncated",
    text_file: "not an image",
    empty_file: "empty",
    vector_picture: "not an image",
    huge_picture: "16 million",
    damaged_dicom: "DICOM",
    heavy_file: "larger than 20 MB",
}


@pytest.mark.parametrize(("make", "said"), BAD_FILES.items(), ids=[make.__name__ for make in BAD_FILES])
def test_bad_files_are_refused_in_one_sentence(client, tmp_path, make, said):
    path = make(tmp_path)
    with pytest.raises(AppError, match=said) as refused:
        client.predict(handed(path), api_name="/segment")
    assert path.name in str(refused.value)
    assert str(tmp_path) not in str(refused.value)
    assert "sfrecsam-" not in str(refused.value)


def test_an_upload_ends_where_the_limit_is_passed(space_page):
    files = {"files": ("heavy.png", bytes(22_000_000))}
    kept = Path(os.environ["GRADIO_TEMP_DIR"])
    before = set(kept.rglob("*"))
    assert httpx.post(f"{space_page.local_url}gradio_api/upload", files=files).status_code == 413
    assert set(kept.rglob("*")) <= before


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ({"points": [[5000, 5]]}, "outside"),
        ({"points": [[5, 5]], "labels": [1, 1]}, "labels"),
        ({"points": [5, 5]}, "points"),
        ({"points": [[5, "left"]]}, "points"),
        ({"points": [[5, 5]], "labels": [2]}, "labels"),
        ({"points": [[5, 5]] * 65}, "at most 64"),
        ({"box": [1, 2, 3]}, "box"),
        ({"box": [10, 20, 10, 90]}, "empty"),
        ({"box": [10, 20, 10000, 90]}, "outside"),
        ({"mc_samples": 1000}, "maximum"),
    ],
)
def test_bad_prompts_and_settings_are_refused(client, prompts, said):
    with pytest.raises(AppError, match=said):
        client.predict(handed(SAMPLES[0]), **prompts, api_name="/segment")


@pytest.mark.parametrize(
    "strokes",
    [
        "brush",
        [1],
        [{}],
        [{"path": [], "radius": 3}],
        [{"path": [[1, 2]], "radius": 0}],
        [{"path": [[1e9, 2]], "radius": 3}],
    ],
    ids=str,
)
def test_a_page_that_sends_nonsense_is_told_so_and_keeps_what_it_shows(page, strokes):
    shown = page("open_sample", *OPENING, index=0)
    with pytest.warns(UserWarning, match="[Ss]troke"):
        kept = page("guide", **{**NOTHING, "strokes": strokes, "ticket": 7})
    assert kept[VIEWER]["mask"] == shown[VIEWER]["mask"]
    assert kept[VIEWER]["ticket"] == 7, "the page knows that it was answered"


@pytest.mark.parametrize("index", range(len(PICKED)))
def test_every_sample_opens_with_its_reference(page, index):
    value = page("open_sample", *OPENING, index=index)[VIEWER]
    assert value["name"] == PICKED[index].name
    assert bool(value["reference"]) == (not PICKED[index].below), "what is cut below a lesion shows none"


def mask_of(sample):
    return sample.with_name(f"{sample.stem}_mask.png")


def unpacked(archive) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def test_batch_gives_table_and_zip_and_compares(client, loaded, tmp_path):
    images = [handed(path) for path in [*SAMPLES[:3], text_file(tmp_path)]]
    references = [handed(mask_of(path)) for path in SAMPLES[:2]]
    table, gallery, archive, said = client.predict(images, references, api_name="/batch")
    assert [row[0] for row in table["data"]] == [path.stem for path in SAMPLES[:3]]
    assert "3 segmented, 1 left out. letter.png" in said
    assert len(gallery) == 3
    files = unpacked(archive)
    rows = list(csv.DictReader(io.StringIO(files["table.csv"].decode())))
    for index, path in enumerate(SAMPLES[:3]):
        wanted = expected(loaded, path)
        assert np.array_equal(pixels(io.BytesIO(files[f"{path.stem}_mask.png"])), wanted.mask)
        assert f"{path.stem}_overlay.png" in files
        numbers = json.loads(files[f"{path.stem}.json"])
        assert (
            numbers["area"] == int(rows[index]["area"]) == int(table["data"][index][3].split()[0]) == wanted.mask.sum()
        )
        if index < 2:
            truth = pixels(mask_of(path))
            dice = overlap(wanted.mask, truth)["dice"]
            assert numbers["dice"] == float(rows[index]["dice"]) == pytest.approx(dice)
            assert table["data"][index][-1] == f"{dice:.3f}"
            errors = np.asarray(PIL.Image.open(io.BytesIO(files[f"{path.stem}_errors.png"])))
            assert np.array_equal((errors == ADDED).all(-1), wanted.mask & ~truth)
            assert np.array_equal((errors == REMOVED).all(-1), truth & ~wanted.mask)
        else:
            assert rows[index]["dice"] == table["data"][index][-1] == ""
            assert f"{path.stem}_errors.png" not in files


def test_several_masks_of_one_image_are_merged(client, loaded, tmp_path):
    truth = pixels(mask_of(SAMPLES[0]))
    rows = np.arange(len(truth))[:, None] < np.nonzero(truth)[0].mean()
    for name, part in (
        (f"{SAMPLES[0].stem}_mask.png", truth & rows),
        (f"{SAMPLES[0].stem}_mask_1.png", truth & ~rows),
    ):
        PIL.Image.fromarray(part).save(tmp_path / name)
    parts = [handed(path) for path in sorted(tmp_path.glob("*_mask*.png"))]
    table, *_ = client.predict([handed(SAMPLES[0])], parts, api_name="/batch")
    assert table["data"][0][-1] == f"{overlap(expected(loaded, SAMPLES[0]).mask, truth)['dice']:.3f}"


def test_images_of_the_same_name_are_kept_apart(client, loaded, tmp_path):
    copies = []
    for index, sample in enumerate(SAMPLES[:3]):
        (tmp_path / str(index)).mkdir()
        copies.append(tmp_path / str(index) / "scan.png")
        copies[-1].write_bytes(sample.read_bytes())
    *_, archive, _ = client.predict([handed(copy) for copy in copies], None, api_name="/batch")
    files = unpacked(archive)
    masks = [pixels(io.BytesIO(content)) for name, content in files.items() if name.endswith("_mask.png")]
    assert [mask.sum() for mask in masks] == [expected(loaded, sample).mask.sum() for sample in SAMPLES[:3]]


def test_too_many_images_at_once(client):
    with pytest.raises(AppError, match="at most 32"):
        client.predict([handed(SAMPLES[0])] * 33, None, api_name="/batch")


def test_a_reference_of_another_size_is_refused(client, tmp_path):
    reference = tmp_path / f"{SAMPLES[0].stem}_mask.png"
    PIL.Image.new("1", (10, 10)).save(reference)
    with pytest.raises(AppError, match="same size"):
        client.predict([handed(SAMPLES[0])], [handed(reference)], api_name="/batch")


def test_a_huge_image_is_segmented_at_its_size(client, tmp_path):
    path = tmp_path / "poster.png"
    PIL.Image.open(SAMPLES[0]).resize((2000, 3000)).save(path)
    mask, numbers = client.predict(handed(path), points=[[1900, 2900]], api_name="/segment")
    assert PIL.Image.open(mask).size == (numbers["width"], numbers["height"]) == (2000, 3000)


NAMED_BY_AN_ATTACKER = {
    "a sample": lambda kept: SAMPLES[4],
    "a sample by a detour": lambda kept: kept / ".." / ".." / SAMPLES[4].relative_to("/"),
    "a sample behind a link": lambda kept: link(kept / ("cd" * 32), SAMPLES[4]),
    "what another visitor got": lambda kept: next(kept.rglob("*_mask.png")),
    "another visitor's copy": lambda kept: next(kept.glob("visit-*/uploads/*/*.png")),
}


def link(folder, target):
    folder.mkdir(exist_ok=True)
    (folder / target.name).unlink(missing_ok=True)
    (folder / target.name).symlink_to(target)
    return folder / target.name


@pytest.mark.parametrize("kind", NAMED_BY_AN_ATTACKER)
@pytest.mark.parametrize("call", ["segment", "batch"])
def test_no_call_keeps_reads_or_removes_a_file_that_was_not_uploaded(space_page, client, monkeypatch, call, kind):
    """A caller names a file of the server, holds a heartbeat, and disconnects; the file must still be there."""
    client.predict(handed(SAMPLES[0]), api_name="/segment")
    path = NAMED_BY_AN_ATTACKER[kind](Path(os.environ["GRADIO_TEMP_DIR"]))
    named = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
    data = [[named], None, 2, 0.5, 0.5, []] if call == "batch" else [named, [], [], [], 2, 0.5, 0.5, [], "mask"]
    before, api, session = path.read_bytes(), f"{space_page.local_url}gradio_api", f"attacker-{call}-{kind}"
    with httpx.stream("GET", f"{api}/heartbeat/{session}") as held:
        lines = held.iter_lines()  # kept: the connection is closed with it
        assert "ALIVE" in next(lines)
        started = httpx.post(f"{api}/call/{call}", json={"data": data, "session_hash": session})
        answer = httpx.get(f"{api}/call/{call}/{started.json()['event_id']}", timeout=60)
        (visit,) = (
            value for value in space_page.state_holder[session].state_data.values() if isinstance(value, Visit)
        )
        ended = threading.Event()
        monkeypatch.setattr(visit, "end", lambda: (Visit.end(visit), ended.set()))
    assert "event: error" in answer.text
    assert ended.wait(timeout=60)
    assert path.read_bytes() == before


def test_nothing_is_left_of_a_file_input_when_its_visitor_leaves(space_page, tmp_path):
    kept, before = Path(os.environ["GRADIO_TEMP_DIR"]), files_in(Path(os.environ["GRADIO_TEMP_DIR"]))
    image = tmp_path / "private-scan.png"
    PIL.Image.open(SAMPLES[0]).rotate(2).save(image)
    visitor = Client(space_page.local_url, download_files=str(tmp_path), verbose=False)
    visitor.predict(handed(image), api_name="/segment")
    visitor.predict([handed(image)], None, api_name="/batch")
    assert files_in(kept) - before
    (visit,) = (
        value
        for value in space_page.state_holder[visitor.session_hash].state_data.values()
        if isinstance(value, Visit)
    )
    visit.end()
    assert files_in(kept) - before == set()


def files_in(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


def begun(root):
    """A visit, and an upload as Gradio stores it."""
    folder = root / ("ab" * 32)
    folder.mkdir(exist_ok=True)
    (folder / "incoming").write_bytes(SAMPLES[0].read_bytes())
    (folder / "incoming").rename(folder / "upload.png")
    return Visit.begin(root, CONTROLS), folder / "upload.png"


def test_an_upload_goes_with_the_last_visit_that_has_it(tmp_path):
    (first, upload), second = begun(tmp_path), Visit.begin(tmp_path, CONTROLS)
    own = [visit.take(str(upload)) for visit in (first, second)]
    assert own[0] != own[1]
    assert read_upload(own[1]).image.size == PIL.Image.open(SAMPLES[0]).size
    first.end()
    assert upload.exists(), "the other visitor still uses an equal file"
    assert not own[0].exists()
    second.end()
    assert files_in(tmp_path) == set()


def test_an_equal_file_that_somebody_just_uploaded_stays_for_them(tmp_path):
    first, upload = begun(tmp_path)
    first.take(str(upload))
    second, upload = begun(tmp_path)
    first.end()
    second.take(str(upload))
    second.end()
    assert files_in(tmp_path) == set()


def test_a_file_that_is_sent_twice_is_gone_all_the_same(tmp_path):
    visit, upload = begun(tmp_path)
    visit.take(str(upload))
    Visit.end(begun(tmp_path)[0])  # the same content again, as Gradio stores it: another file at the same place
    visit.take(str(upload))
    visit.end()
    assert files_in(tmp_path) == set()


def test_a_file_that_was_taken_once_is_there_for_the_whole_visit(tmp_path):
    visit, upload = begun(tmp_path)
    own = visit.take(str(upload))
    upload.unlink()
    assert visit.take(str(upload)) == own
    with pytest.raises(ValueError, match=r"upload.png is not among your uploads"):
        Visit.begin(tmp_path, CONTROLS).take(str(upload))


def test_files_of_an_action_that_runs_go_when_it_is_done(tmp_path):
    visit, upload = begun(tmp_path)
    with visit.at_work():
        visit.end()
        own = visit.take(str(upload))
        assert own.is_file()
        (visit.new_folder("answer") / "mask.png").touch()
    assert files_in(tmp_path) == set()


def test_what_was_forgotten_goes_after_an_hour(tmp_path):
    idle, upload = begun(tmp_path)
    busy = Visit.begin(tmp_path, CONTROLS)
    for visit in (idle, busy):
        (visit.new_folder("answer") / "mask.png").touch()
    long_ago = time.time() - IDLE_SECONDS - 60
    for folder in (idle.folder, busy.folder, upload.parent):
        os.utime(folder, (long_ago, long_ago))
    with busy.at_work():
        pass
    sweep(tmp_path)
    assert {path.relative_to(tmp_path).parts[0] for path in files_in(tmp_path)} == {busy.folder.name}


def test_a_page_that_is_closed_during_a_batch_ends_it_quietly(staged, tmp_path, monkeypatch, capfd):
    visit, read = Visit.begin(tmp_path, CONTROLS), []
    named = []
    for index, sample in enumerate(SAMPLES[:3]):
        folder = tmp_path / (f"{index:02d}" * 32)
        folder.mkdir()
        named.append(folder / sample.name)
        named[-1].write_bytes(sample.read_bytes())

    def closing(path):
        read.append(path.name)
        if len(read) == 2:
            visit.end()
        return read_upload(path)

    monkeypatch.setattr(batch, "read_upload", closing)
    Actions(staged).batch(visit, [str(path) for path in named], None, *OPENING, lambda share, desc: None)
    assert read == [path.name for path in SAMPLES[:2]], "the third is not begun"
    assert files_in(tmp_path) == set()
    assert "Traceback" not in "".join(capfd.readouterr())


def test_names_are_shown_as_text(page, tmp_path):
    visit, name = page.visit, "![](x) <img src=x onerror=alert(1)> **bold**.png"
    folder = tmp_path / ("cd" * 32)
    folder.mkdir()
    (folder / name).write_text("Dear doctor")
    with pytest.warns(UserWarning, match="&lt;img src=x onerror=alert"):
        page("open_upload", *OPENING, path=str(folder / name))
    assert visit.scan is None


def test_no_telemetry(space_page):
    assert space_page.analytics_enabled is False
    assert space_page.config["analytics_enabled"] is False


@pytest.fixture
def encoded(tiny_checkpoint):
    """A model of its own, and an image that it encoded."""
    staged = StagedModel(*load_checkpoint(tiny_checkpoint, "cpu"))
    return staged.model, staged.encode(PIL.Image.open(SAMPLES[0]).convert("RGB"))


def test_a_neutral_filter_changes_nothing_and_is_shown_so(encoded):
    model, image = encoded
    lively = frequency_story(model, image)
    assert all(share > 1e-4 for _, share in lively.shares)
    for learned in model.branch.filters:
        torch.nn.init.zeros_(learned.curve)
    neutral = frequency_story(model, image)
    assert all(share < 1e-9 for _, share in neutral.shares)
    assert neutral.spectrum == lively.spectrum
    assert neutral.responses != lively.responses
    assert neutral.energy != lively.energy


def test_the_energy_is_that_of_what_is_added(encoded):
    model, image = encoded
    for learned, fusion in zip(model.branch.filters, model.branch.fusions, strict=True):
        torch.nn.init.ones_(learned.curve)  # gain 2: what is added equals what was there
        torch.nn.init.constant_(fusion.position_gate.bias, 100.0)  # and all of it is taken
    shares = [share for _, share in frequency_story(model, image).shares]
    assert shares == pytest.approx([1.0] * len(model.branch.filters), rel=1e-4)


def test_the_spectrum_shows_the_frequency_of_a_grating(encoded, loaded):
    model, _ = encoded
    columns = 127 + 127 * np.sin(np.arange(64) * 2 * np.pi / 8)
    grating = PIL.Image.fromarray(np.tile(columns.astype(np.uint8), (64, 1))).convert("RGB")
    spectrum = np.asarray(frequency_story(model, StagedModel(*loaded).encode(grating)).spectrum).sum(-1)
    row, column = np.unravel_index(spectrum.argmax(), spectrum.shape)
    assert row == pytest.approx(256, abs=8)
    assert abs(column - 256) == pytest.approx(512 / 8, abs=8)  # one eighth of the sampling frequency


# Viénot, Brettel, Mollon 1999: what is left of linear RGB without long-wave and without middle-wave cones.
BLINDNESS = {
    "protanopia": [[0.1124, 0.8876, 0], [0.1124, 0.8876, 0], [0.004, -0.004, 1]],
    "deuteranopia": [[0.2928, 0.7072, 0], [0.2928, 0.7072, 0], [-0.0223, 0.0223, 1]],
}


@pytest.mark.parametrize("seen", BLINDNESS.values(), ids=BLINDNESS)
def test_colours_can_be_told_apart_without_red_or_green_cones(seen):
    linear = [(np.array(colour) / 255) ** 2.2 for colour in (ADDED, REMOVED, CONTOUR)]
    left = [(np.array(seen) @ colour).clip(0, 1) ** (1 / 2.2) for colour in linear]
    for first, second in itertools.combinations(left, 2):
        assert np.linalg.norm(first - second) > 0.3


def test_the_named_calls_are_tools_that_explain_themselves(space_page):
    tools = {tool["name"]: tool for tool in httpx.get(f"{space_page.local_url}gradio_api/mcp/schema").json()}
    assert {"segment", "batch"} == {name.removeprefix("sfrecsam_").split("_")[-1] for name in tools}
    for tool in tools.values():
        assert "breast-ultrasound" in tool["description"]
        described = tool["inputSchema"]["properties"]
        assert all(parameter.get("description") for parameter in described.values()), described


def test_the_example_in_the_readme_runs(space_page):
    example = re.search(r"```python\n(.*?)```", (SPACE / "README.md").read_text(), flags=re.DOTALL)[1]
    example = example.replace("http://127.0.0.1:7860", space_page.local_url)
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=SPACE.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "_mask.png" in done.stdout


def test_every_endpoint_that_the_readme_names_is_there_and_no_other(client):
    served = client.view_api(return_format="dict")["named_endpoints"]
    assert set(served) == set(re.findall(r"`(/\w+)`", (SPACE / "README.md").read_text()))
