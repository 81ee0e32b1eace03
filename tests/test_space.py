"""The Space through its API: the masks of the pipeline, one encoding per image, visits apart, nothing left behind."""

import csv
import io
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import httpx
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from transformers import pipeline

from explain import frequency_story
from sfrecsam_hf import segment
from sfrecsam_hf.evaluation.metrics import overlap
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.inference.visualization import ADDED, CONTOUR, REMOVED
from staged_model import Controls, StagedModel
from visits import IDLE_SECONDS, Visits

SPACE = Path(__file__).resolve().parents[1] / "space"
SAMPLES = sorted(path for path in (SPACE / "samples").glob("*.png") if not path.stem.endswith("_mask"))

CONTROLS = Controls(2, 0.5, 0.5, ("fp", "fn"))


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint):
    return load_checkpoint(tiny_checkpoint, "cpu")


@pytest.fixture
def client(space_page, tmp_path):
    return Client(space_page.local_url, download_files=str(tmp_path / "downloads"), verbose=False)


def handed(path):
    return handle_file(str(path))


def pixels(path) -> np.ndarray:
    return np.asarray(PIL.Image.open(path)) > 0


def expected(loaded, path, prompts=None, **options):
    return next(segment(*loaded, [(str(path), prompts or {})], **options))


PROMPTS = {
    "automatic": {},
    "point": {"points": [[100, 120]]},
    "points": {"points": [[100, 120], [20, 30]], "labels": [1, 0]},
    "box": {"box": [40, 60, 150, 160]},
    "box and point": {"points": [[90, 100]], "labels": [1], "box": [40, 60, 150, 160]},
}


@pytest.fixture(scope="module")
def segmenter(tiny_checkpoint):
    return pipeline("lesion-segmentation", model=str(tiny_checkpoint), trust_remote_code=True)


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
def test_the_same_mask_as_the_pipeline(client, segmenter, prompts):
    mask, numbers = client.predict(handed(SAMPLES[0]), **prompts, api_name="/segment")
    given = {f"input_{name}": value for name, value in prompts.items() if name != "box"}
    if "box" in prompts:
        given["input_boxes"] = [prompts["box"]]
    wanted = segmenter(str(SAMPLES[0]), **given)
    assert np.array_equal(pixels(mask), np.asarray(wanted["mask"]) > 0)
    assert 0 < wanted["measurements"]["area"] < pixels(mask).size
    for name, value in wanted["measurements"].items():
        assert numbers[name] == pytest.approx(value, abs=1e-5), name
    assert numbers["estimated_iou"] == pytest.approx(wanted["score"], abs=1e-5)
    assert "not for diagnosis" in numbers["notice"]


@pytest.mark.parametrize("prompts", [{}, {"points": [[130, 140]]}, {"box": [10, 80, 180, 180]}], ids=str)
def test_a_scan_frame_is_cut_off_as_by_the_pipeline(client, loaded, tmp_path, prompts):
    path = tmp_path / "framed.png"
    PIL.ImageOps.expand(PIL.Image.open(SAMPLES[0]), (30, 20, 60, 10), 0).save(path)
    mask, _ = client.predict(handed(path), **prompts, api_name="/segment")
    given = {f"input_{name}": value for name, value in prompts.items() if name != "box"}
    if "box" in prompts:
        given["input_boxes"] = [prompts["box"]]
    wanted = expected(loaded, path, given)
    assert wanted.mask.any()
    assert np.array_equal(pixels(mask), wanted.mask)
    assert not wanted.uncertainty[:, :30].any()


@pytest.mark.parametrize(
    "options",
    [
        {"mc_samples": 0},
        {"mc_samples": 5, "suspicion_threshold": 0.5},
        {"suspicion_threshold": 0.2, "correctors": ["fp"]},
        {"suspicion_threshold": 0.2, "correctors": ["fn"]},
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


def test_correctors_matter_in_these_tests(loaded):
    corrected = expected(loaded, SAMPLES[1], suspicion_threshold=0.2)
    assert (corrected.mask & ~corrected.initial_mask).any() or (corrected.initial_mask & ~corrected.mask).any()


@pytest.fixture
def stages(space_page, monkeypatch):
    """Which stages ran, in order."""
    ran = []
    for stage in ("encode", "decode", "correct"):
        original = getattr(StagedModel, stage)

        def noted(*args, _original=original, _stage=stage, **kwargs):
            ran.append(_stage)
            return _original(*args, **kwargs)

        monkeypatch.setattr(StagedModel, stage, noted)
    return ran


def test_controls_repeat_only_what_they_must(client, stages):
    defaults = {"mc_samples": 2, "suspicion_threshold": 0.5, "presence_threshold": 0.5, "correctors": ["fp", "fn"]}
    client.predict(handed(SAMPLES[0]), *defaults.values(), api_name="/open_image")
    assert [stage for stage in stages if stage != "correct"] == ["encode", "decode"]
    for changed in ({"suspicion_threshold": 0.3}, {"presence_threshold": 0.9}, {"correctors": ["fp"]}):
        stages.clear()
        client.predict(**{**defaults, **changed}, api_name="/control")
        assert set(stages) == {"correct"}, changed
    stages.clear()
    client.predict(**{**defaults, "mc_samples": 3}, api_name="/control")
    assert stages.count("decode") == 1
    assert "encode" not in stages


OPENING = (2, 0.5, 0.5, ["fp", "fn"])


def area(answer) -> str:
    """As the last table of an answer says it."""
    return dict(answer[-1])["Area"]


def test_clicks_answer_from_the_image_encoded_once(client, loaded, stages):
    opened = client.predict(handed(SAMPLES[0]), *OPENING, api_name="/open_image")
    client.predict(100, 120, "Lesion", api_name="/click")
    clicked = client.predict(20, 30, "Background", api_name="/click")
    wanted = expected(loaded, SAMPLES[0], {"input_points": [[100, 120], [20, 30]], "input_labels": [1, 0]})
    assert area(clicked).startswith(f"{wanted.mask.sum():,} px")
    assert stages.count("encode") == 1
    assert "encoded **once**" in clicked[1]
    client.predict(150, 160, "Box corner", api_name="/click")
    boxed = client.predict(40, 60, "Box corner", api_name="/click")
    prompts = {"input_points": [[100, 120], [20, 30]], "input_labels": [1, 0], "input_boxes": [[40, 60, 150, 160]]}
    wanted = expected(loaded, SAMPLES[0], prompts)
    assert area(boxed).startswith(f"{wanted.mask.sum():,} px")
    assert len({area(answer) for answer in (opened, clicked, boxed)}) == 3
    corner = client.predict(api_name="/undo")
    assert area(corner) == area(clicked)
    with pytest.raises(AppError, match="box is empty"):
        client.predict(150, 160, "Box corner", api_name="/click")
    assert area(client.predict(api_name="/clear")) == area(opened)
    assert stages.count("encode") == 1


def of_colour(path, colour) -> np.ndarray:
    return (np.asarray(PIL.Image.open(path).convert("RGB")) == colour).all(-1)


def test_pictures_show_the_lesion_and_what_the_correctors_did(client):
    _, contour, slider, _, corrections, *_ = client.predict(handed(SAMPLES[1]), *OPENING, api_name="/open_image")
    outline, added, removed = of_colour(contour, CONTOUR), *(of_colour(corrections, x) for x in (ADDED, REMOVED))
    assert outline.any()
    assert added.any()
    assert removed.any()
    before, after = (np.asarray(PIL.Image.open(path)) for path in slider)
    assert np.array_equal((before != after).any(-1)[added | removed], np.ones((added | removed).sum(), bool))
    contour, (before, after), _, corrections, *_ = client.predict(2, 0.5, 0.5, [], api_name="/control")
    assert not (of_colour(corrections, ADDED) | of_colour(corrections, REMOVED)).any()
    assert PIL.Image.open(before) == PIL.Image.open(after)
    contour, *_, table, mask, _, numbers, _, _, _, _ = client.predict(2, 0.5, 1.0, ["fp", "fn"], api_name="/control")
    assert not of_colour(contour, CONTOUR).any()
    assert dict(table)["Box"] == "no lesion marked"
    assert not pixels(mask).any()
    assert json.loads(Path(numbers).read_text())["box"] is None


def test_two_visitors_do_not_meet(space_page, tmp_path, stages):
    first, second = (Client(space_page.local_url, download_files=str(tmp_path), verbose=False) for _ in range(2))
    alone = first.predict(handed(SAMPLES[0]), *OPENING, api_name="/open_image")
    second.predict(handed(SAMPLES[1]), *OPENING, api_name="/open_image")
    second.predict(60, 60, "Lesion", api_name="/click")
    again = first.predict(api_name="/clear")
    assert again[-1] == alone[-1]


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


def dicom(folder):
    path = folder / "frame.dcm"
    path.write_bytes(bytes(128) + b"DICM" + bytes(100))
    return path


BAD_FILES = {
    broken_png: "truncated",
    text_file: "not an image",
    empty_file: "empty",
    vector_picture: "not an image",
    huge_picture: "16 million",
    dicom: "DICOM",
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
        ({"box": [1, 2, 3]}, "box"),
        ({"box": [10, 20, 10, 90]}, "empty"),
        ({"mc_samples": 1000}, "maximum"),
    ],
)
def test_bad_prompts_and_settings_are_refused(client, prompts, said):
    with pytest.raises(AppError, match=said):
        client.predict(handed(SAMPLES[0]), **prompts, api_name="/segment")


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
        assert numbers["area"] == int(rows[index]["area"]) == table["data"][index][2] == wanted.mask.sum()
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


def test_a_huge_image_is_shown_smaller_but_segmented_at_its_size(client, tmp_path):
    path = tmp_path / "poster.png"
    PIL.Image.open(SAMPLES[0]).resize((2000, 3000)).save(path)
    image, contour, *_ = client.predict(handed(path), *OPENING, api_name="/open_image")
    assert max(PIL.Image.open(image).size) == max(PIL.Image.open(contour).size) == 1600
    mask, numbers = client.predict(handed(path), points=[[1900, 2900]], api_name="/segment")
    assert PIL.Image.open(mask).size == (numbers["width"], numbers["height"]) == (2000, 3000)


def test_files_of_the_server_are_none_of_a_visitors_business(space_page, client, tmp_path):
    private = tmp_path / "private.png"
    private.write_bytes(SAMPLES[0].read_bytes())
    named = {"path": str(private), "meta": {"_type": "gradio.FileData"}}
    call = f"{space_page.local_url}gradio_api/call/segment"
    started = httpx.post(call, json={"data": [named, [], [], [], 2, 0.5, 0.5, []]})
    answer = httpx.get(f"{call}/{started.json()['event_id']}", timeout=60)
    assert "event: error" in answer.text
    assert "event: complete" not in answer.text
    assert client.predict(handed(private), api_name="/segment"), "the same file is fine when it is handed over"


def upload_in(root):
    """Where Gradio would put an upload."""
    folder = root / ("ab" * 32)
    folder.mkdir()
    return folder / "upload.png"


NAMED_BY_AN_ATTACKER = {
    "a sample": lambda kept: SAMPLES[4],
    "a sample by a detour": lambda kept: kept / ".." / ".." / SAMPLES[4].relative_to("/"),
    "a sample behind a link": lambda kept: link(kept / ("cd" * 32), SAMPLES[4]),
    "what another visitor got": lambda kept: next(kept.rglob("*_mask.png")),
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
    before, left, leave = path.read_bytes(), threading.Event(), Visits.leave

    def noted(visits, session):
        leave(visits, session)
        if session == "attacker":
            left.set()

    monkeypatch.setattr(Visits, "leave", noted)
    named = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
    data = [[named], None, 2, 0.5, 0.5, []] if call == "batch" else [named, [], [], [], 2, 0.5, 0.5, []]
    api = f"{space_page.local_url}gradio_api"
    with httpx.stream("GET", f"{api}/heartbeat/attacker") as held:
        assert "ALIVE" in next(held.iter_lines())
        started = httpx.post(f"{api}/call/{call}", json={"data": data, "session_hash": "attacker"})
        answer = httpx.get(f"{api}/call/{call}/{started.json()['event_id']}", timeout=60)
    assert "event: error" in answer.text
    assert left.wait(timeout=60)
    assert path.read_bytes() == before


def test_nothing_is_left_when_a_visit_ends(tmp_path, loaded):
    visits, upload = Visits(tmp_path, CONTROLS), upload_in(tmp_path)
    PIL.Image.open(SAMPLES[0]).save(upload)
    staged = StagedModel(*loaded)
    for session in ("a", "b"):
        with visits.of(session) as visit:
            visits.keep(visit, [upload])
            visit.open(staged, PIL.Image.open(upload).convert("RGB"), upload.name)
            (visit.new_folder("segment") / f"{session}.png").touch()
    visits.leave("a")
    assert upload.exists(), "the other visitor still uses an equal file"
    assert [path.name for path in tmp_path.rglob("*.png")].count("b.png") == 1
    assert not list(tmp_path.rglob("a.png"))
    visits.leave("b")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    with visits.of("b") as visit:
        assert visit.encoded is None


def test_an_equal_file_that_somebody_just_uploaded_stays_for_them(tmp_path):
    visits, upload = Visits(tmp_path, CONTROLS), upload_in(tmp_path)
    upload.touch()
    with visits.of("a") as visit:
        visits.keep(visit, [upload])
    (tmp_path / "incoming").write_bytes(b"")
    os.utime(tmp_path / "incoming", ns=(1, 1))
    (tmp_path / "incoming").rename(upload)  # as the server stores what the second visitor sent
    visits.leave("a")
    assert upload.exists()
    with visits.of("b") as visit:
        visits.keep(visit, [upload])
    visits.leave("b")
    assert not upload.exists()


def test_an_answer_that_comes_after_the_visitor_left_is_deleted_too(tmp_path):
    visits, upload = Visits(tmp_path, CONTROLS), upload_in(tmp_path)
    upload.touch()
    inside, go_on = threading.Event(), threading.Event()

    def answer():
        with visits.of("a") as visit:
            inside.set()
            go_on.wait()
            visits.keep(visit, [upload])
            (visit.new_folder("segment") / "mask.png").touch()

    answering = threading.Thread(target=answer)
    leaving = threading.Thread(target=visits.leave, args=("a",))
    answering.start()
    inside.wait()
    leaving.start()
    go_on.set()
    for thread in (answering, leaving):
        thread.join()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_action_that_begins_as_the_visitor_leaves_leaves_nothing(tmp_path):
    visits = Visits(tmp_path, CONTROLS)
    with visits.of("a") as visit:
        pass

    class LeavesJustNow:
        def __enter__(self):
            visit.lock = threading.Lock()
            visits.leave("a")

        def __exit__(self, *error):
            pass

    visit.lock = LeavesJustNow()
    with visits.of("a") as late:
        (late.new_folder("segment") / "mask.png").touch()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_forgotten_visit_ends_by_itself(tmp_path):
    visits = Visits(tmp_path, CONTROLS)
    for session in ("idle", "busy"):
        with visits.of(session) as visit:
            (visit.new_folder("segment") / f"{session}.png").touch()
            visit.last_used -= IDLE_SECONDS + 1 if session == "idle" else 0
    visits.forget_idle()
    assert [path.name for path in tmp_path.rglob("*.png")] == ["busy.png"]


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
    assert [share for _, share in frequency_story(model, image).shares] == pytest.approx([1.0, 1.0], rel=1e-4)


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
