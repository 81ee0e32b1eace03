"""The Space in a real browser, as a visitor uses it: with a mouse, with a keyboard, on a desktop and on a phone."""

import base64
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
from playwright.sync_api import Error, expect, sync_playwright

import batch
from sfrecsam_hf import segment
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from uploads import read_upload
from visits import Visits

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = sorted(path for path in (ROOT / "space" / "samples").glob("*.png") if not path.stem.endswith("_mask"))
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PATIENCE_MS = 30_000
expect.set_options(timeout=PATIENCE_MS)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, or else the one that `playwright install chromium` fetched."""
    with sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        except Error:
            if os.environ.get("CI"):
                raise
            pytest.skip("There is no Chromium; install Debian's chromium, or run `playwright install chromium`.")
        yield started
        started.close()


@pytest.fixture(scope="module")
def artefacts():
    folder = ROOT / "test-artefacts"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def visit(browser, space_page):
    """Opens the page for one more visitor; at the end nothing may have been asked of any other server, or failed."""
    contexts, trouble = [], []

    def asked(request):
        if urlsplit(request.url).hostname not in ("127.0.0.1", None):
            trouble.append(request.url)

    def answered(response):
        if response.status >= 400 and "upload_progress" not in response.url:  # asked even for what was not sent
            trouble.append(f"{response.status} {response.url}")

    def opened(viewport=DESKTOP, **options):
        context = browser.new_context(viewport=viewport, accept_downloads=True, **options)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("request", asked)
        page.on("response", answered)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.goto(space_page.local_url)
        expect(page.locator("#samples button").first).to_be_visible()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert trouble == []


def pick_sample(page, index):
    page.locator("#samples button").nth(index).click()
    expect_answer(page, SAMPLES[index].stem)


def expect_answer(page, stem):
    expect(page.locator("#contour img")).to_have_attribute("src", re.compile(re.escape(f"{stem}_contour.png")))


def open_tab(page, name):
    page.get_by_role("tab", name=name).click()


def source(page, name):
    return page.locator(f"#{name} img").get_attribute("src")


def expect_another(page, name, previous):
    expect(page.locator(f"#{name} img")).not_to_have_attribute("src", previous)


def value_of(page, table, measure):
    return page.locator(f"#{table} tr").filter(has_text=measure).locator("td").inner_text()


def photograph(page, path):
    for picture in page.locator("img:visible").all():  # pictures far below are loaded when they are scrolled to
        picture.scroll_into_view_if_needed()
    page.wait_for_function("[...document.images].every(x => x.complete || !x.checkVisibility())")
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=path, full_page=True)


def at(page, name, x, y):
    """The place at a share of a picture's width and height."""
    picture = page.locator(f"#{name} img")
    picture.scroll_into_view_if_needed()
    page.wait_for_function("name => document.querySelector(`#${name} img`).naturalWidth > 0", arg=name)
    box = picture.bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def click_image(page, x, y):
    before = source(page, "guide")
    page.mouse.click(*at(page, "guide", x, y))
    expect_another(page, "guide", before)


def drag(page, start, end):
    page.mouse.move(*at(page, "guide", *start))
    page.mouse.down()
    page.mouse.move(*at(page, "guide", *end), steps=5)
    page.mouse.up()


def tab_to(page, selector):
    """Presses Tab until something in `selector` has the focus."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.closest(selector) !== null", selector):
            return
    raise AssertionError(f"{selector} cannot be reached with the keyboard")


def test_upload(visit):
    page = visit()
    page.set_input_files("#image input[type=file]", SAMPLES[1])
    expect_answer(page, SAMPLES[1].stem)
    for name in ("contour", "uncertainty", "corrections"):
        expect(page.locator(f"#{name} img")).to_be_visible()
    assert page.locator("#before-after img").count() == 2
    assert "px" in value_of(page, "measurements", "Area")
    expect(page.get_by_text("not for diagnosis")).to_be_visible()


def test_drop(visit):
    page = visit()
    content = base64.b64encode(SAMPLES[1].read_bytes()).decode()
    dropped = page.evaluate_handle(
        """async content => {
            const blob = await (await fetch(`data:image/png;base64,${content}`)).blob();
            const transfer = new DataTransfer();
            transfer.items.add(new File([blob], "dropped.png", {type: "image/png"}));
            return transfer;
        }""",
        content,
    )
    page.get_by_label("Drop an image file here").first.dispatch_event("drop", {"dataTransfer": dropped})
    expect_answer(page, "dropped")


def test_paste(visit):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    content = base64.b64encode(SAMPLES[1].read_bytes()).decode()
    page.evaluate(
        """async content => {
            const blob = await (await fetch(`data:image/png;base64,${content}`)).blob();
            await navigator.clipboard.write([new ClipboardItem({"image/png": blob})]);
        }""",
        content,
    )
    page.get_by_label("Paste from clipboard").click()
    expect(page.locator("#contour img")).to_be_visible()
    assert "px" in value_of(page, "measurements", "Area")


def test_all_is_reached_without_a_mouse(visit):
    page = visit()
    tab_to(page, "#image")
    tab_to(page, "#samples")
    page.keyboard.press("Enter")
    expect_answer(page, SAMPLES[0].stem)
    for name in ("samples-slider", "suspicion-slider", "presence-slider", "correctors", "before-after"):
        tab_to(page, f"#{name}")
    tab_to(page, "#before-after [role=slider]")
    after = page.locator("#before-after img").nth(1)
    before = after.get_attribute("style")
    page.keyboard.press("ArrowLeft")
    expect(after).not_to_have_attribute("style", before)
    expect(page.locator("#before-after [role=slider]")).not_to_have_attribute("aria-valuenow", "50")
    for name in ("download-mask", "download-overlay", "download-numbers"):
        tab_to(page, f"#{name}")
    for tab, name in (("Guide", "place"), ("Compare", "run-batch"), ("Explain", "energy")):
        page.get_by_role("tab", name=tab).press("Enter")
        if tab == "Guide":
            page.get_by_role("button", name="Without a mouse").press("Enter")
        tab_to(page, f"#{name}")


def test_every_picture_says_what_it_shows(visit):
    page = visit()
    pick_sample(page, 0)
    open_tab(page, "Compare")
    page.set_input_files("#batch-images input[type=file]", SAMPLES[:2])
    expect(page.locator("#batch-images")).to_contain_text(SAMPLES[1].stem)
    page.locator("#run-batch").click()
    expect(page.locator("#batch-gallery img")).to_have_count(2)
    for tab, name in (("Compare", "batch-gallery"), ("Explain", "energy"), ("Guide", "guide"), ("Segment", "contour")):
        open_tab(page, tab)
        expect(page.locator(f"#{name} img").first).to_be_visible()
        silent = page.locator("img:visible").evaluate_all("found => found.filter(x => !x.alt).map(x => x.src)")
        assert silent == [], tab
    for several in ("#samples img", "#before-after img"):
        words = page.locator(several).evaluate_all("found => found.map(x => x.alt)")
        assert len(set(words)) == len(words) > 1


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
    assert re.search(r"once in \d+ ms.*decoder \d+ ms", page.locator("#guide-times").inner_text())
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


def test_a_drag_makes_a_box_and_no_click(visit, tiny_checkpoint):
    page = visit()
    pick_sample(page, 1)
    open_tab(page, "Guide")
    expect(page.locator("#guide img")).to_be_visible()
    untouched, before = value_of(page, "guide-measurements", "Area"), source(page, "guide")
    drag(page, (0.75, 0.625), (0.25, 0.125))
    expect_another(page, "guide", before)
    width, height = PIL.Image.open(SAMPLES[1]).size
    box = [0.25 * width, 0.125 * height, 0.75 * width, 0.625 * height]
    loaded = load_checkpoint(tiny_checkpoint, "cpu")
    wanted = next(segment(*loaded, [(str(SAMPLES[1]), {"input_boxes": [box]})])).mask.sum()
    area = int(re.match(r"[\d,]+", value_of(page, "guide-measurements", "Area"))[0].replace(",", ""))
    assert area == pytest.approx(wanted, rel=0.02)  # the mouse stands on whole pixels of the screen
    assert page.locator(".rubber-band").count() == 0
    before = source(page, "guide")
    page.locator("#undo").click()
    expect_another(page, "guide", before)
    assert value_of(page, "guide-measurements", "Area") == untouched, "the drag was one step"
    click_image(page, 0.5, 0.4)


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


def test_a_batch_shows_how_far_it_is(visit, monkeypatch):
    asked, go_on = threading.Event(), threading.Event()

    def held(path):
        if path.stem == SAMPLES[1].stem:
            asked.set()
            assert go_on.wait(timeout=60)
        return read_upload(path)

    monkeypatch.setattr(batch, "read_upload", held)
    page = visit()
    open_tab(page, "Compare")
    page.set_input_files("#batch-images input[type=file]", SAMPLES[:3])
    expect(page.locator("#batch-images")).to_contain_text(SAMPLES[2].stem)
    page.locator("#run-batch").click()
    expect(page.get_by_text(f"{SAMPLES[1].name}: 2 of 3").first).to_be_visible()
    go_on.set()
    expect(page.locator("#batch-said")).to_contain_text("3 segmented, 0 left out")


def test_batch_with_references(visit, artefacts):
    page = visit()
    open_tab(page, "Compare")
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


def test_a_picture_that_is_still_loading_is_to_be_clicked_again(visit):
    page = visit()
    loading = []
    page.route("**/*_guided.png", lambda route: loading.append(route))
    pick_sample(page, 0)
    open_tab(page, "Guide")
    page.locator("#guide button:has(img)").click()
    expect(page.get_by_text("The picture was still loading; point at it again.")).to_be_visible()
    for route in loading:
        route.continue_()
    page.unroute("**/*_guided.png")
    click_image(page, 0.5, 0.5)


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


def test_a_file_that_is_too_large_is_not_even_sent(visit, tmp_path):
    page = visit()
    heavy = tmp_path / "heavy.png"
    heavy.write_bytes(SAMPLES[0].read_bytes() + bytes(22_000_000))
    page.set_input_files("#image input[type=file]", heavy)
    expect(page.get_by_text("exceed the maximum")).to_be_visible()


@pytest.mark.parametrize("into", ["image", "batch-images"])
def test_an_upload_is_gone_when_its_visit_ends(visit, monkeypatch, tmp_path, into):
    upload = tmp_path / f"private-{into}.png"
    PIL.Image.open(SAMPLES[5]).rotate(3).save(upload)
    deleted, delete = threading.Event(), Visits.delete

    def noted(visits, visit):
        mine = upload.name in {path.name for path in visit.uploads}
        delete(visits, visit)
        if mine:
            deleted.set()

    monkeypatch.setattr(Visits, "delete", noted)
    page = visit()
    if into == "image":
        page.set_input_files(f"#{into} input[type=file]", upload)
        expect_answer(page, upload.stem)
    else:  # dropped, and then nothing is done with it
        open_tab(page, "Compare")
        with page.expect_response(lambda response: "/run/" in response.url):
            page.set_input_files(f"#{into} input[type=file]", upload)
    kept = Path(os.environ["GRADIO_TEMP_DIR"])
    assert list(kept.rglob(f"{upload.stem}*"))
    page.close()
    assert deleted.wait(timeout=60)
    assert [path for path in kept.rglob(f"{upload.stem}*") if path.is_file()] == []


def luminance(page, name):
    red, green, blue = page.locator(name).evaluate("x => getComputedStyle(x).color").strip("rgb()").split(",")[:3]
    return (int(red) + int(green) + int(blue)) / 3


def test_fingers_tap_points_and_box_corners(visit):
    page = visit(PHONE, has_touch=True)
    page.locator("#samples button").nth(1).tap()
    expect_answer(page, SAMPLES[1].stem)
    page.get_by_role("tab", name="Guide").tap()
    expect(page.locator("#guide img")).to_be_visible()
    areas = [value_of(page, "guide-measurements", "Area")]
    for kind, x, y in (("Lesion", 0.5, 0.4), ("Box corner", 0.3, 0.2), ("Box corner", 0.7, 0.6)):
        page.get_by_label(kind).check()
        before = source(page, "guide")
        page.touchscreen.tap(*at(page, "guide", x, y))
        expect_another(page, "guide", before)
        areas.append(value_of(page, "guide-measurements", "Area"))
    assert areas[0] != areas[1] == areas[2] != areas[3]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_light_and_dark_on_desktop_and_phone(visit, artefacts, viewport, scheme):
    page = visit(viewport, color_scheme=scheme)
    pick_sample(page, 3)
    assert (luminance(page, "#times p") > 128) == (scheme == "dark")
    for tab, name in (("Explain", "energy"), ("Compare", "batch-images"), ("Guide", "guide"), ("Segment", "contour")):
        open_tab(page, tab)
        expect(page.locator(f"#{name}")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"], tab
    phone = viewport is PHONE
    expect(page.locator("#samples-slider")).to_be_visible(visible=not phone)
    page.get_by_role("button", name="Control").click()
    expect(page.locator("#samples-slider")).to_be_visible(visible=phone)
    page.get_by_role("button", name="Control").click()
    left, right = (page.locator(name).first.bounding_box() for name in ("#image", "#contour"))
    assert (right["y"] > left["y"] + left["height"]) if phone else (right["x"] > left["x"] + left["width"])
    photograph(page, artefacts / f"{'phone' if phone else 'desktop'}-{scheme}.png")
