"""`sfrecsam predict`: every picture and row that is promised, for every kind of input, whatever goes wrong."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from sfrecsam_hf.cli import main
from sfrecsam_hf.inference.inputs import MASK, find_pictures

SAMPLES = Path(__file__).resolve().parents[1] / "space" / "samples"
KINDS = ("mask", "overlay", "uncertainty", "corrections")


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return str(tiny_checkpoint)


def run(*arguments):
    return main(["predict", *map(str, arguments), "--presence-threshold", "0", "--samples", "1"])


def rows_of(output, table="predictions.csv"):
    with (output / table).open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_picture_and_one_row_per_image(checkpoint, tmp_path, capsys):
    assert run(SAMPLES, "--output", tmp_path, "--model", checkpoint) == 0
    images = sorted(path for path in SAMPLES.glob("*.png") if not path.stem.endswith("_mask"))
    assert [row["image"] for row in rows_of(tmp_path)] == [path.stem for path in images]
    for path, row in zip(images, rows_of(tmp_path), strict=True):
        size = PIL.Image.open(path).size
        for kind in KINDS:
            assert PIL.Image.open(tmp_path / f"{path.stem}_{kind}.png").size == size
        mask = np.asarray(PIL.Image.open(tmp_path / f"{path.stem}_mask.png"))
        assert set(np.unique(mask)) <= {0, 255}
        assert int(row["area"]) == (mask == 255).sum()
        assert (int(row["width"]), int(row["height"])) == size
    assert "6 images segmented" in capsys.readouterr().out


def test_subfolders_are_mirrored_and_equal_stems_kept_apart(checkpoint, tmp_path):
    source = tmp_path / "in"
    (source / "a" / "b").mkdir(parents=True)
    image = PIL.Image.open(SAMPLES / "bus_0160-l.png")
    image.save(source / "a" / "b" / "x.png")
    image.save(source / "y.png")
    image.save(source / "y.bmp")
    assert run(source, "--output", tmp_path / "out", "--model", checkpoint) == 0
    assert (tmp_path / "out" / "a" / "b" / "x_mask.png").is_file()
    assert (tmp_path / "out" / "y.png_mask.png").is_file()
    assert (tmp_path / "out" / "y.bmp_mask.png").is_file()


def test_one_bad_file_is_reported_and_stops_nothing(checkpoint, tmp_path, capsys):
    source = tmp_path / "in"
    source.mkdir()
    shutil.copy(SAMPLES / "bus_0160-l.png", source / "good.png")
    (source / "broken.png").write_bytes((SAMPLES / "bus_0160-l.png").read_bytes()[:3000])
    (source / "empty.png").touch()
    (source / "text.png").write_text("not an image")
    assert run(source, "--output", tmp_path / "out", "--model", checkpoint) == 2
    errors = capsys.readouterr().err
    for name in ("broken.png", "empty.png", "text.png"):
        assert name in errors
    assert [row["image"] for row in rows_of(tmp_path / "out")] == ["good"]
    assert not list((tmp_path / "out").glob("broken*"))


@pytest.mark.parametrize("missing", ["nowhere.png", "nothing*.png"])
def test_missing_input(checkpoint, tmp_path, capsys, missing):
    assert run(tmp_path / missing, "--output", tmp_path / "out", "--model", checkpoint) == 2
    assert missing in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folder_without_images(checkpoint, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    assert run(tmp_path / "in", "--output", tmp_path / "out", "--model", checkpoint) == 2
    assert "holds no images" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_prompt_outside_the_image_is_refused(checkpoint, tmp_path, capsys):
    image = SAMPLES / "bus_0160-l.png"
    assert run(image, "--output", tmp_path, "--model", checkpoint, "--point", "5000", "5") == 2
    assert "outside" in capsys.readouterr().err


@pytest.mark.parametrize("prompt", [("--point", "100", "150"), ("--box", "60", "80", "150", "200")])
def test_a_prompt_is_used(checkpoint, tmp_path, prompt):
    image = SAMPLES / "bus_0160-l.png"
    assert run(image, "--output", tmp_path, "--model", checkpoint, *prompt) == 0
    assert len(rows_of(tmp_path)) == 1


def test_batch_size_changes_no_mask(checkpoint, tmp_path):
    for size in (1, 4):
        run(SAMPLES, "--output", tmp_path / str(size), "--model", checkpoint, "--batch-size", size)
    for path in sorted((tmp_path / "1").glob("*_mask.png")):
        alone, together = (np.asarray(PIL.Image.open(tmp_path / size / path.name)) for size in ("1", "4"))
        # A logit of exactly zero may round to either side: the random model of this test has such pixels.
        assert (alone != together).mean() < 1e-4


def test_resume_keeps_what_was_done(checkpoint, tmp_path):
    run(SAMPLES, "--output", tmp_path, "--model", checkpoint)
    complete = rows_of(tmp_path)
    kept, redone = complete[0]["image"], complete[1]["image"]
    (tmp_path / "predictions.csv").write_text(
        "".join((tmp_path / "predictions.csv").read_text().splitlines(keepends=True)[:2])
    )
    masks = [tmp_path / f"{name}_mask.png" for name in (kept, redone)]
    before = [mask.stat().st_mtime_ns for mask in masks]
    run(SAMPLES, "--output", tmp_path, "--model", checkpoint, "--resume")
    assert rows_of(tmp_path) == complete
    after = [mask.stat().st_mtime_ns for mask in masks]
    assert after[0] == before[0]
    assert after[1] > before[1]


@pytest.mark.parametrize("written", [4, 30, -1])
def test_resume_after_a_process_was_killed_in_the_middle_of_a_row(checkpoint, tmp_path, written):
    run(SAMPLES, "--output", tmp_path, "--model", checkpoint)
    complete = rows_of(tmp_path)
    table = tmp_path / "predictions.csv"
    header, kept, torn, *_ = table.read_text().splitlines()
    (tmp_path / "predictions.part3.csv").write_text(f"{header}\n{kept}\n{torn[:written]}")
    table.write_text(f"{header}\n")
    masks = [tmp_path / f"{row['image']}_mask.png" for row in complete[:2]]
    before = [mask.stat().st_mtime_ns for mask in masks]
    run(SAMPLES, "--output", tmp_path, "--model", checkpoint, "--resume")
    assert rows_of(tmp_path) == complete
    after = [mask.stat().st_mtime_ns for mask in masks]
    assert after[0] == before[0]
    assert after[1] > before[1]
    assert not list(tmp_path.glob("predictions.part*"))


def test_an_image_that_is_given_twice_is_segmented_once(checkpoint, tmp_path):
    image = SAMPLES / "bus_0180-l.png"
    (tmp_path / "link.png").symlink_to(image)
    inputs = (image, SAMPLES / "bus_0160-l.png", tmp_path / "link.png", SAMPLES / "bus_01*-l.png", image)
    assert run(*inputs, "--output", tmp_path / "out", "--model", checkpoint) == 0
    assert [row["image"] for row in rows_of(tmp_path / "out")] == ["bus_0180-l", "bus_0160-l"]


def test_two_images_are_never_written_to_one_place(checkpoint, tmp_path, capsys):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(SAMPLES / "bus_0160-l.png", tmp_path / folder / "x.png")
    apart = (tmp_path / "a", tmp_path / "b" / "x.png")
    assert run(*apart, "--output", tmp_path / "out", "--model", checkpoint) == 2
    assert "give the folder that holds both" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run(tmp_path / "*" / "x.png", "--output", tmp_path / "out", "--model", checkpoint) == 0
    assert [row["image"] for row in rows_of(tmp_path / "out")] == ["a/x", "b/x"]


PEAK = """
import sys
from pathlib import Path
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.inference.predict import predict

checkpoint, few, many, output = sys.argv[1:]
model, processor = load_checkpoint(checkpoint, "cpu")
for folder in (few, many):
    report = predict(model, processor, [folder], output, quiet=True, mc_samples=1)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(len(report.rows), status["VmHWM"].split()[0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the peak")
def test_peak_memory_does_not_grow_with_the_number_of_images(checkpoint, tmp_path):
    image = PIL.Image.open(SAMPLES / "bus_0160-l.png").resize((320, 320))
    for folder, count in (("few", 16), ("many", 96)):
        (tmp_path / folder).mkdir()
        for index in range(count):
            image.save(tmp_path / folder / f"{index}.png", compress_level=1)
    command = [sys.executable, "-c", PEAK, checkpoint, *(tmp_path / name for name in ("few", "many", "out"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (few, before), (many, after) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert (few, many) == (16, 96)
    # What is known of one image takes 1.7 MB: 80 that were kept would take 130 MB.
    assert after - before < 40_000


def test_dicom_is_measured_in_millimetres(checkpoint, tmp_path):
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    pixels = np.asarray(PIL.Image.open(SAMPLES / "bus_0160-l.png").convert("L"))
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.6.1", generate_uid()
    frame = FileDataset(str(tmp_path / "scan.dcm"), {}, file_meta=meta, preamble=b"\0" * 128)
    frame.Rows, frame.Columns = pixels.shape
    frame.SamplesPerPixel, frame.PhotometricInterpretation = 1, "MONOCHROME2"
    frame.BitsAllocated = frame.BitsStored = 8
    frame.HighBit, frame.PixelRepresentation = 7, 0
    region = pydicom.Dataset()
    region.PhysicalDeltaX = region.PhysicalDeltaY = 0.05
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.RegionLocationMinX0 = region.RegionLocationMinY0 = 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = frame.Columns - 1, frame.Rows - 1
    frame.SequenceOfUltrasoundRegions = [region]
    frame.PixelData = pixels.tobytes()
    frame.save_as(tmp_path / "scan.dcm", enforce_file_format=True)
    shutil.copy(SAMPLES / "bus_0160-l.png", tmp_path / "plain.png")
    assert run(tmp_path / "scan.dcm", tmp_path / "plain.png", "--output", tmp_path / "out", "--model", checkpoint) == 0
    scan, plain = rows_of(tmp_path / "out")
    assert scan["area"] == plain["area"]
    assert plain["area_mm2"] == ""
    assert float(scan["area_mm2"]) == pytest.approx(int(scan["area"]) * 0.25, abs=0.01)
    assert float(scan["longest_diameter_mm"]) == pytest.approx(float(scan["longest_diameter"]) / 2, abs=0.01)


def test_millimetres_of_images_that_do_not_tell_them(checkpoint, tmp_path, capsys):
    image = SAMPLES / "bus_0160-l.png"
    assert run(image, "--output", tmp_path, "--model", checkpoint, "--mm-per-pixel", "0.1") == 0
    (row,) = rows_of(tmp_path)
    assert float(row["area_mm2"]) == pytest.approx(int(row["area"]) / 100, abs=0.01)
    assert float(row["longest_diameter_mm"]) == pytest.approx(float(row["longest_diameter"]) / 10, abs=0.01)
    assert run(image, "--output", tmp_path, "--model", checkpoint, "--mm-per-pixel", "nan") == 2
    assert "--mm-per-pixel nan" in capsys.readouterr().err


def test_a_row_for_every_lesion(checkpoint, tmp_path):
    assert run(SAMPLES, "--output", tmp_path, "--model", checkpoint, "--no-tidy") == 0
    lesions = rows_of(tmp_path, "lesions.csv")
    for image in rows_of(tmp_path):
        own = [row for row in lesions if row["image"] == image["image"]]
        assert [int(row["lesion"]) for row in own] == list(range(1, int(image["lesions"]) + 1))
        assert sum(int(row["area"]) for row in own) == int(image["area"])
        largest = own[0]
        assert [largest[column] for column in ("x1", "y2", "longest_diameter")] == [
            image[column] for column in ("x1", "y2", "longest_diameter")
        ]
    combined = json.loads((tmp_path / "predictions.json").read_text())["images"]
    assert [len(image["lesions"]) for image in combined] == [int(row["lesions"]) for row in rows_of(tmp_path)]
    said = (tmp_path / "columns.txt").read_text()
    assert all(column in said for column in (*lesions[0], *rows_of(tmp_path)[0]))


def test_tidy_masks_have_no_specks(checkpoint, tmp_path):
    counts = []
    for name, flags in (("tidy", ()), ("raw", ("--no-tidy",))):
        assert run(SAMPLES, "--output", tmp_path / name, "--model", checkpoint, *flags) == 0
        counts.append(sum(int(row["lesions"]) for row in rows_of(tmp_path / name)))
    assert counts[0] < counts[1]


def test_masks_beside_their_images_are_no_inputs():
    found = find_pictures([str(SAMPLES)], "predictions")
    masks = sorted(SAMPLES.glob("*_mask.png"))
    assert [picture.path for picture in found.pictures] == sorted(set(SAMPLES.glob("*.png")) - set(masks))
    assert found.left_out[MASK] == masks


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ({"config.json": '{"model_type": "sam"}'}, "from_sam"),
        ({"config.json": '{"model_type": "bert"}'}, "'bert'"),
        ({}, "holds no checkpoint"),
    ],
)
def test_wrong_checkpoint(tmp_path, capsys, contents, said):
    folder = tmp_path / "wrong"
    folder.mkdir()
    for name, text in contents.items():
        (folder / name).write_text(text)
    assert run(SAMPLES / "bus_0160-l.png", "--output", tmp_path / "out", "--model", folder) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()[-1]) < 300
    assert not (tmp_path / "out").exists()


def test_truncated_checkpoint(checkpoint, tmp_path, capsys):
    shutil.copytree(checkpoint, tmp_path / "short")
    weights = tmp_path / "short" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert run(SAMPLES / "bus_0160-l.png", "--output", tmp_path / "out", "--model", tmp_path / "short") == 2
    assert "short" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
