"""Clips: every kind is read frame by frame, a lesion is followed both ways, and masks do not flicker."""

import csv
import json
import shutil
import weakref
from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageSequence
import pytest
import torch
from conftest import SAMPLES
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from transformers import pipeline

from sfrecsam_hf.cli import main
from sfrecsam_hf.data.clips import Clip, is_clip, open_clip
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.inference.predict_clip import flicker, predict_clip
from sfrecsam_hf.modeling import clip_tracking
from sfrecsam_hf.modeling.clip_tracking import LINGER, Seen, motion, segment_clip, steady
from sfrecsam_hf.modeling.model_outputs import SFRecSamOutput
from sfrecsam_hf.modeling.scan_frame import ScanFrame
from sfrecsam_hf.modeling.segmentation import segment

COUNT = 7


def panned(count: int = COUNT, step: int = 3) -> list[PIL.Image.Image]:
    """A window that moves over a real scan, with speckle that changes from frame to frame."""
    scan = np.asarray(PIL.Image.open(SAMPLES / "bus_0180-l.png").convert("L"), dtype=float)
    rng = np.random.default_rng(0)
    width = scan.shape[1] - step * count
    windows = [scan[:, step * index : step * index + width] for index in range(count)]
    noisy = [(window * rng.gamma(60, 1 / 60, window.shape)).clip(0, 255) for window in windows]
    return [PIL.Image.fromarray(window.astype(np.uint8)) for window in noisy]


def write(kind: str, frames: list[PIL.Image.Image], folder):
    path = folder / f"clip.{kind}"
    if kind == "folder":
        path.mkdir()
        for index, frame in enumerate(frames, 1):  # 10 comes after 9
            frame.save(path / f"frame {index}.png")
    elif kind == "dcm":
        write_dicom(path, frames)
    elif kind == "mp4":
        av = pytest.importorskip("av")
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height = (side - side % 2 for side in frames[0].size)
            for frame in frames:
                picture = av.VideoFrame.from_image(frame.convert("RGB").resize((stream.width, stream.height)))
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
    else:
        options = {"lossless": True} if kind == "webp" else {}
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=40, **options)
    return path


def write_dicom(path, frames):
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UltrasoundMultiFrameImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = Dataset()
    dataset.file_meta, dataset.SOPClassUID = meta, UltrasoundMultiFrameImageStorage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.NumberOfFrames, dataset.FrameTime = len(frames), 40
    dataset.Columns, dataset.Rows = frames[0].size
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = b"".join(np.asarray(frame.convert("L")).tobytes() for frame in frames)
    dataset.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint):
    return load_checkpoint(tiny_checkpoint, "cpu")


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tiff", "dcm", "mp4", "folder"])
def test_every_frame_is_read_in_order_and_from_anywhere(kind, tmp_path):
    frames = panned(11)
    path = write(kind, frames, tmp_path)
    assert is_clip(path) == (kind != "folder")
    clip = open_clip(path)
    read = list(clip)
    assert clip.frames == len(read) == len(frames)
    assert clip.rate == pytest.approx({"folder": 20, "tiff": 20}.get(kind, 25), rel=0.05)
    for mine, theirs in zip(read, frames, strict=True):
        theirs = np.asarray(theirs.resize(mine.size).convert("RGB"), dtype=float)
        assert np.abs(np.asarray(mine, dtype=float) - theirs).mean() < (0 if kind in ("png", "dcm") else 12) + 0.01
    assert len(clip) == clip.frames
    assert [np.asarray(one).tobytes() for one in clip[4:9]] == [np.asarray(one).tobytes() for one in read[4:9]]
    assert np.array_equal(clip[-1], read[-1])


def test_a_single_picture_is_no_clip(tmp_path):
    assert not is_clip(SAMPLES / "bus_0180-l.png")
    with pytest.raises(ValueError, match=r"bus_0180-l\.png holds 1 frame"):
        open_clip(SAMPLES / "bus_0180-l.png")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_clip(tmp_path / "none.gif")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    pytest.importorskip("av")
    with pytest.raises(ValueError, match=r"broken\.mp4 is not a video"):
        open_clip(tmp_path / "broken.mp4")


def test_a_list_of_other_files_is_no_video(tmp_path):
    write("mp4", panned(3), tmp_path)
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile clip.mp4\n")
    with pytest.raises(ValueError, match=r"list\.mp4 is not a video"):
        open_clip(tmp_path / "list.mp4")


def as_clip(frames) -> Clip:
    return Clip(SAMPLES, len(frames), 20.0, lambda start: iter(frames[start:]))


def test_without_smoothing_each_frame_is_answered_as_a_still_image(loaded):
    model, processor = loaded
    frames = [frame.convert("RGB") for frame in panned()]
    found = masks_of(segment_clip(model, processor, as_clip(frames), batch_size=3, smooth=False))
    alone = list(segment(model, processor, frames))
    same = [np.array_equal(mask, other.mask) for mask, other in zip(found, alone, strict=True)]
    assert sum(same) >= COUNT - 2, "other frames may only differ where the mask leapt"


def test_the_encoder_runs_once_a_frame(loaded, monkeypatch):
    model, processor = loaded
    seen = []
    encode = type(model).encode

    def counted(self, pixel_values, *more, **kwargs):
        seen.append(len(pixel_values))
        return encode(self, pixel_values, *more, **kwargs)

    monkeypatch.setattr(type(model), "encode", counted)
    list(segment_clip(model, processor, as_clip(panned()), batch_size=3))
    assert sum(seen) == COUNT
    assert max(seen) <= 3


def test_a_click_is_followed_forward_and_backward(loaded):
    model, processor = loaded
    click = {3: {"input_points": [[60.0, 60.0]], "input_labels": [1]}}
    found = masks_of(segment_clip(model, processor, as_clip(panned()), click, smooth=False))
    (alone,) = segment(model, processor, [(panned()[3], click[3])], presence_threshold=0.0, closer=False)
    assert np.array_equal(found[3], alone.mask)
    automatic = masks_of(segment_clip(model, processor, as_clip(panned()), smooth=False))
    changed = [not np.array_equal(one, other) for one, other in zip(found, automatic, strict=True)]
    assert changed[2] or changed[4], "the neighbours follow the click"
    with pytest.raises(ValueError, match="frame 99"):
        segment_clip(model, processor, as_clip(panned()), {99: click[3]})
    with pytest.raises(ValueError, match="sequence of frames"):
        segment_clip(model, processor, iter(panned()), click)


def test_what_is_for_still_images_is_refused(loaded):
    with pytest.raises(ValueError, match="mirror=True is for still images"):
        segment_clip(*loaded, panned(), mirror=True)
    with pytest.raises(ValueError, match="batch_size=0"):
        segment_clip(*loaded, panned(), batch_size=0)


class Counted(Sequence):
    """A clip of any length that knows how many of its frames are alive, and how often each was read."""

    def __init__(self, count: int):
        self.count, self.alive, self.most, self.reads = count, 0, 0, [0] * count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        if not 0 <= index < self.count:
            raise IndexError(index)
        self.reads[index] += 1
        frame = np.random.default_rng(index).integers(0, 255, (40, 50), dtype=np.uint8).view(_Frame)
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(frame, self.gone)
        return frame

    def gone(self) -> None:
        self.alive -= 1


class _Frame(np.ndarray):
    """Can be referred to weakly."""


def test_memory_does_not_grow_with_length_and_a_frame_is_read_once(loaded):
    alive = []
    for count in (12, 36):
        frames = Counted(count)
        pictures = []
        for picture, _ in segment_clip(*loaded, frames, batch_size=4, mc_samples=0):
            pictures = [one for one in pictures if one() is not None] + [weakref.ref(picture)]
            alive.append(len(pictures))
        assert frames.reads == [1] * count
        assert frames.most <= 2
    assert max(alive) <= 4 + len(clip_tracking.WINDOW)


def test_a_frame_that_differs_in_how_much_of_it_is_even_is_cut_as_the_others(loaded):
    scan = np.asarray(panned()[0])
    frames = []
    for dark in (0, 9, 0, 4):  # at the lower edge, as deep tissue is
        frame = np.zeros((scan.shape[0] + 40, scan.shape[1] + 60), np.uint8)
        frame[20:-20, 30:-30] = scan
        frame[frame.shape[0] - 20 - dark :] = 0
        frames.append(frame)
    seen = list(clip_tracking._Tracker(*loaded, {}, 0.5, {"presence_threshold": 0.0}).follow(frames, 3))
    assert len({one.place.box for one in seen}) == 1


def masks_of(found) -> list[np.ndarray]:
    return [answer.mask for _, answer in found]


SIDE = 40
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]
TEXTURE = torch.from_numpy(gaussian_filter(np.random.default_rng(1).normal(size=(3 * SIDE, 3 * SIDE)), 2)).float()


def seen(probability: np.ndarray, presence: float = 1.0, pan: int = 0) -> Seen:
    maps = torch.from_numpy(probability.astype(np.float32))[None, None, None]
    names = ("mean_probability", "predictive_entropy", "mutual_information")
    output = SFRecSamOutput(
        pred_masks=maps.logit(1e-6),
        initial_masks=maps.logit(1e-6),
        presence_logits=torch.tensor([presence]).logit(1e-6),
        **dict.fromkeys(names, maps),
    )
    side = len(probability)
    gray = TEXTURE[SIDE : SIDE + side, SIDE - pan : SIDE - pan + probability.shape[1]]
    return Seen(PIL.Image.new("RGB", (side, side)), ScanFrame.none(side, side), gray, output)


def disc(column: float = 20.0) -> np.ndarray:
    return 1 / (1 + np.exp((np.hypot(ROWS - 20, COLUMNS - column) - 9) / 1.5))


def test_flickering_masks_become_steady():
    rng = np.random.default_rng(0)
    raw = [seen((disc() + rng.normal(0, 0.25, (SIDE, SIDE))).clip(0, 1)) for _ in range(12)]
    before, after = (flicker(one.mask for one in clip) for clip in (raw, list(steady(raw))))
    assert after["neighbour_dice"] > before["neighbour_dice"] + 0.03


def test_a_lesion_that_moves_with_the_tissue_is_averaged_where_it_is():
    raw = [seen(disc(12.0 + 2 * index), pan=2 * index) for index in range(6)]
    assert motion(raw[0].gray, raw[2].gray) == pytest.approx((0.0, 4.0), abs=0.3)
    for one, other in zip(steady(raw), raw, strict=True):
        overlap = flicker([one.mask, other.mask])["neighbour_dice"]
        assert overlap > 0.97


def test_what_is_another_picture_does_not_move():
    other = torch.from_numpy(np.random.default_rng(5).normal(size=(SIDE, SIDE))).float()
    assert motion(seen(disc()).gray, other) == (0.0, 0.0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=12))
def test_smoothing_keeps_number_order_and_range(values):
    found = list(steady(seen(np.full((8, 8), value), value) for value in values))
    presences = [float(one.output.presence_logits.sigmoid()) for one in found]
    assert len(found) == len(values)
    assert all(min(values) - 1e-5 <= presence <= max(values) + 1e-5 for presence in presences)
    if len(set(values)) == 1:
        assert presences == pytest.approx(values, abs=1e-5)


def test_a_lesion_neither_comes_nor_goes_for_one_frame(loaded, monkeypatch):
    model, processor = loaded
    present = iter([0.9, 0.9, 0.45, 0.9, 0.9, 0.1, 0.05, 0.05, 0.05, 0.05])
    decoded = clip_tracking._Encoded.decoded

    def with_presence(self, *arguments):
        found = decoded(self, *arguments)
        for one in found:
            one.output.presence_logits = torch.tensor([next(present)]).logit()
            one.output.pred_masks = torch.full_like(one.output.pred_masks, 4.0)
        return found

    monkeypatch.setattr(clip_tracking._Encoded, "decoded", with_presence)
    found = masks_of(segment_clip(model, processor, panned(10), presence_threshold=0.5))
    there = [bool(mask.any()) for mask in found]
    assert there == sorted(there, reverse=True), "once it has gone it stays away"
    assert there[2]
    assert not there[-1]
    assert LINGER < 0.5


def test_the_files_of_a_clip(loaded, tmp_path):
    model, processor = loaded
    seen = []
    clip, stem = as_clip(panned()), tmp_path / "out" / "clip"
    report = predict_clip(model, processor, clip, stem, quiet=True, seen=lambda at, _, one: seen.append((at, one)))
    assert all(path.exists() for path in report.files)
    assert not list(tmp_path.rglob("*.new"))
    with PIL.Image.open(tmp_path / "out" / "clip_masks.tiff") as stack:
        masks = [np.asarray(page) > 0 for page in PIL.ImageSequence.Iterator(stack)]
    rows = list(csv.DictReader((tmp_path / "out" / "clip_frames.csv").open()))
    assert len(masks) == len(rows) == report.frames == COUNT
    assert [int(row["area"]) for row in rows] == [int(mask.sum()) for mask in masks]
    longest = [float(row["longest_diameter"]) for row in rows]
    (measure,) = [row for row in rows if row["measure_here"] == "1"]
    assert float(measure["longest_diameter"]) == max(longest) > 0
    assert int(measure["frame"]) == report.largest + 1
    outlined = open_clip(tmp_path / "out" / "clip_outlined.mp4")
    assert outlined.frames == COUNT
    assert report.with_lesion == sum(mask.any() for mask in masks)
    assert [index for index, _ in seen] == list(range(COUNT))
    assert all(np.array_equal(one.mask, mask) for (_, one), mask in zip(seen, masks, strict=True))


def test_predict_takes_clips_and_stills_and_never_its_own_outputs(tiny_checkpoint, tmp_path, capsys):
    scans = tmp_path / "scans"
    scans.mkdir()
    write("gif", panned(4), scans)
    write("mp4", panned(4), scans)
    shutil.copy(SAMPLES / "bus_0180-l.png", scans)
    command = ["predict", "--model", str(tiny_checkpoint), "--device", "cpu", "--samples", "1"]
    assert main([*command, str(scans), "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "clip.gif: a lesion on" in said
    assert "clip.mp4: a lesion on" in said
    assert "1 images segmented" in said
    shutil.copytree(tmp_path / "out", scans / "moved")
    assert main([*command, str(scans), "--output", str(tmp_path / "again")]) == 0
    assert "1 images segmented" in capsys.readouterr().out
    assert len(list((tmp_path / "again").glob("*_frames.csv"))) == 2


def test_a_damaged_clip_stops_no_other(tiny_checkpoint, tmp_path, capsys):
    write("gif", panned(3), tmp_path)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    command = ["predict", "--model", str(tiny_checkpoint), "--device", "cpu", "--samples", "1"]
    assert main([*command, str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert "broken.mp4" in said.err
    assert "clip: a lesion on" in said.out


def test_every_frame_in_the_formats_of_other_programs_and_a_report(tiny_checkpoint, tmp_path, capsys):
    frames = panned(3)
    write("gif", frames, tmp_path)
    command = ["predict", str(tmp_path / "clip.gif"), "--model", str(tiny_checkpoint), "--device", "cpu"]
    more = ["--samples", "1", "--presence-threshold", "0", "--output", str(tmp_path / "out"), "--report"]
    assert main([*command, *more, "--format", "coco", "geojson"]) == 0
    with PIL.Image.open(tmp_path / "out" / "clip_masks.tiff") as stack:
        masks = [np.asarray(page) > 0 for page in PIL.ImageSequence.Iterator(stack)]
    coco = json.loads((tmp_path / "out" / "clip_coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == [f"clip.gif frame {number}" for number in (1, 2, 3)]
    for number, mask in enumerate(masks, 1):
        own = [one for one in coco["annotations"] if one["image_id"] == number]
        assert sum(one["area"] for one in own) == mask.sum() > 0
        polygons = json.loads((tmp_path / "out" / "clip_frames" / f"{number:05d}_contours.geojson").read_text())
        assert len(polygons["features"]) == len(own)
    page = (tmp_path / "out" / "report.html").read_text()
    (measured,) = [
        row for row in csv.DictReader((tmp_path / "out" / "clip_frames.csv").open()) if row["measure_here"] == "1"
    ]
    assert "A lesion is marked on 3 of 3 frames." in page
    assert f"Measure frame {measured['frame']}: {float(measured['longest_diameter']):.1f} x" in page
    assert "data:image/jpeg;base64," in page
    assert "NAME_frames.csv of a clip" in (tmp_path / "out" / "columns.txt").read_text()


def test_a_frame_of_a_dicom_clip_stays_in_its_study(tiny_checkpoint, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    path = write("dcm", panned(2), tmp_path)
    dataset = pydicom.dcmread(path)
    dataset.PatientID, dataset.StudyInstanceUID = "somebody", pydicom.uid.generate_uid()
    dataset.save_as(path)
    command = ["predict", str(path), "--model", str(tiny_checkpoint), "--device", "cpu", "--samples", "1"]
    assert main([*command, "--format", "dicom-seg", "--output", str(tmp_path / "out")]) == 0
    for ending in ("seg", "scan"):
        written = pydicom.dcmread(tmp_path / "out" / "clip_frames" / f"00002_{ending}.dcm")
        assert written.PatientID == "somebody"
        assert written.StudyInstanceUID == dataset.StudyInstanceUID


def test_mirroring_is_refused_for_a_clip_and_not_left_out(tiny_checkpoint, tmp_path, capsys):
    path = write("gif", panned(2), tmp_path)
    command = ["predict", str(path), "--model", str(tiny_checkpoint), "--device", "cpu", "--mirror"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 2
    assert "mirror=True is for still images" in capsys.readouterr().err


@pytest.fixture(scope="module")
def segmenter(tiny_checkpoint):
    return pipeline("lesion-segmentation", model=str(tiny_checkpoint), device="cpu")


def test_the_pipeline_takes_a_path_a_list_and_any_frames_of_a_clip(segmenter, loaded, tmp_path):
    frames = panned(4)
    path = write("png", frames, tmp_path)
    expected = masks_of(segment_clip(*loaded, frames))
    for taken in (frames, str(path), path, open_clip(path), iter(frames)):
        found = segmenter(taken, clip=True)
        assert isinstance(found, list) == isinstance(taken, list)
        for answer, mask in zip(found, expected, strict=True):
            assert np.array_equal(np.asarray(answer["mask"]) > 0, mask)
    with pytest.raises(ValueError, match=r"clip\.png has 4 frames; .* call the pipeline with clip=True"):
        segmenter(str(path))
    with pytest.raises(ValueError, match="clip=True needs the frames"):
        segmenter(frames[0], clip=True)
    (tmp_path / "clip.mp4").write_bytes(b"a video")
    with pytest.raises(ValueError, match=r"clip\.mp4 is not a clip that Pillow can read; .*open_clip"):
        list(segmenter(str(tmp_path / "clip.mp4"), clip=True))


def test_a_click_on_a_frame_comes_with_it_to_the_pipeline(segmenter, loaded):
    frames, click = panned(4), {"input_points": [[60.0, 60.0]], "input_labels": [1]}
    for index, taken, more in ((2, [*frames[:2], {"image": frames[2], **click}, frames[3]], {}), (0, frames, click)):
        found = segmenter(taken, clip=True, mc_samples=1, **more)
        expected = masks_of(segment_clip(*loaded, frames, {index: click}, mc_samples=1))
        for answer, mask in zip(found, expected, strict=True):
            assert np.array_equal(np.asarray(answer["mask"]) > 0, mask)
