"""Data sets on the Hub: what `push-data` publishes, and whatever others publish in a like form."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, IterableDataset, load_dataset
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.constants import HF_HOME
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

from ..modeling.image_reading import EXTENSIONS
from .files import File, Readable
from .layouts import LABELS, Found, Sample, recognise
from .tables import split_name

IMAGE_COLUMNS = ("image", "img", "scan", "picture")
MASK_COLUMNS = ("mask", "masks", "segmentation", "annotation", "label", "gt")
GROUP_COLUMNS = ("group", "patient", "patient_id", "case")
NAME_COLUMNS = ("name", "image_id", "file_name", "filename", "id")
SECONDS = 10  # that the Hub has to say whether it knows a name
CLASS_COLUMNS = ("label", "class", "class_label", "pathology", "diagnosis")


@dataclass(frozen=True)
class Cell:
    """The image in one row and column, read when it is needed."""

    dataset: Dataset
    row: int
    column: str
    name: str

    def read_bytes(self) -> bytes:
        """As it is stored."""
        stored = self.dataset[self.row][self.column]
        if stored is None:
            raise OSError("the row is empty")
        if stored["bytes"] is not None:
            return stored["bytes"]
        with open(stored["path"], "rb") as file:  # noqa: PTH123
            return file.read()


def recognise_hub(name: str, streaming: bool = False) -> Found:
    """
    The images of a data set on the Hub with their masks, unread.

    A data set of plain files is fetched and recognised like a folder.

    Args:
        name (`str`): Such as `"org/my-scans"`.
        streaming (`bool`): Write the images of one row after the other below the Hub's cache, in place of all of it
            as one table.

    Raises:
        FileNotFoundError: There is no such data set, or it cannot be reached.
        ValueError: It holds no images with masks.
    """
    parts = _loaded(name, streaming)
    features = next(iter(parts.values())).features
    image, mask = _image_column(features, IMAGE_COLUMNS), _image_column(features, MASK_COLUMNS)
    if image is None or mask is None:
        return recognise(snapshot_download(name, repo_type="dataset"), called=name)
    found = Found(name, "Hub data set", [])
    for split, part in parts.items():
        part = part.cast_column(image, Image(decode=False)).cast_column(mask, Image(decode=False))
        plain = [column for column in features if column not in (image, mask)]
        rows = part if streaming else (part.select_columns(plain) if plain else [{}] * len(part))
        for number, row in enumerate(rows):
            shown = str(_value(row, NAME_COLUMNS) or f"{split} {number}")
            place = PurePosixPath(split, f"{shown}.png")
            files = []
            for column in (image, mask):
                source: Readable = Cell(part, number, column, f"{shown} {column}")
                if streaming:
                    if row[column] is None:
                        raise ValueError(f"{name}, {shown}, {column} is empty.")
                    source = _folder(name) / column / split / f"{number}.png"
                    _write(source, row[column]["bytes"])
                files.append(File(place, source, f"{name}, {shown}, {column}"))
            found.samples.append(
                Sample(
                    image=files[0],
                    masks=[files[1]],
                    name=shown,
                    label=_label(row, features),
                    group=str(_value(row, GROUP_COLUMNS) or shown),
                    split=split_name(split) if len(parts) > 1 else None,
                )
            )
    return found


def fetch_images(name: str) -> Path:
    """
    The folder of all images of a data set on the Hub, below the Hub's cache; masks are not fetched.

    Rows are streamed and written one by one, as they are stored, so that a large data set does not fill the memory.

    Args:
        name (`str`): Such as `"org/my-scans"`.

    Raises:
        FileNotFoundError: There is no such data set, or it cannot be reached.
        ValueError: It has no column of images.
    """
    folder = _folder(name)
    parts, fetched = _loaded(name, streaming=True), set()
    for split, rows in parts.items():
        image = _image_column(rows.features, IMAGE_COLUMNS)
        if image is None:
            raise ValueError(f"{name} has no column of images.")
        named = [column for column in NAME_COLUMNS if column in rows.features]
        plain = rows.select_columns([image, *named]).cast_column(image, Image(decode=False))
        for number, row in enumerate(plain):
            shown = str(_value(row, NAME_COLUMNS) or f"{split} {number}")
            path = folder.joinpath(split if len(parts) > 1 else "", *_safe(shown))
            path = path if path.suffix.lower() in EXTENSIONS else path.with_name(f"{path.name}.png")
            if path in fetched:  # two rows of one name
                path = path.with_name(f"{path.stem} {number}{path.suffix}")
            if row[image] is not None:
                fetched.add(path)
                _write(path, row[image]["bytes"])
    return folder


def _folder(name: str) -> Path:
    return Path(HF_HOME) / "sfrecsam" / name.replace("/", "--")


def _write(path: Path, content: bytes) -> None:
    """An image as it is stored, unless its file is there from an earlier time."""
    if not (path.is_file() and path.read_bytes() == content):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _safe(name: str) -> list[str]:
    """The folders and the file of a name that somebody else chose, below ours in any case."""
    return [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", ".", "..")] or ["image"]


def _loaded(name: str, streaming: bool = False) -> dict[str, Any]:
    try:
        with suppress(OfflineModeIsEnabled):  # it may be in the cache
            HfApi().dataset_info(name, timeout=SECONDS)
        loaded: DatasetDict | dict[str, IterableDataset] = load_dataset(name, streaming=streaming)
    except (OSError, HTTPError, ValueError) as error:  # no such data set, no network, several configurations
        reason = str(error).splitlines()[0].rstrip(".")
        raise FileNotFoundError(
            f"{name} is neither a folder nor a zip here, nor a data set on the Hub that can be loaded: {reason}."
        ) from error
    return dict(loaded)


def _image_column(features: Features | None, preferred: tuple[str, ...]) -> str | None:
    images = [name for name, feature in (features or {}).items() if isinstance(feature, Image)]
    return next((name for wanted in preferred for name in images if name.lower() == wanted), None)


def _value(row: dict[str, Any], columns: tuple[str, ...]) -> Any:
    return next((row[column] for column in columns if row.get(column) not in (None, "")), None)


def _label(row: dict[str, Any], features: Features) -> str:
    for column in CLASS_COLUMNS:
        value, feature = row.get(column), features.get(column)
        if isinstance(feature, ClassLabel) and value is not None:
            value = feature.int2str(value)
        if str(value).lower() in LABELS:
            return str(value).lower()
    return "unknown"
