"""The annotation loop: Label Studio's requests are answered over HTTP, and what it exports is what `adapt` reads."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import numpy as np
import PIL.Image
import pytest
from conftest import SAMPLES
from test_examples import EXAMPLES

from sfrecsam_hf import load_folder, segment
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.inference.guided import Prompt, guided

sys.path.insert(0, str(EXAMPLES))
import annotation_loop
from annotation_loop import Backend, LabelStudio, decoded, encoded, export, make_project, prompts_of

SCAN = SAMPLES / "bus_0180-l.png"
IMAGE = PIL.Image.open(SCAN)
WIDTH, HEIGHT = IMAGE.size
ADDRESS = "/data/upload/1/4b8c2f1a-bus_0180-l.png"
TASK = {"id": 1, "data": {"image": ADDRESS}, "meta": {}, "project": 1, "annotations": [], "predictions": []}


def region(kind: str, label: str, **value: float) -> dict:
    """What Label Studio sends of one click or box; places are percent of the image."""
    drawn = {"id": "Dx_aB1", "type": kind, "to_name": "image", "origin": "manual", "image_rotation": 0}
    drawn |= {"original_width": WIDTH, "original_height": HEIGHT, "is_positive": True}
    return drawn | {"from_name": "click", "value": value | {kind: [label]}}


CLICK = region("keypointlabels", "lesion click", x=40.0, y=40.0, width=0.3)
BACKGROUND = region("keypointlabels", "background click", x=10.0, y=90.0, width=0.3)
BOX = region("rectanglelabels", "lesion box", x=10.0, y=15.0, width=60.0, height=45.0, rotation=0)


def asked(*regions: dict) -> dict:
    """The body of Label Studio's request for one task on which an annotator has drawn."""
    context = {"result": list(regions), "draft_id": 0, "user_id": 1, "annotation_id": None}
    params = {"login": None, "password": None, "context": context if regions else None}
    return {"tasks": [TASK], "project": "1.1764000000", "label_config": annotation_loop.PAGE, "params": params}


class Stored(BaseHTTPRequestHandler):
    """What a Label Studio server holds: one scan, and the annotations of the class's `tasks`."""

    tasks: list = []

    def do_GET(self) -> None:
        assert self.headers["Authorization"] == "Bearer short"
        if self.path.startswith("/data/upload"):
            self.answer(SCAN.read_bytes())
        else:
            assert self.path == "/api/projects/1/export?exportType=JSON"
            self.answer(json.dumps(self.tasks).encode())

    def do_POST(self) -> None:
        assert self.path == "/api/token/refresh/"
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if asked == {"refresh": "a.b.c"}:
            self.answer(b'{"access": "short"}')
        else:
            self.send_error(401, "Token is invalid")

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def served(server: ThreadingHTTPServer):
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def studio():
    with served(ThreadingHTTPServer(("127.0.0.1", 0), Stored)) as address:
        yield address


@pytest.fixture(scope="module")
def backend(studio, tiny_checkpoint):
    with served(Backend(0, str(tiny_checkpoint), LabelStudio(studio, "a.b.c"))) as address:
        yield address


@pytest.mark.parametrize("seed", range(4))
def test_a_mask_is_the_same_after_a_round_trip_as_a_brush(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((7 + 300 * (seed == 3), 5 + 400 * (seed == 3))) < (0.5, 0.0, 1.0, 0.001)[seed]
    brush = encoded(mask)
    assert all(0 <= byte < 256 for byte in brush)
    assert np.array_equal(decoded(brush, mask.shape), mask)


def test_a_brush_as_the_page_writes_it_is_read():
    """Values that differ from one to the next stand one by one; the last of four channels is the mask."""
    bits = f"{12:032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}"
    bits += f"100{3:03b}{0:08b}" + f"000{2:03b}{7:08b}{9:08b}{11:08b}" + f"101{4:04b}{255:08b}"
    bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
    brush = [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]
    assert decoded(brush, (1, 3)).tolist() == [[False, True, True]]


def test_places_are_percent_of_the_image():
    (prompt,) = prompts_of([CLICK, BACKGROUND, BOX])
    assert np.allclose(prompt.points, [(0.4 * WIDTH, 0.4 * HEIGHT), (0.1 * WIDTH, 0.9 * HEIGHT)])
    assert prompt.labels == (1, 0)
    assert prompt.box == pytest.approx((0.1 * WIDTH, 0.15 * HEIGHT, 0.7 * WIDTH, 0.6 * HEIGHT))
    assert prompts_of([]) == [Prompt()]
    assert prompts_of([CLICK | {"is_positive": False}])[0].labels == (0,)


def test_label_studio_is_told_that_the_model_is_there(backend):
    assert httpx.get(f"{backend}/health").json()["status"] == "UP"
    setup = {"project": "1.1764000000", "schema": annotation_loop.PAGE, "hostname": "", "access_token": ""}
    assert httpx.post(f"{backend}/setup", json=setup).json()["model_version"]


@pytest.mark.parametrize("regions", [[], [CLICK], [CLICK, BACKGROUND], [BOX]])
def test_a_click_or_a_box_is_answered_with_a_mask(backend, tiny_checkpoint, regions):
    answer = httpx.post(f"{backend}/predict", json=asked(*regions), timeout=60).json()
    (prediction,) = answer["results"]
    model, processor = load_checkpoint(tiny_checkpoint)
    threshold = {"presence_threshold": 0.0} if regions else {}

    def said(prompt: Prompt):
        given = {"input_points": prompt.points, "input_labels": prompt.labels, "input_boxes": prompt.box}
        given = {name: value for name, value in given.items() if value}
        return next(segment(model, processor, [(IMAGE, given)], **threshold))

    found = guided(*prompts_of(regions), said)
    expected = found.mask
    assert expected.any()
    (drawn,) = prediction["result"]
    assert (drawn["from_name"], drawn["to_name"], drawn["type"]) == ("mask", "image", "brushlabels")
    assert (drawn["original_width"], drawn["original_height"]) == IMAGE.size
    assert drawn["value"]["brushlabels"] == ["lesion"]
    assert np.array_equal(decoded(drawn["value"]["rle"], expected.shape), expected)
    assert prediction["score"] == pytest.approx(found.score)
    assert prediction["model_version"] == tiny_checkpoint.name


def annotated(number: int, at: str, result: list, **more: object) -> dict:
    annotation = {"id": number, "result": result, "updated_at": at, "was_cancelled": False} | more
    return {"id": number, "data": {"image": ADDRESS}, "annotations": [annotation]}


def test_what_is_exported_is_what_adapt_reads(studio, tmp_path, monkeypatch):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[40:90, 60:120] = True
    brush = region("brushlabels", "lesion", x=0, y=0)
    brush["value"] = {"format": "rle", "rle": encoded(mask), "brushlabels": ["lesion"]}
    older = annotated(1, "2026-01-01T00:00:00Z", [])["annotations"]
    first = annotated(1, "2026-01-02T00:00:00Z", [brush, CLICK])
    tasks = [
        first | {"annotations": first["annotations"] + older},
        annotated(2, "2026-01-01T00:00:00Z", []),
        annotated(3, "2026-01-01T00:00:00Z", [brush], was_cancelled=True),
        {"id": 4, "data": {"image": ADDRESS}, "annotations": []},
    ]
    monkeypatch.setattr(Stored, "tasks", tasks)
    export(LabelStudio(studio, "a.b.c"), 1, str(tmp_path / "corrected"))
    rows = {row["name"][:5]: row for row in load_folder(tmp_path / "corrected")}
    assert sorted(rows) == ["00001", "00002"]
    assert np.array_equal(np.asarray(rows["00001"]["mask"]) > 0, mask)
    assert np.array_equal(np.asarray(rows["00001"]["image"].convert("RGB")), np.asarray(IMAGE.convert("RGB")))
    assert not np.asarray(rows["00002"]["mask"]).any()


@pytest.mark.parametrize("address", ["https://elsewhere.org/scan.png", "//elsewhere.org/scan.png"])
def test_the_token_goes_to_label_studio_alone(address):
    server = LabelStudio("http://localhost:9", "token")
    with pytest.raises(ValueError, match="does not lie on Label Studio"):
        server.image({"data": {"image": address}})


def test_a_wrong_token_is_said_in_one_sentence(studio, tmp_path):
    with pytest.raises(RuntimeError, match="Label Studio answers 401"):
        export(LabelStudio(studio, "wrong"), 1, str(tmp_path / "corrected"))


@pytest.fixture(scope="module")
def label_studio(tmp_path_factory):
    """A Label Studio server with one user, and a personal access token of theirs."""
    command = shutil.which(os.environ.get("LABEL_STUDIO", "label-studio"))
    if command is None:
        pytest.skip("Label Studio is not installed; pip install label-studio, or name its command in LABEL_STUDIO.")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(tmp_path_factory.mktemp("studio")),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "ML_BLOCK_LOCAL_IP": "false",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
    }
    user = ["--username", "me@example.org", "--password", "only for a test", "--user-token", "0" * 40]
    started = [command, "start", "--no-browser", "--port", str(port), *user]
    process = subprocess.Popen(
        started, env={**os.environ, **settings}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        said = b"".join(iter_until(process.stdout, b"Starting development server"))
        assert b"Starting development server" in said, said[-3000:].decode()
        address = f"http://127.0.0.1:{port}"
        transport = httpx.HTTPTransport(retries=10)  # it listens a moment after it says so
        with httpx.Client(transport=transport, headers={"Authorization": f"Token {'0' * 40}"}, timeout=60) as client:
            token = client.post(f"{address}/api/token/").json()["token"]
        yield address, token
    finally:
        process.terminate()
        process.wait()


def iter_until(lines, word: bytes):
    for line in lines:
        yield line
        if word in line:
            return


@pytest.mark.slow
def test_the_loop_with_the_real_server(label_studio, tiny_checkpoint, tmp_path):
    address, token = label_studio
    server = LabelStudio(address, token)
    (tmp_path / "scans").mkdir()
    for path in (SCAN, SAMPLES / "bus_0560-r.png"):
        shutil.copy(path, tmp_path / "scans")
    with served(Backend(0, str(tiny_checkpoint), server)) as backend:
        project = make_project(server, str(tmp_path / "scans"), backend)
        (connected,) = server.ask("GET", f"/api/ml?project={project}").json()
        assert connected["state"] == "CO", connected
        tasks = server.ask("GET", f"/api/tasks?project={project}&fields=all").json()["tasks"]
        corrected = {}
        for task, drawn in zip(tasks, (CLICK, BOX), strict=True):
            asked = {"task": task["id"], "context": {"result": [drawn]}}
            said = server.ask("POST", f"/api/ml/{connected['id']}/interactive-annotating", json=asked).json()["data"]
            (brush,) = said["result"]
            shape = brush["original_height"], brush["original_width"]
            mask = decoded(brush["value"]["rle"], shape)
            mask[:20] = False  # what an annotator takes away
            brush["value"]["rle"] = encoded(mask)
            server.ask("POST", f"/api/tasks/{task['id']}/annotations", json={"result": [brush]})
            corrected[f"{task['id']:05d}"] = mask
    export(server, project, str(tmp_path / "corrected"))
    rows = {row["name"][:5]: np.asarray(row["mask"]) > 0 for row in load_folder(tmp_path / "corrected")}
    assert rows.keys() == corrected.keys()
    assert all(np.array_equal(rows[name], corrected[name]) for name in rows)
