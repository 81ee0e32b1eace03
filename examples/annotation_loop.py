"""Label Studio with our model: it answers clicks and boxes with masks, and learns from the masks that you correct.

    python examples/annotation_loop.py serve --token TOKEN
    python examples/annotation_loop.py project --images my_scans --token TOKEN
    python examples/annotation_loop.py export --project 1 --output corrected --token TOKEN

`serve` is the model, and goes on until it is stopped. `project` makes a project of the scans in a folder and connects
the model to it: start `serve` before. `export` writes images/ and masks/ of all scans with a submitted annotation; one
without a region says that there is no lesion. Then `sfrecsam adapt --data corrected --output adapted`, and `serve
--model adapted`. TOKEN is a personal access token, from Label Studio's page Account &
Settings.
"""

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import PIL.Image

from sfrecsam_hf import segment
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.inference.guided import Prompt, guided
from sfrecsam_hf.modeling.image_reading import EXTENSIONS, read_rgb

PAGE = """<View>
  <Image name="image" value="$image" zoom="true"/>
  <BrushLabels name="mask" toName="image"><Label value="lesion"/></BrushLabels>
  <KeyPointLabels name="click" toName="image" smart="true">
    <Label value="lesion click" smart="true" background="green"/>
    <Label value="background click" smart="true" background="red"/>
  </KeyPointLabels>
  <RectangleLabels name="box" toName="image" smart="true"><Label value="lesion box" smart="true"/></RectangleLabels>
</View>"""
LONGEST = 2**16  # of a run


class LabelStudio:
    """A Label Studio server, and the personal access token of who asks it."""

    def __init__(self, address: str, token: str):
        self.client = httpx.Client(base_url=address, timeout=60, follow_redirects=True)
        self.token = token

    def ask(self, method: str, path: str, **content: Any) -> httpx.Response:
        """The answer to a request. The token is changed for one that lasts a few minutes."""
        access = self._sent("POST", "/api/token/refresh/", json={"refresh": self.token}).json()["access"]
        return self._sent(method, path, headers={"Authorization": f"Bearer {access}"}, **content)

    def _sent(self, method: str, path: str, **content: Any) -> httpx.Response:
        answer = self.client.request(method, path, **content)
        if answer.is_error:
            raise RuntimeError(f"Label Studio answers {answer.status_code} to {answer.url}: {answer.text[:300]}")
        return answer

    def image(self, task: dict[str, Any]) -> PIL.Image.Image:
        """The scan of a task. The token goes to Label Studio alone."""
        path = task["data"]["image"]
        if not path.startswith("/") or path.startswith("//"):
            raise ValueError(f"{path} does not lie on Label Studio; upload the scan there.")
        return read_rgb(self.ask("GET", path).content, name=path)


def prompts_of(regions: list[dict[str, Any]]) -> list[Prompt]:
    """What an annotator pointed at, in pixels: one prompt for each box, or one of clicks alone."""
    points, labels, boxes = [], [], []
    for region in regions:
        scale, value = (region["original_width"] / 100, region["original_height"] / 100), region["value"]
        x, y = value["x"] * scale[0], value["y"] * scale[1]
        if region["type"].startswith("keypoint"):
            points.append((x, y))
            background = "background" in "".join(value.get("keypointlabels", ()))
            labels.append(0 if background else int(region.get("is_positive", 1)))
        elif region["type"].startswith("rectangle"):
            boxes.append((x, y, x + value["width"] * scale[0], y + value["height"] * scale[1]))
    return [Prompt(tuple(points), tuple(labels), box) for box in boxes or [None]]


def encoded(mask: np.ndarray) -> list[int]:
    """A mask of shape `(height, width)` as Label Studio's brush: run lengths of its pixels' four channels, in bits."""
    values = np.repeat(mask.ravel().astype(np.uint8) * 255, 4)
    bits = [f"{values.size:032b}{8 - 1:05b}", *(f"{size - 1:04b}" for size in (3, 4, 8, 16))]
    for run in np.split(values, np.flatnonzero(np.diff(values)) + 1):
        for start in range(0, run.size, LONGEST):
            bits.append(f"111{min(run.size - start, LONGEST) - 1:016b}{run[0]:08b}")
    joined = "".join(bits)
    return [int(joined[start : start + 8].ljust(8, "0"), 2) for start in range(0, len(joined), 8)]


def decoded(content: list[int], shape: tuple[int, int]) -> np.ndarray:
    """The mask of a brush, boolean of `shape` `(height, width)`."""
    bits = iter("".join(f"{byte:08b}" for byte in content))

    def number(size: int) -> int:
        return int("".join(islice(bits, size)), 2)

    left, word = number(32), number(5) + 1
    sizes = [number(4) + 1 for _ in range(4)]
    values = np.zeros(left, np.uint8)
    at = 0
    while at < left:
        same = number(1)
        length = number(sizes[number(2)]) + 1
        values[at : at + length] = number(word) if same else [number(word) for _ in range(length)]
        at += length
    return values.reshape(*shape, 4)[..., 3] > 0


class Backend(ThreadingHTTPServer):
    """What Label Studio calls a machine learning backend: it posts tasks to /predict and takes regions back."""

    def __init__(self, port: int, checkpoint: str | None, server: LabelStudio):
        super().__init__(("127.0.0.1", port), Handler)
        self.model, self.processor = load_checkpoint(checkpoint)
        self.version = Path(checkpoint or "bundled").name
        self.server, self.one_at_a_time = server, Lock()

    def predicted(self, task: dict[str, Any], regions: list[dict[str, Any]]) -> dict[str, Any]:
        """The prediction for one task, with what the annotator has drawn on it so far."""
        image, prompts = self.server.image(task), prompts_of(regions)
        pointed = {} if prompts == [Prompt()] else {"presence_threshold": 0.0}  # the annotator says that it is there

        def answer(prompt: Prompt) -> Any:
            given = {"input_points": prompt.points, "input_labels": prompt.labels, "input_boxes": prompt.box}
            given = {name: value for name, value in given.items() if value}
            return next(segment(self.model, self.processor, [(image, given)], **pointed))

        with self.one_at_a_time:
            found = [guided(prompt, answer) for prompt in prompts]
        mask, score = np.any([one.mask for one in found], axis=0), min(one.score for one in found)
        region = {"type": "brushlabels", "from_name": "mask", "to_name": "image", "score": score, "image_rotation": 0}
        region |= {"id": uuid4().hex[:10], "original_width": image.width, "original_height": image.height}
        region["value"] = {"format": "rle", "rle": encoded(mask), "brushlabels": ["lesion"]}
        return {"result": [region] if mask.any() else [], "score": score, "model_version": self.version}


class Handler(BaseHTTPRequestHandler):
    """The calls of Label Studio."""

    server: "Backend"

    def do_GET(self) -> None:
        """Label Studio asks whether we are there, and which versions we have."""
        self.say({"status": "UP", "model_class": "SF-RecSAM", "versions": [self.server.version]})

    def do_POST(self) -> None:
        """Tasks to predict; /setup when a project is connected; anything else is news of annotations."""
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        answer: dict[str, Any] = {"model_version": self.server.version}
        if self.path.rstrip("/").endswith("/predict"):
            regions = ((asked.get("params") or {}).get("context") or {}).get("result") or []
            answer["results"] = [self.server.predicted(task, regions) for task in asked["tasks"]]
        self.say(answer)

    def say(self, content: dict[str, Any]) -> None:
        """Sends JSON."""
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def make_project(server: LabelStudio, images: str, backend: str) -> int:
    """Makes a project with the scans of a folder, connects the model to it, and returns its number."""
    files = [path for path in sorted(Path(images).iterdir()) if path.suffix.lower() in EXTENSIONS]
    project = server.ask("POST", "/api/projects", json={"title": Path(images).name, "label_config": PAGE}).json()["id"]
    for path in files:
        server.ask("POST", f"/api/projects/{project}/import", files={"file": (path.name, path.read_bytes())})
    connected = {"project": project, "url": backend, "title": "SF-RecSAM", "is_interactive": True}
    server.ask("POST", "/api/ml", json=connected)
    print(f"project {project}: {len(files)} scans; open {server.client.base_url}projects/{project}")
    return project


def export(server: LabelStudio, project: int, output: str) -> None:
    """Writes the scans with a submitted annotation and their masks, as `sfrecsam adapt --data` reads them."""
    folders = [Path(output) / name for name in ("images", "masks")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for task in server.ask("GET", f"/api/projects/{project}/export?exportType=JSON").json():
        annotations = [one for one in task["annotations"] if not one.get("was_cancelled")]
        if annotations:
            image = server.image(task)
            newest = max(annotations, key=lambda one: one["updated_at"])
            brushes = [region["value"]["rle"] for region in newest["result"] if region["type"] == "brushlabels"]
            masks = [decoded(brush, (image.height, image.width)) for brush in brushes]
            mask = np.any([np.zeros((image.height, image.width), bool), *masks], axis=0)
            name = f"{task['id']:05d}-{Path(task['data']['image']).stem}.png"
            for folder, picture in zip(folders, (image, PIL.Image.fromarray(mask)), strict=True):
                picture.save(folder / name)
            count += 1
    print(f"{output}: {count} scans with their masks")


def main() -> None:
    """Makes a project, serves the model, or exports what was corrected."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", choices=("project", "serve", "export"))
    parser.add_argument("--server", default="http://localhost:8080", help="of Label Studio (%(default)s)")
    parser.add_argument("--token", required=True, help="of your account there")
    parser.add_argument("--images", default="my_scans", help="project: folder of scans (%(default)s)")
    parser.add_argument("--project", type=int, default=1, help="export: its number (%(default)s)")
    parser.add_argument("--output", default="corrected", help="export: folder to write to (%(default)s)")
    parser.add_argument("--model", help="serve: checkpoint; the bundled one if left out")
    parser.add_argument("--port", type=int, default=9090, help="of the served model (%(default)s)")
    options = parser.parse_args()

    server = LabelStudio(options.server, options.token)
    if options.job == "project":
        make_project(server, options.images, f"http://localhost:{options.port}")
    elif options.job == "export":
        export(server, options.project, options.output)
    else:
        Backend(options.port, options.model, server).serve_forever()


if __name__ == "__main__":
    main()
