"""`sfrecsam predict` and what goes wrong: nothing is lost, nothing left out in silence, no old answer given as new."""

import csv
import errno
import json
import os
import re
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from sfrecsam_hf.cli import main
from sfrecsam_hf.inference import predict as prediction
from sfrecsam_hf.inference.inputs import find_pictures

SAMPLES = Path(__file__).resolve().parents[1] / "space" / "samples"
SCAN = SAMPLES / "bus_0180-l.png"
OTHER = SAMPLES / "bus_0160-l.png"


@pytest.fixture
def run(tiny_checkpoint, capsys):
    """Runs the command, and returns its exit code and all that it printed; an error is sentences, no traceback."""

    def command(*arguments, model=tiny_checkpoint):
        capsys.readouterr()
        code = main(["predict", *map(str, arguments), "--model", str(model), "--presence-threshold", "0"])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out + said.err

    return command


def rows_of(output, table="predictions.csv"):
    with (output / table).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def names_of(output):
    return [row["image"] for row in rows_of(output)]


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    shutil.copy(SCAN, folder / "a.png")
    return folder


# Inputs


def test_outputs_never_become_inputs(run, scans):
    for _ in range(2):
        code, _said = run(scans, "--output", scans / "predictions")
        assert code == 0
        assert names_of(scans / "predictions") == ["a"]
    code, said = run(scans, "--output", scans / "elsewhere")
    assert code == 0
    assert names_of(scans / "elsewhere") == ["a"]
    assert "4 files that were written by an earlier run" in said


def test_the_default_folder_of_the_current_one(run, scans, monkeypatch):
    monkeypatch.chdir(scans)
    for _ in range(2):
        assert run(".")[0] == 0
        assert names_of(scans / "predictions") == ["a"]


def test_outputs_that_were_moved_are_still_known(run, scans):
    run(scans, "--output", scans / "predictions")
    for name in ("a_overlay.png", "a_mask.png"):
        shutil.move(scans / "predictions" / name, scans / f"moved {name}")
    found = find_pictures([str(scans)], scans / "predictions")
    assert [picture.path.name for picture in found.pictures] == ["a.png"]


def test_an_output_that_holds_the_inputs(run, scans):
    code, said = run(scans, "--output", scans)
    assert code == 2
    assert "choose another --output" in said
    assert [path.name for path in scans.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    "files",
    [("s.PNG", "s_mask.PNG"), ("images/s.png", "masks/s.png"), ("Images/s.tif", "GT/s.bmp"), ("s.png", "S_Mask.Png")],
)
@pytest.mark.parametrize("pattern", ["", "*", "**/*"])
def test_masks_are_no_scans(tmp_path, files, pattern):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        PIL.Image.new("L", (40, 30)).save(tmp_path / name)
    if pattern == "*" and "/" in files[0]:
        pattern = "*/*"
    found = find_pictures([str(tmp_path / pattern)], "predictions")
    assert [picture.path for picture in found.pictures] == [tmp_path / files[0]]
    assert found.left_out_in_words() == [f"left out 1 files that are masks of other images: {tmp_path / files[1]}"]


def test_a_mask_beside_dicom(tmp_path):
    (tmp_path / "s.dcm").write_bytes(b"\0" * 128 + b"DICM")
    PIL.Image.new("L", (40, 30)).save(tmp_path / "s_mask.png")
    found = find_pictures([str(tmp_path)], "predictions")
    assert [picture.path.name for picture in found.pictures] == ["s.dcm"]


def test_what_is_no_picture_is_counted(run, scans):
    (scans / "notes.txt").write_text("notes")
    PIL.Image.open(SCAN).save(scans / "b.webp")
    code, said = run(scans, "--output", scans / "out")
    assert code == 0
    assert names_of(scans / "out") == ["a", "b"]
    assert "1 files that are not images" in said


def test_no_frame_of_several_is_dropped(run, scans):
    frames = [PIL.Image.open(path).convert("L").resize((80, 90)) for path in (SCAN, OTHER)]
    for name in ("clip.gif", "clip.tif", "clip.webp"):
        frames[0].save(scans / name, save_all=True, append_images=frames[1:])
    code, said = run(scans, "--output", scans / "out")
    assert code == 0
    assert names_of(scans / "out") == ["a"]
    assert "clips are left out" not in said
    assert "3 clips are left out of other formats" in run(scans, "--output", scans / "out", "--report")[1]
    for name in ("clip.gif", "clip.tif", "clip.webp"):
        assert re.search(rf"{re.escape(name)}: a lesion on \d of 2 frames", said)


def test_a_missing_file_among_several(run, scans):
    code, said = run(scans / "gone.png", scans / "a.png", "--output", scans / "out")
    assert code == 2
    assert "gone.png does not exist" in said
    assert names_of(scans / "out") == ["a"]


# Earlier runs


@pytest.fixture
def redone(monkeypatch):
    """The names of the images that are written."""
    written = []
    write = prediction._write

    def noted(stem, *arguments):
        written.append(stem.name)
        write(stem, *arguments)

    monkeypatch.setattr(prediction, "_write", noted)
    return written


def test_resume_keeps_what_is_the_same(run, scans, redone):
    run(scans, "--output", scans / "out")
    code, said = run(scans, "--output", scans / "out", "--resume")
    assert (code, redone) == (0, ["a"])
    assert "1 of them by an earlier run" in said


@pytest.mark.parametrize("change", ["content", "folder", "mirror", "point", "model", "format"])
def test_resume_does_again_what_differs(run, scans, redone, tiny_checkpoint, tmp_path, change):
    run(scans, "--output", scans / "out")
    before = rows_of(scans / "out")
    flags, model, folder = [], tiny_checkpoint, scans
    if change == "content":
        shutil.copy(OTHER, scans / "a.png")
    elif change == "folder":
        folder = shutil.copytree(scans, tmp_path / "others", ignore=shutil.ignore_patterns("out"))
    elif change == "mirror":
        flags = ["--mirror"]
    elif change == "point":
        flags = ["--point", "100", "120"]
    elif change == "format":
        flags = ["--format", "labels"]
    else:
        model = shutil.copytree(tiny_checkpoint, tmp_path / "other")
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | {"suspicion_threshold": 0.123}))
    assert run(folder, "--output", scans / "out", "--resume", *flags, model=model)[0] == 0
    assert redone == ["a", "a"]
    assert rows_of(scans / "out") != before


def test_resume_does_again_what_was_deleted(run, scans, redone):
    run(scans, "--output", scans / "out")
    (scans / "out" / "a_mask.png").unlink()
    run(scans, "--output", scans / "out", "--resume")
    assert redone == ["a", "a"]
    assert (scans / "out" / "a_mask.png").is_file()


def test_the_joined_file_holds_the_last_answers_only(run, scans, tmp_path):
    def joined():
        return [image["file_name"] for image in json.loads((out / "predictions_coco.json").read_text())["images"]]

    out = tmp_path / "out"
    shutil.copy(OTHER, scans / "predictions.png")
    run(scans, "--output", out, "--format", "coco")
    assert joined() == ["a.png", "predictions.png"]
    run(scans / "a.png", "--output", out, "--mirror")
    run(scans / "predictions.png", "--output", out, "--format", "coco")
    assert joined() == ["predictions.png"]


def test_a_moved_checkpoint_is_the_same_checkpoint(run, scans, redone, tiny_checkpoint, tmp_path):
    run(scans, "--output", scans / "out")
    run(scans, "--output", scans / "out", "--resume", model=shutil.copytree(tiny_checkpoint, tmp_path / "moved"))
    assert redone == ["a"]


@pytest.mark.parametrize("flags", [(), ("--resume",)])
def test_other_inputs_delete_no_row(run, scans, tmp_path, flags):
    run(scans, "--output", tmp_path / "out")
    (tmp_path / "more").mkdir()
    shutil.copy(OTHER, tmp_path / "more" / "b.png")
    run(tmp_path / "more", "--output", tmp_path / "out", *flags)
    assert sorted(names_of(tmp_path / "out")) == ["a", "b"]
    assert {row["image"] for row in rows_of(tmp_path / "out", "lesions.csv")} == {"a", "b"}


def test_a_file_that_became_unreadable_has_no_row(run, scans):
    run(scans, "--output", scans / "out")
    (scans / "a.png").write_bytes(b"no image any more")
    shutil.copy(OTHER, scans / "b.png")
    assert run(scans, "--output", scans / "out", "--resume")[0] == 2
    assert names_of(scans / "out") == ["b"]


def test_a_table_of_something_else_is_refused(run, scans):
    (scans / "out").mkdir()
    (scans / "out" / "predictions.csv").write_text("image,diagnosis\na,benign\n")
    code, said = run(scans, "--output", scans / "out")
    assert code == 2
    assert "predictions.csv is not a table that this version has written" in said
    assert (scans / "out" / "predictions.csv").read_text() == "image,diagnosis\na,benign\n"


# One image


def test_a_prompt_outside_one_of_several_sizes(run, scans):
    PIL.Image.open(SCAN).resize((90, 90)).save(scans / "small.png")
    PIL.Image.open(SCAN).save(scans / "z.png")
    code, said = run(scans, "--output", scans / "out", "--point", "150", "200")
    assert code == 2
    assert names_of(scans / "out") == ["a", "z"]
    assert "small.png" in said
    assert "outside" in said
    assert "90x90" in said


def test_a_scan_of_which_the_frame_leaves_a_pixel(run, scans):
    dot = np.zeros((80, 90), np.uint8)
    dot[40, 45] = 200
    PIL.Image.fromarray(dot).save(scans / "dot.png")
    code, said = run(scans, "--output", scans / "out")
    assert "a" in names_of(scans / "out")
    assert code == 0 or "dot.png" in said


def test_files_that_cannot_even_be_opened(run, scans):
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    huge = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + b"\0\0\0\0IDAT"
    (scans / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + huge)
    syntax = b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\x00"
    (scans / "frames.dcm").write_bytes(b"\0" * 128 + b"DICM" + syntax + b"\x28\x00\x08\x00IS\x02\x00x ")
    code, said = run(scans, "--output", scans / "out")
    assert (code, names_of(scans / "out")) == (2, ["a"])
    assert "huge.png is above Pillow's own bound" in said
    assert "frames.dcm is DICOM without pixels" in said


def test_an_image_whose_measuring_fails(run, scans, monkeypatch):
    shutil.copy(OTHER, scans / "b.png")
    measure = prediction.rows_of

    def fails(name, *arguments):
        if name == "a":
            raise ZeroDivisionError("no width")
        return measure(name, *arguments)

    monkeypatch.setattr(prediction, "rows_of", fails)
    code, said = run(scans, "--output", scans / "out")
    assert (code, names_of(scans / "out")) == (2, ["b"])
    assert "a.png: no width" in said


def test_a_name_that_leaves_no_room_for_its_outputs(run, scans):
    shutil.copy(SCAN, scans / f"{'n' * 246}.png")
    code, said = run(scans, "--output", scans / "out")
    assert (code, names_of(scans / "out")) == (2, ["a"])
    assert "rename the image" in said
    assert not list((scans / "out").glob("nn*"))


def test_a_name_that_is_no_text(run, scans):
    shutil.copy(SCAN, os.fsencode(scans) + b"/caf\xe9.png")
    code, _said = run(scans, "--output", scans / "out")
    assert code == 0
    assert names_of(scans / "out") == ["a", "caf\\xe9"]
    assert (scans / "out" / "caf\\xe9_mask.png").is_file()


def test_a_name_that_a_spreadsheet_would_calculate(run, scans, monkeypatch):
    monkeypatch.chdir(scans)
    shutil.copy(SCAN, "=1+1.png")
    assert run("=1+1.png", "--output", "out", "--format", "contours")[0] == 0
    assert Path("out", "=1+1_mask.png").is_file()
    for table in ("predictions.csv", "lesions.csv", "=1+1_contours.csv"):
        cells = [cell for row in rows_of(Path("out"), table) for cell in row.values()]
        assert cells
        assert not any(cell.startswith("=") for cell in cells)


@pytest.mark.parametrize("name", ["b\rc.png", "b\nc.png", "b\x1b[2Jc.png", "b\u2028c.png"])
def test_a_name_that_breaks_lines(run, scans, name):
    shutil.copy(SCAN, scans / name)
    for flags in ([], ["--resume"]):
        code, said = run(scans, "--output", scans / "out", *flags)
        assert code == 0
        assert "2 images segmented" in said
        assert names_of(scans / "out") == ["a", name[:-4].encode("unicode_escape").decode()]
    assert "2 of them by an earlier run" in said


# The output


@pytest.mark.parametrize("where", ["below a file", "a file", "a folder of the table's name"])
def test_an_output_that_cannot_be_written(run, scans, tmp_path, where):
    output = tmp_path / "taken"
    if where == "below a file":
        output.touch()
        output = output / "out"
    elif where == "a file":
        output.touch()
    else:
        (output / "predictions.csv").mkdir(parents=True)
    code, said = run(scans, "--output", output)
    assert code == 2
    assert len(said.strip().splitlines()) == 1
    assert "taken" in said
    assert not list(tmp_path.rglob("*.new"))


def test_a_full_disk_leaves_the_last_table(run, scans, monkeypatch):
    run(scans, "--output", scans / "out")
    table = (scans / "out" / "predictions.csv").read_bytes()
    shutil.copy(OTHER, scans / "b.png")
    save = PIL.Image.Image.save

    def full(self, path, *arguments, **options):
        if str(path).endswith("b_overlay.png.new"):
            Path(path).write_bytes(b"the beginning")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save(self, path, *arguments, **options)

    monkeypatch.setattr(PIL.Image.Image, "save", full)
    code, said = run(scans, "--output", scans / "out", "--batch-size", "1")
    assert code == 2
    assert "no space left on device; free some space" in said
    assert (scans / "out" / "predictions.csv").read_bytes() == table
    assert not list(scans.rglob("*.new"))
    assert not list((scans / "out").glob("b_*"))
    monkeypatch.setattr(PIL.Image.Image, "save", save)
    code, said = run(scans, "--output", scans / "out", "--resume")
    assert (code, names_of(scans / "out")) == (0, ["a", "b"])
    assert "1 of them by an earlier run" in said


# The flags


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--threshold", "nan"), "--threshold nan"),
        (("--presence-threshold", "2"), "--presence-threshold 2"),
        (("--box", "10", "10", "10", "50"), "has no area"),
        (("--box", "50", "10", "10", "nan"), "has no area"),
        (("--samples", "-1"), "--samples -1"),
        (("--device", "gpu"), "--device gpu"),
        (("--device", "mps"), "--device mps"),
        (("--device", "0"), "--device 0"),
    ],
)
def test_a_flag_that_makes_no_sense(tiny_checkpoint, scans, capsys, flags, said):
    command = ["predict", str(scans), "--output", str(scans / "out"), "--model", str(tiny_checkpoint), *flags]
    assert main(command) == 2
    assert said in capsys.readouterr().err
    assert not (scans / "out").exists()


def test_no_noise_of_libraries(run, scans):
    _code, said = run(scans, "--output", scans / "out")
    assert "Loading weights" not in said


# Memory


def test_a_batch_holds_no_more_pixels_than_one_image_may_have(run, scans, monkeypatch):
    sizes = []
    answer = prediction.segment_batch

    def noted(model, processor, pairs, **options):
        sizes.append([image.width * image.height for image, _ in pairs])
        return answer(model, processor, pairs, **options)

    for name, side in (("b", 100), ("c", 100), ("d", 400)):
        PIL.Image.open(SCAN).resize((side, side)).save(scans / f"{name}.png")
    monkeypatch.setenv("SFRECSAM_MAX_MEGAPIXELS", "0.1")
    monkeypatch.setattr(prediction, "segment_batch", noted)
    code, said = run(scans, "--output", scans / "out")
    assert (code, names_of(scans / "out")) == (2, ["a", "b", "c"])
    assert "d.png is 400x400 pixels" in said
    assert max(map(sum, sizes)) <= 100_000


def test_a_large_jpeg_is_read_smaller(run, scans, monkeypatch):
    PIL.Image.open(SCAN).convert("L").resize((600, 800)).save(scans / "large.jpg")
    monkeypatch.setenv("SFRECSAM_MAX_MEGAPIXELS", "0.2")
    code, _said = run(scans, "--output", scans / "out")
    assert code == 0
    (row,) = [row for row in rows_of(scans / "out") if row["image"] == "large"]
    assert (row["width"], row["height"]) == ("300", "400")
