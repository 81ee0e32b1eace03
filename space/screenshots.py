"""Takes the README's pictures of the Space with the bundled checkpoint: `python space/screenshots.py`."""

import io
import shutil
from pathlib import Path

import PIL.Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from app import HERE, SERVED, space

FOLDER = HERE / "screenshots"
LARGE, WIDE = 1, 2
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
PATIENCE_MS = 60_000


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with space() as blocks, sync_playwright() as playwright:
        blocks.launch(prevent_thread_lock=True, quiet=True, **SERVED)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = opened(browser, blocks.local_url, DESKTOP, LARGE)
        shoot(page, "segment")
        guide(page)
        shoot(page, "guide")
        page.get_by_role("tab", name="Explain").click()
        expect(page.locator("#energy img")).to_be_visible(timeout=PATIENCE_MS)
        shoot(page, "explain")
        shoot(opened(browser, blocks.local_url, PHONE, LARGE, color_scheme="dark"), "phone")
        shoot(opened(browser, blocks.local_url, DESKTOP, WIDE, color_scheme="dark"), "dark")
        browser.close()
        blocks.close()


def opened(browser: Browser, address: str, viewport: dict[str, int], sample: int, **options: str) -> Page:
    """The page with a sample opened."""
    page = browser.new_page(viewport=viewport, **options)
    page.goto(address)
    page.locator("#samples button").nth(sample).click(timeout=PATIENCE_MS)
    expect(page.locator("#measurements td").first).to_be_visible(timeout=PATIENCE_MS)
    settle(page)
    return page


def guide(page: Page) -> None:
    """Clicks, a stroke of the brush, and the layers that show what came of it."""
    box = page.locator("#viewer canvas").bounding_box()

    def at(x: float, y: float) -> tuple[float, float]:
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    page.mouse.click(*at(0.47, 0.4))
    settle(page)
    page.mouse.click(*at(0.4, 0.75), button="right")
    settle(page)
    page.locator("#viewer canvas").press("b")
    page.mouse.move(*at(0.42, 0.55))
    page.mouse.down()
    page.mouse.move(*at(0.46, 0.58), steps=5)
    page.mouse.up()
    settle(page)
    for key in "urfl":
        page.locator("#viewer canvas").press(key)


def settle(page: Page) -> None:
    """Waits for the answer, and until it is drawn."""
    expect(page.locator(".viewer")).to_have_attribute("aria-busy", "false", timeout=PATIENCE_MS)
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def shoot(page: Page, name: str) -> None:
    """Photographs what can be seen."""
    page.wait_for_function("[...document.images].every(x => x.complete)")
    page.wait_for_timeout(500)  # for smooth scrolling to end
    page.mouse.move(0, 0)
    picture = PIL.Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    few_colours = picture.quantize(256, PIL.Image.Quantize.MAXCOVERAGE, dither=PIL.Image.Dither.NONE)
    few_colours.save(Path(FOLDER, f"{name}.png"), optimize=True)


if __name__ == "__main__":
    main()
