"""The Space through its API: the masks of `segment`, one encoding per image, visits apart, nothing left behind."""

import csv
import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from sfrecsam_hf import segment
from sfrecsam_hf.bundled import bundled_space
from sfrecsam_hf.checkpoints import load_checkpoint
from sfrecsam_hf.metrics import overlap
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
    from gradio_client import Client

    return Client(space_page.local_url, download_files=str(tmp_path / "downloads"), verbose=False)


def handed(path):
    from gradio_client import handle_file

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


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
def test_the_same_mask_as_segment(client, loaded, prompts):
    mask, numbers = client.predict(handed(SAMPLES[0]), **prompts, api_name="/segment")
    given = {"input_points": prompts.get("points"), "input_labels": prompts.get("labels")}
    given = {name: [value] for name, value in given.items() if value}
    if "points" in given or "input_points" in given:
        given.setdefault("input_labels", [[1] * len(prompts["points"])])
    if "box" in prompts:
        given["input_boxes"] = [prompts["box"]]
    wanted = expected(loaded, SAMPLES[0], given)
    assert np.array_equal(pixels(mask), wanted.mask)
    assert 0 < wanted.mask.sum() < wanted.mask.size
    for name, value in wanted.measurements().items():
        assert numbers[name] == pytest.approx(value, abs=1e-5), name
    assert "not for diagnosis" in numbers["notice"]


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


def test_clicks_answer_from_the_image_encoded_once(client, loaded, stages):
    controls = (2, 0.5, 0.5, ["fp", "fn"])
    opened = client.predict(handed(SAMPLES[0]), *controls, api_name="/open_image")
    area = dict(row_pairs(opened[-1]))["Area"]
    clicked = client.predict(100, 120, "Lesion", api_name="/click")
    clicked = client.predict(20, 30, "Background", api_name="/click")
    wanted = expected(loaded, SAMPLES[0], {"input_points": [[100, 120], [20, 30]], "input_labels": [1, 0]})
    assert dict(row_pairs(clicked[-1]))["Area"].startswith(f"{wanted.mask.sum():,} px")
    assert stages.count("encode") == 1
    assert "encoded **once**" in clicked[1]
    client.predict(150, 160, "Box corner", api_name="/click")
    boxed = client.predict(40, 60, "Box corner", api_name="/click")
    prompts = {"input_points": [[100, 120], [20, 30]], "input_labels": [1, 0], "input_boxes": [[40, 60, 150, 160]]}
    wanted = expected(loaded, SAMPLES[0], prompts)
    assert dict(row_pairs(boxed[-1]))["Area"].startswith(f"{wanted.mask.sum():,} px")
    undone = client.predict(api_name="/undo")
    assert undone[-1]["data"] == clicked[-1]["data"]
    cleared = client.predict(api_name="/clear")
    assert dict(row_pairs(cleared[-1]))["Area"] == area
    assert stages.count("encode") == 1


def row_pairs(table):
    return [tuple(row) for row in table["data"]]


def test_two_visitors_do_not_meet(space_page, tmp_path, stages):
    from gradio_client import Client

    controls = (2, 0.5, 0.5, ["fp", "fn"])
    first, second = (Client(space_page.local_url, download_files=str(tmp_path), verbose=False) for _ in range(2))
    alone = first.predict(handed(SAMPLES[0]), *controls, api_name="/open_image")
    second.predict(handed(SAMPLES[1]), *controls, api_name="/open_image")
    second.predict(60, 60, "Lesion", api_name="/click")
    again = first.predict(api_name="/clear")
    assert again[-1]["data"] == alone[-1]["data"]


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
}


@pytest.mark.parametrize(("make", "said"), BAD_FILES.items(), ids=[make.__name__ for make in BAD_FILES])
def test_bad_files_are_refused_in_one_sentence(client, tmp_path, make, said):
    from gradio_client.exceptions import AppError

    path = make(tmp_path)
    with pytest.raises(AppError, match=said) as refused:
        client.predict(handed(path), api_name="/segment")
    assert path.name in str(refused.value)
    assert str(tmp_path) not in str(refused.value)
    assert "sfrecsam-" not in str(refused.value)


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ({"points": [[5000, 5]]}, "outside"),
        ({"points": [[5, 5]], "labels": [1, 1]}, "labels"),
        ({"points": [5, 5]}, "points"),
        ({"box": [1, 2, 3]}, "box"),
    ],
)
def test_bad_prompts_are_refused(client, prompts, said):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match=said):
        client.predict(handed(SAMPLES[0]), **prompts, api_name="/segment")


def test_batch_gives_table_and_zip_and_compares(client, loaded, tmp_path):
    masks = [path.with_name(f"{path.stem}_mask.png") for path in SAMPLES[:2]]
    images = [handed(path) for path in [*SAMPLES[:3], text_file(tmp_path)]]
    table, gallery, archive, said = client.predict(images, [handed(path) for path in masks], api_name="/batch")
    assert [row[0] for row in table["data"]] == [path.stem for path in SAMPLES[:3]]
    assert "letter.png" in said
    assert len(gallery) == 3
    with zipfile.ZipFile(archive) as opened:
        names = set(opened.namelist())
        rows = list(csv.DictReader(io.StringIO(opened.read("table.csv").decode())))
        for index, path in enumerate(SAMPLES[:3]):
            wanted = expected(loaded, path)
            mask = np.asarray(PIL.Image.open(io.BytesIO(opened.read(f"{path.stem}_mask.png")))) > 0
            assert np.array_equal(mask, wanted.mask)
            assert json.loads(opened.read(f"{path.stem}.json"))["area"] == wanted.mask.sum()
            assert f"{path.stem}_overlay.png" in names
            assert (f"{path.stem}_errors.png" in names) == (index < 2)
            dice = "" if index == 2 else f"{overlap(wanted.mask, pixels(masks[index]))['dice']:.3f}"
            assert rows[index]["Dice"] == "" if index == 2 else float(rows[index]["Dice"]) == float(dice)


def test_too_many_images_at_once(client):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match="at most 32"):
        client.predict([handed(SAMPLES[0])] * 33, None, api_name="/batch")


def test_a_reference_of_another_size_is_refused(client, tmp_path):
    from gradio_client.exceptions import AppError

    reference = tmp_path / f"{SAMPLES[0].stem}_mask.png"
    PIL.Image.new("1", (10, 10)).save(reference)
    with pytest.raises(AppError, match="same size"):
        client.predict([handed(SAMPLES[0])], [handed(reference)], api_name="/batch")


def test_nothing_is_left_when_a_visit_ends(tmp_path, loaded):
    visits, upload = Visits(tmp_path, CONTROLS), tmp_path / "upload.png"
    PIL.Image.open(SAMPLES[0]).save(upload)
    staged = StagedModel(*loaded)
    for session in ("a", "b"):
        visit = visits.of(session)
        visit.uploads.add(upload)
        visit.open(staged, PIL.Image.open(upload).convert("RGB"), upload.name)
        (visit.new_folder("segment") / "mask.png").touch()
    visits.leave("a")
    assert upload.exists(), "the other visitor still uses an equal file"
    assert not (tmp_path / "visits" / "a").exists()
    visits.leave("b")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert visits.of("b").encoded is None


def test_a_forgotten_visit_ends_by_itself(tmp_path):
    visits = Visits(tmp_path, CONTROLS)
    (visits.of("idle").new_folder("segment") / "mask.png").touch()
    visits.of("idle").last_used -= IDLE_SECONDS + 1
    visits.of("other")
    assert not (tmp_path / "visits" / "idle").exists()


def test_no_telemetry_and_a_limit_on_uploads(space_page):
    assert space_page.analytics_enabled is False
    assert space_page.config["analytics_enabled"] is False


def test_the_example_in_the_readme_runs(space_page):
    example = re.search(r"```python\n(.*?)```", (SPACE / "README.md").read_text(), flags=re.DOTALL)[1]
    example = example.replace("http://127.0.0.1:7860", space_page.local_url)
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=SPACE.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "_mask.png" in done.stdout


def test_the_space_has_what_a_space_needs():
    header = (SPACE / "README.md").read_text().split("---")[1]
    for key in ("sdk: gradio", "app_file: app.py", "license:", "sdk_version:"):
        assert key in header
    assert (SPACE / "requirements.txt").is_file()
    assert (SPACE / "samples" / "LICENSE.txt").is_file()
    assert bundled_space() == SPACE
