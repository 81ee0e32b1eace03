"""Each layout, as a folder and as a zip, gives the same `datasets` columns; what is wrong is told in a sentence."""

import shutil
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import PIL.Image
import pytest
from conftest import scan
from hypothesis import given, settings
from hypothesis import strategies as st

from sfrecsam_hf import load_bus_bra, load_busi, load_folder, load_udiat
from sfrecsam_hf.cli import main
from sfrecsam_hf.data.inspection import inspect
from sfrecsam_hf.data.layouts import LABELS, recognise
from sfrecsam_hf.data.pairing import masks_among, pair

COLUMNS = {"image", "mask", "label", "name", "group"}
SAMPLES = Path(__file__).resolve().parents[1] / "space" / "samples"


def zipped(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.make_archive(str(tmp_path / "archive"), "zip", folder))


def assert_same(ours, theirs):
    assert ours.features == theirs.features
    for one, other in zip(ours, theirs, strict=True):
        assert (one["name"], one["label"], one["group"]) == (other["name"], other["label"], other["group"])
        assert np.array_equal(np.asarray(one["image"]), np.asarray(other["image"]))
        assert np.array_equal(np.asarray(one["mask"]), np.asarray(other["mask"]))


def test_busi(busi_folder, tmp_path):
    dataset = load_busi(busi_folder)
    assert set(dataset.column_names) == COLUMNS
    labels = [dataset.features["label"].int2str(label) for label in dataset["label"]]
    assert {label: labels.count(label) for label in labels} == {"benign": 10, "malignant": 6, "normal": 4}
    for row in dataset:
        assert row["mask"].size == row["image"].size
        assert set(np.unique(row["mask"])) <= {0, 255}
    assert not any(np.asarray(mask).any() for mask in dataset["mask"][16:])
    assert_same(dataset, load_busi(zipped(busi_folder, tmp_path)))


def test_several_masks_are_joined_by_or(busi_folder):
    row = next(row for row in load_busi(busi_folder) if row["name"] == "benign/benign (2).png")
    parts = [np.asarray(PIL.Image.open(busi_folder / "benign" / f"benign (2)_mask{n}.png")) > 0 for n in ("", "_1")]
    assert parts[1].any()
    assert np.array_equal(np.asarray(row["mask"]) > 0, parts[0] | parts[1])


def test_udiat(tmp_path):
    root = tmp_path / "udiat"
    for folder in ("original", "GT"):
        (root / folder).mkdir(parents=True)
    for number in (1, 2):
        image, mask = scan(50, 70, number)
        image.save(root / "original" / f"00000{number}.png")
        mask.save(root / "GT" / f"00000{number}.png")
    dataset = load_udiat(root)
    assert dataset["name"] == ["000001", "000002"]
    assert set(dataset.column_names) == COLUMNS
    assert_same(dataset, load_udiat(zipped(root, tmp_path)))
    assert_same(dataset, load_folder(root))


def test_bus_bra_is_split_by_patient(tmp_path):
    root = tmp_path / "bra"
    for folder in ("Images", "Masks"):
        (root / folder).mkdir(parents=True)
    rows = ["ID,Case,Histology,Pathology,BIRADS,Device,Width,Height,Side,BBOX"]
    for case in (9, 10):
        for side in "lr":
            name = f"bus_{case:04d}-{side}"
            image, mask = scan(60, 50, case)
            image.save(root / "Images" / f"{name}.png")
            mask.save(root / "Masks" / f"{name.replace('bus', 'mask')}.png")
            rows.append(f"{name},{case},cyst,benign,2,GE,50,60,{side},x")
    (root / "bus_data.csv").write_text("\n".join(rows))
    train, validation = load_bus_bra(root, "train"), load_bus_bra(root, "val")
    assert set(train["group"]) == {"case 9"}
    assert set(validation["group"]) == {"case 10"}
    assert len(load_bus_bra(root)) == 4
    assert_same(train, load_folder(zipped(root, tmp_path), split="train"))


def test_any_folder_with_masks_beside_images():
    dataset = load_folder(SAMPLES)
    assert len(dataset) == 6
    assert all(np.asarray(mask).any() for mask in dataset["mask"])


def test_images_beside_masks_folders(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    image, mask = scan(40, 40, 0)
    image.save(tmp_path / "images" / "a.jpg")
    mask.save(tmp_path / "masks" / "a_mask.png")
    assert load_folder(tmp_path)["name"] == ["a"]


def written(root: Path, *places: str) -> Path:
    """Files by their place: `_mask` and folders of masks draw the lesion of the picture with the same number."""
    for place in places:
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        number = int("".join(character for character in path.stem if character.isdigit()) or 0)
        folders = place.lower().split("/")[:-1]
        is_mask = "mask" in path.stem.lower() or {"masks", "gt", "labels"} & set(folders)
        scan(40, 50, number)[bool(is_mask)].save(path)
    return root


LAYOUTS = {
    "train and val, each with images and masks": (
        ["train/images/a1.png", "train/masks/a1.png", "val/images/a2.png", "val/masks/a2.png"],
        {"train/a1": ("unknown", "train"), "val/a2": ("unknown", "val")},
    ),
    "images and masks, each with train and val": (
        [
            "images/training/a1.png",
            "masks/training/a1_mask.png",
            "images/Validation/a2.png",
            "masks/Validation/a2.png",
        ],
        {"training/a1": ("unknown", "train"), "Validation/a2": ("unknown", "val")},
    ),
    "class folders with images and masks": (
        ["benign/images/a1.png", "benign/masks/a1.png", "malignant/images/a1.png", "malignant/masks/a1.png"],
        {"benign/a1": ("benign", None), "malignant/a1": ("malignant", None)},
    ),
    "patients": (
        ["patient1/f.png", "patient1/f_mask.png", "patient2/f.png", "patient2/f_mask.png"],
        {"patient1/f.png": ("unknown", None), "patient2/f.png": ("unknown", None)},
    ),
    "capitals": (["IMAGES/A1.PNG", "Masks/a1_MASK.png"], {"A1": ("unknown", None)}),
    "masks below the images": (["a1.png", "masks/a1.png"], {"a1.png": ("unknown", None)}),
    "STU": (["test_Image_1.png", "mask_1.png"], {"test_Image_1.png": ("unknown", None)}),
    "class in the name": (["images/malignant_1.png", "masks/malignant_1.png"], {"malignant_1": ("malignant", None)}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_folder_that_fits_is_collected(tmp_path, layout):
    places, expected = LAYOUTS[layout]
    found = recognise(str(written(tmp_path, *places)))
    assert {sample.name: (sample.label, sample.split) for sample in found.samples} == expected
    assert found.unused == []
    assert len(load_folder(tmp_path)) == len(expected)


def test_patients_are_groups(tmp_path):
    written(tmp_path, "patient1/f.png", "patient1/f_mask.png", "patient1/g.png", "patient1/g_mask.png")
    assert load_folder(tmp_path)["group"] == ["patient1", "patient1"]


def test_the_first_folder_of_masks_counts_and_the_other_is_told(tmp_path, caplog):
    written(tmp_path, "labels/a1.png", "images/a1.png", "masks/a1.png")
    PIL.Image.new("L", (50, 40), 255).save(tmp_path / "labels" / "a1.png")
    assert np.asarray(load_folder(tmp_path)[0]["mask"]).mean() < 128
    assert "labels/a1.png is a second mask of images/a1.png; masks/a1.png is used" in caplog.text


def test_all_that_is_not_used_is_listed_with_its_reason(tmp_path):
    written(tmp_path, "images/a1.png", "masks/a1.png", "masks/a2.png", "figure.png", "case7_other1.png", "case7.png")
    (tmp_path / "scan.nrrd").write_bytes(b"?")
    (tmp_path / "README.md").write_text("words")
    unused = "\n".join(recognise(str(tmp_path)).unused)
    assert "masks/a2.png is a mask without its image" in unused
    assert "figure.png has no mask" in unused
    assert "case7_other1.png outlines something else" in unused
    assert "scan.nrrd is of a kind that is not read" in unused
    assert "README" not in unused
    assert len(unused.splitlines()) == 5


@pytest.mark.parametrize("suffix", ["webp", "jfif", "jp2", "bmp", "TIF"])
def test_every_kind_of_picture_is_read(tmp_path, suffix):
    written(tmp_path, "images/a1.png", "masks/a1.png")
    image = PIL.Image.open(tmp_path / "images" / "a1.png")
    image.save(tmp_path / "images" / f"b1.{suffix}", "JPEG" if suffix == "jfif" else None)
    shutil.copy(tmp_path / "masks" / "a1.png", tmp_path / "masks" / "b1.png")
    assert load_folder(tmp_path)["name"] == ["a1", "b1"]


@pytest.mark.parametrize("kind", ["16 bits", "float", "palette", "alpha"])
def test_every_picture_becomes_the_same_eight_bits(tmp_path, kind):
    written(tmp_path, "images/a1.png", "masks/a1.png")
    gray = np.asarray(PIL.Image.open(tmp_path / "images" / "a1.png")).astype(np.float32)
    gray[0, 0], gray[0, 1] = 0, 255
    odd = {
        "16 bits": PIL.Image.fromarray((gray * 257).astype(np.uint16)),
        "float": PIL.Image.fromarray(gray * 40),
        "palette": PIL.Image.fromarray(gray.astype(np.uint8)).convert("P"),
        "alpha": PIL.Image.fromarray(gray.astype(np.uint8)).convert("LA"),
    }[kind]
    odd.save(tmp_path / "images" / f"b1.{'tif' if kind == 'float' else 'png'}")
    shutil.copy(tmp_path / "masks" / "a1.png", tmp_path / "masks" / "b1.png")
    shown = load_folder(tmp_path)[1]["image"]
    assert shown.mode == "RGB"
    assert np.abs(np.asarray(shown)[..., 0] - gray).max() <= 1


def test_clips_are_refused_by_name(tmp_path):
    written(tmp_path, "images/a1.png", "masks/a1.png")
    frames = [scan(40, 50, number)[0] for number in (2, 3)]
    frames[0].save(tmp_path / "images" / "b1.gif", save_all=True, append_images=frames[1:])
    shutil.copy(tmp_path / "masks" / "a1.png", tmp_path / "masks" / "b1.png")
    with pytest.raises(ValueError, match=r"b1\.gif has 2 frames; export the one to use"):
        load_folder(tmp_path)
    assert "b1.gif has 2 frames" in str(inspect(tmp_path))


def test_predict_tells_masks_as_data_does():
    places = [PurePosixPath(place) for place in ("s.PNG", "S_mask.PNG", "x.dcm", "x_mask.png", "masks/s.png", "t.png")]
    assert {str(place) for place in masks_among(places)} == {"S_mask.PNG", "x_mask.png", "masks/s.png"}
    assert masks_among([PurePosixPath("a_mask.png"), PurePosixPath("b_mask.png")]) == set()


@settings(max_examples=40, deadline=None)
@given(
    names=st.lists(st.sampled_from(["a", "B", "c1", "d (2)", "e_x"]), min_size=1, max_size=4, unique=True),
    above=st.lists(st.sampled_from(["benign", "train", "patient3", "x"]), max_size=3, unique=True),
    words=st.sampled_from(
        [("images", "masks"), ("Img", "GT"), ("original", "Ground Truth"), ("train_images", "train_masks")]
    ),
    suffix=st.sampled_from(["", "_mask", "_MASK_1", "-gt", "_seg"]),
    inside=st.booleans(),
)
def test_any_folders_of_images_and_masks_are_paired(names, above, words, suffix, inside):
    def place(word: str, name: str) -> PurePosixPath:
        return PurePosixPath(*([word, *above] if inside else [*above, word]), f"{name}.png")

    images = {place(words[0], name): place(words[1], name + suffix) for name in names}
    pairing = pair([*images.values(), *images])
    assert pairing.masks == {image: [mask] for image, mask in images.items()}
    assert masks_among([*images, *images.values()]) == set(images.values())


PARTS = st.sampled_from(["images", "masks", "GT", "labels", "train", "val", "benign", "patient1", "x", "Original"])
STEMS = st.sampled_from(["a", "a_mask", "A_MASK_1", "a_other1", "mask_a", "b", "b_seg", "img_7", "mask_7", "mask"])


@settings(max_examples=80, deadline=None)
@given(tree=st.lists(st.tuples(st.lists(PARTS, max_size=3), STEMS), min_size=1, max_size=14))
def test_no_picture_is_lost_in_any_tree(tmp_path_factory, tree):
    root = tmp_path_factory.mktemp("tree")
    for folders, stem in tree:
        root.joinpath(*folders).mkdir(parents=True, exist_ok=True)
        PIL.Image.new("L", (3, 3)).save(root.joinpath(*folders, f"{stem}.png"))
    pictures = {str(path) for path in root.rglob("*.png")}
    try:
        found = recognise(str(root))
    except ValueError as error:
        if "holds no images with masks" not in str(error):
            raise
        return
    used = [sample.image.whole for sample in found.samples]
    masks = {mask.whole for sample in found.samples for mask in sample.masks}
    told = {picture for picture in pictures if any(note.startswith(f"{picture} ") for note in found.unused)}
    assert len(used) == len(set(used))
    assert set(used) | masks | told == pictures
    assert not set(used) & masks
    assert not (set(used) | masks) & told
    assert len({sample.name for sample in found.samples}) == len(found.samples)


def coloured(root: Path, name: str, colour: tuple) -> None:
    image, mask = scan(40, 50, len(name))
    image.save(root / "images" / f"{name}.png")
    PIL.Image.fromarray((np.asarray(mask)[..., None] > 0) * np.uint8(colour)).save(root / "masks" / f"{name}.png")


@pytest.mark.parametrize("table", [None, "official", "ours"])
def test_bus_uclm(tmp_path, table):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    lesions = {"ALWI_000": (0, 255, 0), "ALWI_001": (0, 0, 0), "FLBA_000": (255, 0, 0)}
    for name, colour in lesions.items():
        coloured(tmp_path, name, colour if table != "ours" else (255, 255, 255) if any(colour) else colour)
    if table == "official":
        (tmp_path / "INFO.csv").write_text("Image;Markers;Doppler;Label\nALWI_000.png;1;0;Benign\n")
    if table == "ours":
        rows = ["ALWI_000,benign,ALWI,1,0", "ALWI_001,normal,ALWI,0,1", "FLBA_000,malignant,FLBA,0,0"]
        (tmp_path / "index.csv").write_text("\n".join(["name,class,patient,calipers,doppler", *rows]))
    dataset = load_folder(tmp_path)
    assert [LABELS[label] for label in dataset["label"]] == ["benign", "normal", "malignant"]
    assert dataset["group"] == ["patient ALWI", "patient ALWI", "patient FLBA"]
    assert [bool(np.asarray(mask).any()) for mask in dataset["mask"]] == [True, False, True]
    report = str(inspect(tmp_path, find_duplicates=False))
    assert "layout: BUS-UCLM" in report
    assert "patients or groups: 2" in report
    if table == "ours":
        assert "with calipers: 1 of 3 (benign 1 of 1, malignant 0 of 1, normal 0 of 1)" in report


def test_normal_scans_need_no_mask_and_lesions_do(tmp_path):
    written(tmp_path, "benign/b1.png", "benign/b1_mask.png", "normal/n2.png")
    assert [bool(np.asarray(mask).any()) for mask in load_folder(tmp_path)["mask"]] == [True, False]
    written(tmp_path, "benign/b3.png")
    with pytest.raises(ValueError, match=r"b3\.png has no mask"):
        load_folder(tmp_path)


def test_what_a_mask_should_not_be_is_a_problem(tmp_path):
    written(tmp_path, "benign/b1.png", "benign/b1_mask.png", "normal/n2.png", "normal/n2_mask.png", "benign/b3.png")
    PIL.Image.new("L", (50, 40), 255).save(tmp_path / "benign" / "b3_mask.png")
    problems = inspect(tmp_path, find_duplicates=False).problems
    assert any("b3.png covers 100%" in problem for problem in problems)
    assert any("n2.png is called normal but has a lesion" in problem for problem in problems)


def test_rows_that_point_outside_are_refused(tmp_path):
    written(tmp_path, "Images/bus_1.png", "Masks/mask_1.png")
    (tmp_path / "bus_data.csv").write_text("ID,Case,Pathology\nbus_1,1,benign\n../../secret,2,benign\n")
    with pytest.raises(ValueError, match=r"bus_data\.csv line 3 names '\.\./\.\./secret', which lies outside"):
        load_folder(tmp_path)


def test_a_group_that_crosses_the_splits_of_a_folder_is_refused(tmp_path):
    written(tmp_path, "train/patient1/a1.png", "train/patient1/a1_mask.png")
    written(tmp_path, "val/patient1/a2.png", "val/patient1/a2_mask.png")
    with pytest.raises(ValueError, match=r"has the group patient1 in train .* and in val"):
        load_folder(tmp_path, split="val")
    assert "has the group patient1" in inspect(tmp_path).problems[0]


@pytest.mark.parametrize("kind", ["truncated", "no zip", "one file"])
def test_what_is_no_folder_is_told(tmp_path, busi_folder, kind):
    path = tmp_path / ("scan.png" if kind == "one file" else "data.zip")
    content = zipped(busi_folder, tmp_path).read_bytes()
    path.write_bytes(content[: len(content) // 2] if kind == "truncated" else b"?")
    with pytest.raises(ValueError, match=r"is a damaged or truncated zip|is a single file"):
        load_folder(path)


@pytest.mark.parametrize("part", ["a picture", "the table of contents"])
def test_a_damaged_zip_is_named(tmp_path, part):
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, picture in zip(("a.bmp", "a_mask.bmp"), scan(60, 80, 1), strict=True):
            picture.save(tmp_path / name)
            archive.write(tmp_path / name, name)
    content = bytearray(path.read_bytes())
    start = 35 + 100 if part == "a picture" else content.index(b"PK\x01\x02")
    content[start : start + 20] = b"\xff" * 20
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"data\.zip.*(cannot be read|is a damaged or truncated zip)"):
        load_folder(path)


def copied(busi_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(busi_folder, tmp_path / "copy"))


def test_a_missing_mask_is_named(busi_folder, tmp_path):
    folder = copied(busi_folder, tmp_path)
    (folder / "benign" / "benign (4)_mask.png").unlink()
    with pytest.raises(ValueError, match=r"benign \(4\)\.png has no mask"):
        load_busi(folder)


def test_a_mask_of_another_size_is_named(busi_folder, tmp_path):
    folder = copied(busi_folder, tmp_path)
    PIL.Image.new("L", (5, 5)).save(folder / "benign" / "benign (4)_mask.png")
    with pytest.raises(ValueError, match=r"benign \(4\)_mask\.png is 5x5 pixels"):
        load_busi(folder)


def test_a_folder_without_images(tmp_path):
    with pytest.raises(ValueError, match="no images"):
        load_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_folder(tmp_path / "nowhere")


def test_the_report_tells_what_was_found(busi_folder, tmp_path, capsys):
    folder = copied(busi_folder, tmp_path)
    (folder / "malignant" / "malignant (1)_mask.png").unlink()
    PIL.Image.new("L", (5, 5)).save(folder / "malignant" / "malignant (2)_mask.png")
    report = inspect(folder)
    assert report.layout == "BUSI"
    assert report.counts == {"benign": 10, "malignant": 6, "normal": 4}
    assert report.multi_mask == ["benign/benign (2).png"]
    assert report.duplicates == [["benign/benign (1).png", "benign/benign (3).png"]]
    assert len(report.problems) == 2
    assert main(["data", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(report)
    assert main(["data", str(folder / "nowhere")]) == 2
