"""Takes the README's pictures of the Space with the bundled checkpoint: `python space/screenshots.py`."""

import shutil
from pathlib import Path

from playwright.sync_api import Locator, Page, expect, sync_playwright

from app import HERE, SERVED, space

FOLDER = HERE / "screenshots"
SAMPLE = 1
DESKTOP, PHONE = {"width": 1280, "height": 1180}, {"width": 390, "height": 844}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with space() as blocks, sync_playwright() as playwright:
        blocks.launch(prevent_thread_lock=True, quiet=True, **SERVED)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=DESKTOP)
        page.goto(blocks.local_url)
        page.locator("#samples button").nth(SAMPLE).click()
        shoot(page, page.locator("#times"), "segment")
        page.get_by_role("tab", name="Guide").click()
        click(page, 0.5, 0.35)
        page.get_by_label("Background").check()
        click(page, 0.25, 0.75)
        page.get_by_label("Box corner").check()
        click(page, 0.12, 0.12)
        click(page, 0.84, 0.57)
        shoot(page, page.locator("#guide-times"), "guide")
        page.get_by_role("tab", name="Explain").click()
        shoot(page, page.locator("#filter img"), "explain")
        phone = browser.new_page(viewport=PHONE)
        phone.goto(f"{blocks.local_url}?__theme=dark")
        phone.locator("#samples button").nth(SAMPLE).click()
        expect(phone.locator("#contour img")).to_be_visible(timeout=30_000)
        phone.get_by_role("tab", name="Segment").evaluate("tab => tab.scrollIntoView()")
        shoot(phone, phone.locator("#contour img"), "phone")
        browser.close()
        blocks.close()


def click(page: Page, x: float, y: float) -> None:
    """Clicks at a share of the guide image's width and height, and waits for the answer."""
    picture = page.locator("#guide img")
    expect(picture).to_be_visible()
    before, box = picture.get_attribute("src"), picture.bounding_box()
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
    expect(picture).not_to_have_attribute("src", before, timeout=30_000)


def shoot(page: Page, last: Locator, name: str) -> None:
    """Photographs the page once `last`, and every picture, is there."""
    expect(last).to_be_visible(timeout=30_000)
    expect(page.locator("#times")).to_contain_text("encoded once", timeout=30_000)
    page.wait_for_function("[...document.images].every(picture => picture.complete)")
    page.mouse.move(0, 0)
    page.screenshot(path=Path(FOLDER, f"{name}.png"))


if __name__ == "__main__":
    main()
