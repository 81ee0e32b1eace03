"""Takes the README's pictures of the Space with the bundled checkpoint: `python space/screenshots.py`."""

import io
import shutil
from pathlib import Path

import PIL.Image
from playwright.sync_api import Locator, Page, expect, sync_playwright

from app import HERE, SERVED, space

FOLDER = HERE / "screenshots"
SAMPLE = 1
DESKTOP, PHONE = {"width": 1280, "height": 1180}, {"width": 390, "height": 844}
PATIENCE_MS = 60_000


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with space() as blocks, sync_playwright() as playwright:
        blocks.launch(prevent_thread_lock=True, quiet=True, **SERVED)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=DESKTOP)
        page.goto(blocks.local_url)
        page.locator("#samples button").nth(SAMPLE).click(timeout=PATIENCE_MS)
        shoot(page, page.locator("#corrections img"), "segment")
        page.get_by_role("tab", name="Guide").click()
        click(page, 0.5, 0.35)
        page.get_by_label("Background").check()
        click(page, 0.25, 0.75)
        drag(page, (0.12, 0.12), (0.84, 0.57))
        shoot(page, page.locator("#guide-times"), "guide")
        page.get_by_role("tab", name="Explain").click()
        shoot(page, page.locator("#energy img"), "explain")
        phone = browser.new_page(viewport=PHONE, color_scheme="dark")
        phone.goto(blocks.local_url)
        phone.locator("#samples button").nth(SAMPLE).click(timeout=PATIENCE_MS)
        expect(phone.locator("#contour img")).to_be_visible(timeout=PATIENCE_MS)
        phone.get_by_role("tab", name="Segment").evaluate("tab => tab.scrollIntoView()")
        shoot(phone, phone.locator("#contour img"), "phone")
        browser.close()
        blocks.close()


def click(page: Page, x: float, y: float) -> None:
    """Clicks at a share of the guide image's width and height, and waits for the answer."""
    drag(page, (x, y), (x, y))


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drags from one such place to another, and waits for the answer."""
    picture = page.locator("#guide img")
    expect(picture).to_be_visible()
    before, box = picture.get_attribute("src"), picture.bounding_box()
    page.mouse.move(box["x"] + start[0] * box["width"], box["y"] + start[1] * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + end[0] * box["width"], box["y"] + end[1] * box["height"])
    page.mouse.up()
    expect(picture).not_to_have_attribute("src", before, timeout=PATIENCE_MS)


def shoot(page: Page, last: Locator, name: str) -> None:
    """Photographs the page once `last`, and every picture that can be seen, is there."""
    expect(last).to_be_visible(timeout=PATIENCE_MS)
    expect(page.locator("#times")).to_contain_text("encoded once", timeout=PATIENCE_MS)
    page.wait_for_function(
        "[...document.images].every(x => x.complete || x.getBoundingClientRect().top > innerHeight)"
    )
    page.mouse.move(0, 0)
    picture = PIL.Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    few_colours = picture.quantize(256, PIL.Image.Quantize.MAXCOVERAGE, dither=PIL.Image.Dither.NONE)
    few_colours.save(Path(FOLDER, f"{name}.png"), optimize=True)


if __name__ == "__main__":
    main()
