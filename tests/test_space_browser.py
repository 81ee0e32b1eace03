"""The Space in a real browser, as a visitor uses it: with a mouse, with a keyboard, on a desktop and on a phone."""

import io
import os
import re
import shutil
import threading
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import PIL.Image
import pytest
from playwright.sync_api import expect, sync_playwright

from sfrecsam_hf import segment
from sfrecsam_hf.checkpoints import load_checkpoint
from visits import Visits

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = sorted(path for path in (ROOT / "space" / "samples").glob("*.png") if not path.stem.endswith("_mask"))
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PATIENCE_MS = 30_000


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, or else the one that `playwright install chromium` fetched."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def artefacts():
    folder = ROOT / "test-artefacts"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def visit(browser, space_page):
    """Opens the page for one more visitor; at the end no request may have left the server or failed."""
    contexts, trouble = [], []

    def check(response):
        if urlsplit(response.url).hostname not in ("127.0.0.1", None) or response.status >= 400:
            trouble.append(f"{response.status} {response.url}")

    def opened(viewport=DESKTOP, query=""):
        context = browser.new_context(viewport=viewport, accept_downloads=True)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("response", check)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.goto(space_page.local_url + query)
        expect(page.locator("#samples button").first).to_be_visible(timeout=PATIENCE_MS)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert trouble == []


def pick_sample(page, index):
    page.locator("#samples button").nth(index).click()
    expect_answer(page, SAMPLES[index].stem)


def expect_answer(page, stem):
    expect(page.locator("#contour img")).to_have_attribute(
        "src", re.compile(re.escape(f"{stem}_contour.png")), timeout=PATIENCE_MS
    )


def open_tab(page, name):
    page.get_by_role("tab", name=name).click()


def source(page, name):
    return page.locator(f"#{name} img").get_attribute("src")


def expect_another(page, name, previous):
    expect(page.locator(f"#{name} img")).not_to_have_attribute("src", previous, timeout=PATIENCE_MS)


def value_of(page, table, measure):
    row = page.locator(f"#{table} [role=row][data-index]").filter(has_text=measure)
    return row.locator("[role=gridcell]").nth(1).inner_text().strip()


def photograph(page, path):
    page.wait_for_function("[...document.images].every(picture => picture.complete)")
    page.screenshot(path=path, full_page=True)


def click_image(page, x, y):
    """Clicks at a share of the guide image's width and height."""
    box = page.locator("#guide img").bounding_box()
    before = source(page, "guide")
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
    expect_another(page, "guide", before)


def test_upload(visit, artefacts):
    page = visit()
    page.set_input_files("#image input[type=file]", SAMPLES[1])
    expect_answer(page, SAMPLES[1].stem)
    for name in ("contour", "uncertainty", "corrections"):
        expect(page.locator(f"#{name} img")).to_be_visible()
    assert page.locator("#before-after img").count() == 2
    assert "px" in value_of(page, "measurements", "Area")
    expect(page.get_by_text("not for diagnosis")).to_be_visible()
    photograph(page, artefacts / "desktop.png")


def test_a_sample_is_reached_and_opened_without_a_mouse(visit):
    page = visit()
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#samples') !== null"):
            break
    page.keyboard.press("Enter")
    expect_answer(page, SAMPLES[0].stem)


def test_every_picture_says_what_it_shows(visit):
    page = visit()
    pick_sample(page, 0)
    open_tab(page, "Explain")
    expect(page.locator("#energy img")).to_be_visible()
    silent = page.locator("img:visible").evaluate_all("found => found.filter(x => !x.alt).map(x => x.src)")
    assert silent == []


def test_clicks_box_undo_clear(visit, artefacts):
    page = visit()
    pick_sample(page, 1)
    open_tab(page, "Guide")
    expect(page.locator("#guide img")).to_be_visible()
    untouched = value_of(page, "guide-measurements", "Area")
    click_image(page, 0.5, 0.4)
    first = value_of(page, "guide-measurements", "Area")
    page.get_by_label("Background").check()
    click_image(page, 0.1, 0.9)
    page.get_by_label("Box corner").check()
    click_image(page, 0.3, 0.2)
    click_image(page, 0.7, 0.6)
    expect(page.locator("#guide-times")).to_contain_text("encoded once")
    photograph(page, artefacts / "guide.png")
    for _ in range(3):
        before = source(page, "guide")
        page.locator("#undo").click()
        expect_another(page, "guide", before)
    assert value_of(page, "guide-measurements", "Area") == first
    before = source(page, "guide")
    page.locator("#clear").click()
    expect_another(page, "guide", before)
    assert value_of(page, "guide-measurements", "Area") == untouched


def test_a_click_without_a_mouse(visit):
    page = visit()
    pick_sample(page, 1)
    open_tab(page, "Guide")
    page.get_by_role("button", name="Without a mouse").click()
    page.locator("#click-x input").fill("60")
    page.locator("#click-y input").fill("5000")
    page.locator("#place").click()
    expect(page.get_by_text("outside the image")).to_be_visible()
    before = source(page, "guide")
    page.locator("#click-y input").fill("80")
    page.locator("#place").click()
    expect_another(page, "guide", before)


def test_sliders_repeat_only_what_they_must(visit):
    page = visit()
    pick_sample(page, 0)
    before = source(page, "contour")
    page.locator("#suspicion-slider input[type=range]").press("ArrowRight")
    expect_another(page, "contour", before)
    expect(page.locator("#times")).to_contain_text("kept from before")
    before = source(page, "contour")
    page.locator("#samples-slider input[type=range]").press("ArrowRight")
    expect_another(page, "contour", before)
    expect(page.locator("#times")).not_to_contain_text("kept from before")
    before = source(page, "contour")
    page.get_by_label("Remove false positives").uncheck()
    expect_another(page, "contour", before)
    expect(page.locator("#times")).to_contain_text("kept from before")


def test_downloaded_mask_is_that_of_segment(visit, tiny_checkpoint):
    page = visit()
    pick_sample(page, 2)
    with page.expect_download() as download:
        page.locator("#download-mask").click()
    assert download.value.suggested_filename == f"{SAMPLES[2].stem}_mask.png"
    mask = np.asarray(PIL.Image.open(download.value.path())) > 0
    wanted = next(segment(*load_checkpoint(tiny_checkpoint, "cpu"), [str(SAMPLES[2])]))
    assert np.array_equal(mask, wanted.mask)
    for name, suffix in (("overlay", "_overlay.png"), ("numbers", ".json")):
        with page.expect_download() as download:
            page.locator(f"#download-{name}").click()
        assert download.value.suggested_filename == f"{SAMPLES[2].stem}{suffix}"


def test_batch_with_references(visit, artefacts):
    page = visit()
    open_tab(page, "Compare and batch")
    references = [path.with_name(f"{path.stem}_mask.png") for path in SAMPLES[:3]]
    page.set_input_files("#batch-images input[type=file]", SAMPLES[:3])
    page.set_input_files("#batch-references input[type=file]", references)
    expect(page.locator("#batch-references")).to_contain_text(references[2].stem)
    expect(page.locator("#batch-images")).to_contain_text(SAMPLES[2].stem)
    page.locator("#run-batch").click()
    expect(page.locator("#batch-said")).to_contain_text("3 segmented, 0 left out")
    expect(page.locator("#batch-gallery img")).to_have_count(3)
    with page.expect_download() as download:
        page.locator("#download-zip").click()
    with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as archive:
        assert {"table.csv", *(f"{path.stem}_errors.png" for path in SAMPLES[:3])} <= set(archive.namelist())
    photograph(page, artefacts / "batch.png")


def test_a_bad_file_is_explained_and_the_next_one_works(visit, tmp_path):
    page = visit()
    letter = tmp_path / "letter.png"
    letter.write_text("Dear doctor")
    page.set_input_files("#image input[type=file]", letter)
    expect(page.get_by_text("letter.png is not an image")).to_be_visible()
    expect(page.locator("#image").get_by_label("Drop an image file here")).to_be_visible()
    assert page.locator("#contour img").count() == 0
    page.set_input_files("#image input[type=file]", SAMPLES[0])
    expect_answer(page, SAMPLES[0].stem)


def test_two_visitors_at_once(visit):
    first, second = visit(), visit()
    first.locator("#samples button").nth(0).click()
    second.locator("#samples button").nth(1).click()
    expect_answer(first, SAMPLES[0].stem)
    expect_answer(second, SAMPLES[1].stem)
    for page in (first, second):
        open_tab(page, "Guide")
    click_image(second, 0.5, 0.5)
    area = value_of(second, "guide-measurements", "Area")
    click_image(first, 0.3, 0.3)
    assert SAMPLES[0].stem in source(first, "guide")
    assert value_of(second, "guide-measurements", "Area") == area


def test_an_upload_is_gone_when_its_visit_ends(visit, monkeypatch, tmp_path):
    upload = "private.png"
    PIL.Image.open(SAMPLES[5]).rotate(3).save(tmp_path / upload)
    left, leave = threading.Event(), Visits.leave

    def noted(visits, session):
        mine = upload in {path.name for path in visits.of(session).uploads}
        leave(visits, session)
        if mine:
            left.set()

    monkeypatch.setattr(Visits, "leave", noted)
    page = visit()
    page.set_input_files("#image input[type=file]", tmp_path / upload)
    expect_answer(page, "private")
    kept = Path(os.environ["GRADIO_TEMP_DIR"])
    assert list(kept.rglob("private*"))
    page.close()
    assert left.wait(timeout=60)
    assert [path for path in kept.rglob("private*") if path.is_file()] == []


@pytest.mark.parametrize("query", ["?__theme=light", "?__theme=dark"], ids=["light", "dark"])
def test_phone(visit, artefacts, query):
    page = visit(PHONE, query)
    pick_sample(page, 3)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    tops = [page.locator(name).first.bounding_box()["y"] for name in ("#image", "#contour", "#samples-slider")]
    assert tops == sorted(tops)
    photograph(page, artefacts / f"phone-{query[-5:].strip('=')}.png")
