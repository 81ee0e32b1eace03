"""
Measures how evenly the viewer pans an image of 1000 pixels: `python space/panning.py`.

Prints the times between two frames of the browser while the picture is dragged, and while nothing moves: on a busy
computer both grow, and their ratio says what panning costs. Sixty frames a second are 16.7 ms.
"""

import io
import shutil
import statistics

import PIL.Image
from playwright.sync_api import Page, sync_playwright

from app import SERVED, space
from sample_list import FOLDER, SAMPLES
from screenshots import DESKTOP, PATIENCE_MS, settle

SIDE, FRAMES = 1000, 240
TIMES = """([frames, moves]) => new Promise(done => {
    const canvas = document.querySelector("#viewer canvas");
    const {left, top, width, height} = canvas.getBoundingClientRect();
    const times = [];
    const at = (kind, angle) => canvas.dispatchEvent(new PointerEvent(kind, {
        pointerId: 1, button: 1, bubbles: true,
        clientX: left + width * (0.5 + 0.2 * Math.cos(angle)), clientY: top + height * (0.5 + 0.2 * Math.sin(angle)),
    }));
    canvas.setPointerCapture = () => {};  // there is no such pointer
    if (moves) at("pointerdown", 0);
    const tick = now => {
        times.push(now);
        if (times.length > frames) {
            if (moves) at("pointerup", 0);
            return done(times.slice(1).map((time, index) => time - times[index]));
        }
        if (moves) at("pointermove", times.length / 10);
        requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
})"""


def main() -> None:
    picture = io.BytesIO()
    PIL.Image.open(FOLDER / f"{SAMPLES[1].file}.png").convert("RGB").resize((SIDE, SIDE)).save(picture, "PNG")
    with space() as blocks, sync_playwright() as playwright:
        blocks.launch(prevent_thread_lock=True, quiet=True, **SERVED)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=DESKTOP)
        page.goto(blocks.local_url)
        upload = {"name": "scan.png", "mimeType": "image/png", "buffer": picture.getvalue()}
        page.set_input_files("#viewer input[type=file]", upload)
        page.locator("#measurements td").first.wait_for(timeout=PATIENCE_MS)
        settle(page)
        page.mouse.move(0, 0)
        measure(page)
        browser.close()
        blocks.close()


def measure(page: Page) -> None:
    """Prints the times of a page with an open image."""
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    for words, moves in (("still", False), ("panning", True)):
        times = page.evaluate(TIMES, [FRAMES, moves])
        late = sum(time > 20 for time in times) / len(times)
        print(
            f"{words}: median {statistics.median(times):.1f} ms between frames, {late:.1%} of them later than 20 ms, "
            f"{1000 / statistics.fmean(times):.1f} frames a second"
        )
    print(f"requests while panning: {len(asked)}")


if __name__ == "__main__":
    main()
