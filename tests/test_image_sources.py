"""An image may come as a path, an address, bytes, an open file or base64; anything else is refused by name."""

import base64
import io
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import PIL.Image
import pytest
from conftest import scan

from sfrecsam_hf.modeling.image_reading import read_mask, read_rgb
from sfrecsam_hf.modeling.pipeline_sfrecsam import (
    LesionSegmentationPipeline,
    SFRecSamImageSegmentationPipeline,
    SFRecSamMaskGenerationPipeline,
)

IMAGE = scan(48, 64, 3)[0]
GRID = {"points_per_crop": 2, "pred_iou_thresh": -9, "stability_score_thresh": 0}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("sources") / "a scan.png"
    IMAGE.save(path)
    return path


@pytest.fixture(scope="module")
def address(file):
    """A server that knows one picture."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            found = self.path == "/scan.png"
            self.send_response(200 if found else 404)
            self.end_headers()
            if found:
                self.wfile.write(file.read_bytes())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def text(file) -> str:
    return base64.b64encode(file.read_bytes()).decode()


SOURCES = {
    "path": lambda file, address: file,
    "path as text": lambda file, address: str(file),
    "address": lambda file, address: f"{address}/scan.png",
    "address in upper case": lambda file, address: f"{address}/scan.png".replace("http", "HTTP"),
    "file address": lambda file, address: file.as_uri(),
    "file address in upper case": lambda file, address: file.as_uri().replace("file", "FILE"),
    "data address": lambda file, address: f"data:image/png;base64,{text(file)}",
    "data address in upper case": lambda file, address: f"DATA:image/PNG;base64,{text(file)}",
    "base64": lambda file, address: text(file),
    "base64 in lines": lambda file, address: base64.encodebytes(file.read_bytes()).decode(),
    "bytes": lambda file, address: file.read_bytes(),
    "bytearray": lambda file, address: bytearray(file.read_bytes()),
    "BytesIO": lambda file, address: io.BytesIO(file.read_bytes()),
    "open file": lambda file, address: file.open("rb"),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_is_the_same_image(file, address, kind):
    np.testing.assert_array_equal(read_rgb(SOURCES[kind](file, address)), IMAGE.convert("RGB"))
    np.testing.assert_array_equal(read_mask(SOURCES[kind](file, address)), read_mask(IMAGE))


@pytest.mark.parametrize("kind", SOURCES)
def test_the_processor_takes_one_or_several(processor, file, address, kind):
    expected = processor(IMAGE)["pixel_values"][0]
    assert (processor(SOURCES[kind](file, address))["pixel_values"] == expected).all()
    several = processor([SOURCES[kind](file, address) for _ in range(2)])["pixel_values"]
    assert (several == expected).all()


@pytest.mark.parametrize("kind", ["path", "file address", "base64", "bytes", "BytesIO", "open file"])
@pytest.mark.parametrize(
    ("pipe", "options"),
    [
        (LesionSegmentationPipeline, {}),
        (SFRecSamImageSegmentationPipeline, {}),
        (SFRecSamMaskGenerationPipeline, GRID),
    ],
)
def test_the_pipelines_do(model, processor, file, address, kind, pipe, options):
    segmenter = pipe(model=model, image_processor=processor.image_processor)
    expected, found = segmenter(IMAGE, **options), segmenter(SOURCES[kind](file, address), **options)
    assert type(found) is type(expected)
    first, other = (answer[0] if isinstance(answer, list) else answer for answer in (expected, found))
    name = "masks" if "masks" in first else "mask"
    np.testing.assert_array_equal(np.asarray(other[name]), np.asarray(first[name]))


REFUSED = {
    "no such file": (lambda file, address: file.with_name("other.png"), "other.png does not exist"),
    "a folder": (lambda file, address: file.parent, "is a folder"),
    "no such page": (lambda file, address: f"{address}/other.png", "other.png answers 404 Not Found"),
    "no server": (lambda file, address: "http://127.0.0.1:9/scan.png", "127.0.0.1:9/scan.png cannot be reached"),
    "another scheme": (lambda file, address: "s3://bucket/scan.png", "s3 addresses are not read"),
    "no base64": (lambda file, address: "data:image/png;base64,%%%", "is not base64"),
    "base64 of a text": (lambda file, address: base64.b64encode(b"no image" * 99).decode(), "does not exist"),
    "bytes of a text": (lambda file, address: b"no image", "image is not an image"),
    "no bytes": (lambda file, address: b"", "image is empty"),
    "a file read before": (lambda file, address: io.BytesIO(), "image is empty.* rewind"),
    "a file open for text": (lambda file, address: io.StringIO("scan"), "open it with mode 'rb'"),
    "a number": (lambda file, address: 7, "image is a int; pass a path"),
    "nothing": (lambda file, address: None, "image is a NoneType; pass a path"),
}


@pytest.mark.parametrize(("source", "said"), REFUSED.values(), ids=REFUSED)
def test_anything_else_is_refused_by_name(file, address, source, said):
    with pytest.raises((FileNotFoundError, ValueError), match=said) as error:
        read_rgb(source(file, address))
    assert len(str(error.value)) < 300
    assert "\n" not in str(error.value)


def test_a_picture_of_another_kind_is_named(tmp_path):
    (tmp_path / "scan.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"scan\.png is not an image"):
        read_rgb(tmp_path / "scan.png")
    PIL.Image.new("L", (1, 9)).save(tmp_path / "thin.png")
    with pytest.raises(ValueError, match=r"thin\.png is 1x9 pixels"):
        read_rgb(tmp_path / "thin.png")
