"""Where an image may come from: a path, an address, bytes, an open file, or base64. What is not read is refused."""

import binascii
import io
import re
import urllib.error
import urllib.request
from base64 import b64decode
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias
from urllib.parse import unquote, urlsplit

import numpy as np
import PIL.Image
import torch

SCHEME = re.compile(r"^([a-z][a-z0-9+.\-]+):(?=//|image/)", re.IGNORECASE)
SECONDS = 60
SHOWN = 60  # characters of a text that is no path

ImageLike: TypeAlias = str | Path | PIL.Image.Image | np.ndarray | torch.Tensor | bytes | bytearray | io.IOBase


def is_image(something: Any) -> bool:
    """Whether this is one image, and not several."""
    return isinstance(something, ImageLike) or hasattr(something, "read")


def file_of(source: Any, name: str) -> tuple[Path | BinaryIO, str]:
    """
    What Pillow can open, and how to call it in an error.

    Args:
        source: A path, an `http`, `https` or `file` address, a `data:` URI, base64, bytes, or a file open for bytes.
        name (`str`): How to call what has no name of its own.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is empty, its address is not read or gives no answer, or the file is open for text.
    """
    if isinstance(source, (bytes, bytearray)):
        return _bytes(bytes(source), name)
    if hasattr(source, "read"):
        content = source.read()
        name = str(getattr(source, "name", name))
        if isinstance(content, str):
            raise ValueError(f"{name} is open for text; open it with mode 'rb'.")
        return _bytes(content, name)
    scheme = SCHEME.match(source) if isinstance(source, str) else None
    if scheme is None:
        return _path_or_base64(source)
    match scheme[1].lower():
        case "http" | "https":
            return _bytes(_downloaded(source), source)
        case "file":
            return _path(Path(unquote(urlsplit(source).path)))
        case "data":
            return _bytes(_from_base64(source.partition(",")[2], "The data: URI"), "The data: URI")
        case other:
            raise ValueError(f"{source}: {other} addresses are not read; download the file and give its path.")


def _path_or_base64(source: str | Path) -> tuple[Path | BinaryIO, str]:
    try:
        return _path(Path(source))
    except OSError as error:  # also a base64 text that is too long for the name of a file
        try:
            content = _from_base64(str(source), "It")
            PIL.Image.open(io.BytesIO(content)).close()
        except (OSError, ValueError):
            if isinstance(error, FileNotFoundError):
                raise error from None
            raise FileNotFoundError(f"{str(source)[:SHOWN]}... does not exist; check the path.") from None
        return io.BytesIO(content), "The base64 text"


def _path(path: Path) -> tuple[Path, str]:
    if path.is_dir():
        raise FileNotFoundError(f"{path} is a folder; give the image in it.")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; check the path.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; fetch or export it again.")
    return path, str(path)


def _bytes(content: bytes, name: str) -> tuple[BinaryIO, str]:
    if not content:
        raise ValueError(f"{name} is empty; fetch or export it again, and rewind a file that was read before.")
    return io.BytesIO(content), name


def _downloaded(address: str) -> bytes:
    request = urllib.request.Request(address, headers={"User-Agent": "sfrecsam-hf"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        raise ValueError(f"{address} answers {error.code} {error.reason}; check the address.") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{address} cannot be reached ({error}); check the address and the connection.") from error


def _from_base64(text: str, name: str) -> bytes:
    try:
        return b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{name} is not base64; give the image's bytes in base64, or its path.") from error
