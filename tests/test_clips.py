"""Clips: every kind is read frame by frame, a lesion is followed both ways, and masks do not flicker."""

import csv
import shutil

import numpy as np
import PIL.Image
import PIL.ImageSequence
import pytest
from conftest import SAMPLES
from hypothesis import given, settings
from hypothesis import strategies as st

from sfrecsam_hf.cli import main
from sfrecsam_hf.data.clips import Clip, is_clip, open_clip
from sfrecsam_hf.inference import clips
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.inference.clips import flicker, segment_clip, steady
from sfrecsam_hf.inference.predict_clip import predict_clip
from sfrecsam_hf.modeling.segmentation import Segmentation, segment

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
    assert [np.asarray(one).tobytes() for one in clip.read(4, 9)] == [np.asarray(one).tobytes() for one in read[4:9]]
    backwards = [np.asarray(one).tobytes() for one in clip.backwards(9, chunk=4)]
    assert backwards == [np.asarray(one).tobytes() for one in reversed(read[:10])]


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
    found = list(segment_clip(model, processor, as_clip(frames), batch_size=3, smooth=False))
    alone = list(segment(model, processor, frames))
    same = [np.array_equal(one.mask, other.mask) for one, other in zip(found, alone, strict=True)]
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
    found = list(segment_clip(model, processor, as_clip(panned()), click, smooth=False))
    (alone,) = segment(model, processor, [(panned()[3], click[3])], presence_threshold=0.0)
    assert np.array_equal(found[3].mask, alone.mask)
    automatic = list(segment_clip(model, processor, as_clip(panned()), smooth=False))
    changed = [not np.array_equal(one.mask, other.mask) for one, other in zip(found, automatic, strict=True)]
    assert changed[2] or changed[4], "the neighbours follow the click"
    with pytest.raises(ValueError, match="frame 99"):
        list(segment_clip(model, processor, as_clip(panned()), {99: click[3]}))


def answer(probability: np.ndarray, presence: float = 1.0) -> Segmentation:
    mask = probability > 0.5
    maps = dict.fromkeys(("probability", "initial_probability", "final_probability"), probability)
    unsure = 1 - np.abs(2 * probability - 1)
    return Segmentation(mask=mask, initial_mask=mask, uncertainty=unsure, presence=presence, score=0.9, **maps)


def test_flickering_masks_become_steady():
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:40, :40]
    clean = 1 / (1 + np.exp((np.hypot(rows - 20, columns - 20) - 12) / 2))
    raw = [answer((clean + rng.normal(0, 0.25, clean.shape)).clip(0, 1)) for _ in range(12)]
    before, after = (flicker(one.mask for one in clip) for clip in (raw, list(steady(raw))))
    assert after["neighbour_dice"] > before["neighbour_dice"] + 0.03


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_smoothing_keeps_number_order_and_range(values):
    found = list(steady(answer(np.full((2, 3), value), value) for value in values))
    assert len(found) == len(values)
    assert all(min(values) - 1e-9 <= one.presence <= max(values) + 1e-9 for one in found)
    if len(set(values)) == 1:
        assert [one.presence for one in found] == pytest.approx(values)


def test_a_lesion_neither_comes_nor_goes_for_one_frame():
    present = [0.9, 0.9, 0.45, 0.9, 0.9, 0.1, 0.05, 0.05, 0.05, 0.05]
    shown = [answer(np.ones((4, 4)), value) for value in present]
    there = [bool(one.mask.any()) for one in clips._present(steady(shown), 0.5, clips.LINGER)]
    assert there == sorted(there, reverse=True), "once it has gone it stays away"
    assert there[2]
    assert not there[-1]


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
