"""The Space in a real browser, as a visitor uses it: by mouse, keys and fingers, on a desktop and on a phone."""

import base64
import io
import json
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
from test_clips import COUNT, panned, write
from test_space import dicom

import batch
from sample_list import SAMPLES as PICKED
from sfrecsam_hf import segment
from sfrecsam_hf.data.clips import open_clip
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.inference.guided import Prompt, guided
from uploads import read_upload
from visits import Visit

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = [ROOT / "space" / "samples" / sample.name for sample in PICKED if not sample.below]
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
PATIENCE_MS = 60_000
OUTLINE, ADDED, REMOVED = (255, 194, 10), (26, 133, 255), (230, 97, 0)
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, or else the one that `playwright install chromium` fetched."""
    with sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        except Error:
            if "CI" in os.environ:
                raise
            pytest.skip("There is no Chromium; `make browser` installs it.")
        yield started
        started.close()


@pytest.fixture
def visit(browser, space_page):
    """Opens the page for one more visitor; at the end nothing may have been asked of any other server, or failed."""
    contexts, trouble = [], []

    def asked(request):
        if urlsplit(request.url).hostname not in ("127.0.0.1", None, ""):
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
        expect(page.locator("#viewer canvas")).to_be_visible()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert trouble == []


def pick_sample(page, index):
    page.locator("#samples button").nth(index).click()
    expect_image(page, PICKED[index].name)


def expect_image(page, name):
    expect(page.locator(".viewer")).to_have_attribute("data-name", name)
    settle(page)


def settle(page):
    """Until the last request is answered and drawn."""
    expect(page.locator(".viewer")).to_have_attribute("aria-busy", "false")
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def at(page, x, y):
    """The place on the screen of a share of the stage's width and height."""
    page.locator("#viewer canvas").scroll_into_view_if_needed()
    box = page.locator("#viewer canvas").bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def click(page, x, y, **options):
    page.mouse.click(*at(page, x, y), **options)
    settle(page)


def drag(page, start, end, **options):
    page.mouse.move(*at(page, *start))
    page.mouse.down(**options)
    page.mouse.move(*at(page, *end), steps=4)
    page.mouse.up(**options)
    settle(page)


def canvas(page) -> np.ndarray:
    """What is drawn, as `(height, width, 3)`."""
    written = page.evaluate("() => document.querySelector('#viewer canvas').toDataURL()")
    picture = PIL.Image.open(io.BytesIO(base64.b64decode(written.split(",")[1])))
    return np.asarray(picture.convert("RGB")).astype(int)


def count(page, colour) -> int:
    """Pixels drawn in just this colour, or nearly."""
    return int((abs(canvas(page) - colour).max(-1) < 12).sum())


def value_of(page, measure):
    return page.locator("#measurements tr").filter(has_text=measure).first.locator("td").inner_text()


def downloaded(page, name):
    with page.expect_download() as download:
        page.locator(f"#download-{name}").click()
    return download.value


def saved_mask(page):
    return np.asarray(PIL.Image.open(downloaded(page, "mask").path())) > 0


def open_tab(page, name):
    page.get_by_role("tab", name=name).click()


def tab_to(page, selector):
    """Presses Tab until something in `selector` has the focus."""
    for _ in range(90):
        if page.evaluate("selector => !!document.activeElement?.closest(selector)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{selector} cannot be reached with the keyboard")


def test_an_upload_is_outlined_and_said_in_words(visit):
    page = visit()
    page.set_input_files("#viewer input[type=file]", SAMPLES[1])
    expect_image(page, SAMPLES[1].name)
    expect(page.locator("#head-line h2")).to_have_text(re.compile("Lesion likely|Unsure|None seen"))
    expect(page.locator("#head-line")).to_contain_text("often wrong")
    expect(page.locator("#foot-line")).to_contain_text("encoded once")
    assert count(page, OUTLINE) > 50
    assert "px" in value_of(page, "Area")
    expect(page.get_by_text("not for diagnosis")).to_be_visible()


BLOB = """async ({content, kind}) => {
    const blob = await (await fetch(`data:image/png;base64,${content}`)).blob();
    const transfer = new DataTransfer();
    transfer.items.add(new File([blob], `${kind}.png`, {type: "image/png"}));
    return transfer;
}"""


def test_an_image_can_be_dropped_and_pasted(visit):
    page = visit()
    content = base64.b64encode(SAMPLES[1].read_bytes()).decode()
    dropped = page.evaluate_handle(BLOB, {"content": content, "kind": "dropped"})
    page.locator("#viewer .stage").dispatch_event("drop", {"dataTransfer": dropped})
    expect_image(page, "dropped.png")
    pasted = page.evaluate_handle(BLOB, {"content": content, "kind": "pasted"})
    page.evaluate(
        """transfer => document.body.dispatchEvent(
            new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true}))""",
        pasted,
    )
    expect_image(page, "pasted.png")


def test_mouse_buttons_drag_and_undo(visit, tiny_checkpoint):
    page = visit()
    pick_sample(page, 1)
    untouched = canvas(page)
    click(page, 0.5, 0.4)
    lesion = canvas(page)
    assert count(page, ADDED) > 20, "the sign of a click on the lesion"
    click(page, 0.58, 0.85, button="right")
    assert count(page, REMOVED) > 20, "the sign of a click on background"
    both = canvas(page)
    page.keyboard.press("Control+z")
    settle(page)
    assert np.array_equal(canvas(page), lesion)
    page.keyboard.press("Control+y")
    settle(page)
    assert np.array_equal(canvas(page), both)
    page.get_by_role("button", name="Clear").click()
    settle(page)
    page.mouse.move(*at(page, 0.5, 0.4))
    assert np.array_equal(canvas(page), untouched)
    drag(page, (0.58, 0.62), (0.42, 0.2))
    numbers = json.loads(Path(downloaded(page, "numbers").path()).read_text())
    box = tuple(numbers["guidance"]["box"])
    assert numbers["guidance"]["points"] == []
    loaded = load_checkpoint(tiny_checkpoint, "cpu")

    def answer(prompt: Prompt):
        given = {"input_boxes": [list(prompt.box)]} if prompt.box else {}
        return next(segment(*loaded, [(str(SAMPLES[1]), given)]))

    assert np.array_equal(saved_mask(page), guided(Prompt(box=box), answer).mask)


def test_escape_drops_what_is_being_drawn(visit):
    page = visit()
    pick_sample(page, 1)
    before = saved_mask(page)
    page.mouse.move(*at(page, 0.45, 0.3))
    page.mouse.down()
    page.mouse.move(*at(page, 0.55, 0.6), steps=4)
    page.keyboard.press("Escape")
    page.mouse.up()
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()
    assert np.array_equal(saved_mask(page), before)


def test_brush_and_eraser_change_what_is_saved_and_measured(visit):
    page = visit()
    pick_sample(page, 1)
    before = saved_mask(page)
    page.locator("#viewer canvas").press("b")
    expect(page.get_by_role("radio", name="Brush")).to_be_checked()
    drag(page, (0.45, 0.9), (0.55, 0.9))
    painted = saved_mask(page)
    assert (painted & ~before).any()
    assert not (before & ~painted).any()
    page.get_by_role("radio", name="Eraser").click()
    drag(page, (0.4, 0.35), (0.6, 0.35))
    erased = saved_mask(page)
    assert (painted & ~erased).any()
    numbers = json.loads(Path(downloaded(page, "numbers").path()).read_text())
    assert numbers["area"] == erased.sum()
    assert len(numbers["guidance"]["strokes"]) == 2
    page.keyboard.press("Control+z")
    settle(page)
    assert np.array_equal(saved_mask(page), painted)


def test_zoom_and_pan_ask_nobody(visit):
    page = visit()
    pick_sample(page, 1)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    fitted = canvas(page)
    page.mouse.move(*at(page, 0.5, 0.5))
    page.mouse.wheel(0, -300)
    expect(page.locator("#viewer .place")).not_to_contain_text("zoom 1 %")
    settle(page)
    near = canvas(page)
    assert (near != fitted).any()
    drag(page, (0.5, 0.5), (0.6, 0.55), button="middle")
    moved = canvas(page)
    dx, dy = (round(share * side) for share, side in zip((0.1, 0.05), (near.shape[1], near.shape[0]), strict=True))
    inner = near[200 : 400 - dy, 300 : 500 - dx]
    shifted = moved[200 + dy : 400, 300 + dx : 500]
    assert abs(inner - shifted).mean() < 6, "the picture went where it was dragged"
    page.get_by_role("button", name="1:1").click()
    expect(page.locator("#viewer .place")).to_contain_text("zoom 100 %")
    page.get_by_role("button", name="Fit").click()
    page.mouse.move(*at(page, 0.5, 0.5))
    settle(page)
    assert (canvas(page) != near).any()
    page.get_by_role("radio", name="Pan").click()
    drag(page, (0.5, 0.5), (0.55, 0.5))
    assert asked == []


def test_layers_by_key_and_by_button(visit):
    page = visit()
    pick_sample(page, 1)
    page.locator("#viewer canvas").focus()
    for key, name in (
        ("o", "Outline"),
        ("f", "Fill"),
        ("a", "Diameters"),
        ("u", "Uncertainty"),
        ("c", "Added removed"),
        ("i", "Before correction"),
        ("r", "Reference"),
    ):
        button = page.locator("#viewer").get_by_role("button", name=name, exact=True)
        was, before = button.get_attribute("aria-pressed"), canvas(page)
        page.keyboard.press(key)
        settle(page)
        assert button.get_attribute("aria-pressed") != was
        assert (canvas(page) != before).any(), name
        button.click()
        page.mouse.move(0, 0)
        page.locator("#viewer canvas").focus()
        settle(page)
        assert np.array_equal(canvas(page), before), name
    before = canvas(page)
    page.get_by_label("Opacity of the fill").press("End")
    settle(page)
    assert (canvas(page) != before).any()


def test_a_line_of_known_length_gives_millimetres(visit):
    page = visit()
    pick_sample(page, 1)
    page.get_by_role("radio", name="Scale").click()
    drag(page, (0.5, 0.25), (0.5, 0.75))
    page.get_by_label(re.compile("The line is")).fill("20")
    page.get_by_role("button", name="Set scale").click()
    expect(page.locator("#measurements")).to_contain_text("mm")
    settle(page)
    height = PIL.Image.open(SAMPLES[1]).height
    numbers = json.loads(Path(downloaded(page, "numbers").path()).read_text())
    assert numbers["mm_per_pixel"][0] == pytest.approx(20 / (0.5 * height), rel=0.02)  # whole pixels of the screen
    page.locator("#millimetres input").fill("0.5")
    page.locator("#millimetres input").press("Enter")
    expect(page.locator("#viewer .place")).to_contain_text("0.500 x 0.500 mm per pixel")


def test_dicom_opens_with_its_own_scale(visit, tmp_path):
    page = visit()
    path = dicom(tmp_path, "scan.dcm", spacing=(0.2, 0.1))
    page.set_input_files("#viewer input[type=file]", path)
    expect_image(page, "scan.dcm")
    expect(page.locator("#viewer .place")).to_contain_text("0.200 x 0.100 mm per pixel")
    assert "mm" in value_of(page, "Diameters")


def test_another_format_is_one_choice_away(visit):
    page = visit()
    pick_sample(page, 1)
    page.get_by_label("Other formats").click()
    page.get_by_role("option", name="Contours (GeoJSON)").click()
    settle(page)
    click(page, 0.5, 0.4)
    other = downloaded(page, "other")
    assert other.suggested_filename == f"{Path(PICKED[1].name).stem}_contours.geojson"
    written = json.loads(Path(other.path()).read_text())
    numbers = json.loads(Path(downloaded(page, "numbers").path()).read_text())
    areas = [feature["properties"]["area"] for feature in written["features"]]
    assert areas == [lesion["area"] for lesion in numbers["each_lesion"]], "of what was clicked"


BUSY = """() => {
    window.marked = 0;
    new MutationObserver(() => { window.marked += document.querySelector(".viewer").ariaBusy === "true"; })
        .observe(document.querySelector(".viewer"), {attributeFilter: ["aria-busy"]});
}"""


def test_every_request_is_marked_as_worked_on(visit):
    page = visit()
    page.evaluate(BUSY)
    for number, act in enumerate(
        (
            lambda: pick_sample(page, 1),
            lambda: click(page, 0.5, 0.4),
            lambda: page.keyboard.press("Control+z"),
            lambda: page.locator("#suspicion-slider input[type=range]").press("ArrowRight"),
            lambda: page.get_by_label("Remove false positives").click(),
            lambda: page.locator("#millimetres input").press("Enter"),
        ),
        1,
    ):
        act()
        settle(page)
        assert page.evaluate("window.marked") == number


def test_a_clip_is_looked_through_played_and_guided(visit, tmp_path):
    page = visit()
    page.set_input_files("#viewer input[type=file]", write("gif", panned(), tmp_path))
    expect(page.locator("#head-line")).to_contain_text(f"of {COUNT} frames. It is longest on frame")
    settle(page)
    place = page.locator(".frames output")
    longest = re.search(r"frame (\d)", page.locator("#head-line").inner_text())[1]
    expect(place).to_have_text(f"{longest} of {COUNT}")
    expect(page.get_by_role("radio", name="Brush")).to_be_hidden()
    assert page.evaluate(FAULTS) == []
    measured = canvas(page)
    page.get_by_label("Frame", exact=True).press("Home")
    expect_image(page, "clip_frame_0001.png")
    expect(place).to_have_text(f"1 of {COUNT}")
    assert count(page, OUTLINE) > 50
    assert (canvas(page) != measured).any()
    click(page, 0.5, 0.4)
    expect(page.locator("#head-line h2")).to_have_text("Outlined with your guidance")
    assert count(page, ADDED) > 20, "the sign of the click"
    page.locator("#viewer canvas").press(".")
    expect_image(page, "clip_frame_0002.png")
    assert count(page, ADDED) < 20, "which is on the first frame"
    page.get_by_role("button", name="Play").click()
    expect(place).not_to_have_text(f"2 of {COUNT}")
    page.get_by_role("button", name="Pause").click()
    settle(page)
    page.get_by_role("button", name="Measure on").click()
    expect(page.locator("#download-masks")).to_be_visible()
    settle(page)
    with PIL.Image.open(downloaded(page, "masks").path()) as stack:
        assert stack.n_frames == COUNT
        stack.seek(int(re.search(r"(\d) of", place.inner_text())[1]) - 1)
        assert np.array_equal(np.asarray(stack) > 0, saved_mask(page))
    video = tmp_path / "outlined.mp4"
    downloaded(page, "clip").save_as(video)
    assert open_clip(video).frames == COUNT
    page.keyboard.press("Control+z")
    settle(page)
    expect(page.locator("#head-line h2")).not_to_have_text("Outlined with your guidance")


def test_all_is_reached_in_order_without_a_mouse(visit):
    page = visit()
    tab_to(page, "#samples")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect_image(page, PICKED[1].name)
    tab_to(page, "#viewer [data-tool]")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("radio", name="Background")).to_be_checked()
    page.keyboard.press("ArrowLeft")
    tab_to(page, "#viewer canvas")
    for key in ("ArrowRight", "ArrowUp", "Shift+ArrowUp", "Enter"):
        page.keyboard.press(key)
    settle(page)
    expect(page.get_by_role("button", name="Undo")).to_be_enabled()
    page.keyboard.press("x")
    for key in ("Enter", *["ArrowRight"] * 4, *["ArrowDown"] * 4, "Enter"):
        page.keyboard.press(key)
    settle(page)
    for name in ("[data-do=fit]", "[data-layer=outline]", "[data-name=opacity]"):
        tab_to(page, f"#viewer {name}")
    for name in ("mask", "overlay", "numbers"):
        tab_to(page, f"#download-{name}")
    for name in ("#samples-slider", "#suspicion-slider", "#presence-slider", "#correctors", "#millimetres"):
        tab_to(page, name)
    numbers = json.loads(Path(downloaded(page, "numbers").path()).read_text())
    assert len(numbers["guidance"]["points"]) == 1
    assert numbers["guidance"]["box"]
    assert page.evaluate("() => document.activeElement.blur()") is None
    tab_to(page, "#samples")  # comes round: nothing holds the focus
    for tab, name in (("Compare", "#run-batch"), ("Explain", "#energy")):
        page.get_by_role("tab", name=tab).press("Enter")
        tab_to(page, name)


FAULTS = (Path(__file__).parent / "page_faults.js").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_light_and_dark_on_desktop_and_phone(visit, viewport, scheme):
    page, phone = visit(viewport, color_scheme=scheme), viewport is PHONE
    expect(page.locator("#samples-slider")).to_be_visible(visible=not phone)
    assert page.evaluate(FAULTS) == []
    pick_sample(page, 3)
    expect(page.locator("#viewer .stage")).to_be_in_viewport(ratio=0.95)
    if not phone:
        expect(page.locator("#head-line")).to_be_in_viewport(ratio=1)
    assert page.evaluate(FAULTS) == []
    stage, head = (page.locator(name).bounding_box() for name in ("#viewer .stage", "#head-line"))
    assert head["y"] > stage["y"] + stage["height"] if phone else head["x"] > stage["x"] + stage["width"]
    for tab, name in (("Explain", "#filter svg"), ("Compare", "#batch-images")):
        open_tab(page, tab)
        expect(page.locator(name)).to_be_visible()
        page.wait_for_function(f"({FAULTS})().length === 0")  # once it has faded in
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"], tab
        assert page.evaluate(FAULTS) == []
        if tab == "Explain":
            colour = page.locator("#filter svg").evaluate("x => getComputedStyle(x).color")
            bright = np.mean([int(part) for part in re.findall(r"\d+", colour)[:3]])
            assert (bright > 128) == (scheme == "dark"), "the plot is drawn in the page's colour"


def test_fingers_tap_drag_and_pinch(visit):
    page = visit(PHONE, has_touch=True, is_mobile=True)
    page.locator("#samples button").nth(1).tap()
    expect_image(page, PICKED[1].name)
    page.touchscreen.tap(*at(page, 0.5, 0.4))
    settle(page)
    session = page.context.new_cdp_session(page)

    def fingers(kind, *places):
        points = [{"x": x, "y": y, "id": index} for index, (x, y) in enumerate(at(page, *place) for place in places)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    fingers("touchStart", (0.4, 0.3))
    fingers("touchMove", (0.5, 0.5))
    fingers("touchMove", (0.6, 0.6))
    fingers("touchEnd")
    settle(page)
    zoomed = page.locator("#viewer .place").inner_text()
    fingers("touchStart", (0.4, 0.5))
    fingers("touchStart", (0.4, 0.5), (0.6, 0.5))
    fingers("touchMove", (0.2, 0.5), (0.8, 0.5))
    fingers("touchEnd")
    settle(page)
    assert (
        re.search(r"zoom (\d+)", page.locator("#viewer .place").inner_text())[1] != re.search(r"zoom (\d+)", zoomed)[1]
    )
    numbers = json.loads(Path(downloaded(page, "numbers").path()).read_text())
    assert len(numbers["guidance"]["points"]) == 1, "a drag and a pinch are no taps"
    assert numbers["guidance"]["box"]


def test_sliders_repeat_only_what_they_must(visit):
    page = visit()
    pick_sample(page, 0)
    page.locator("#suspicion-slider input[type=range]").press("ArrowRight")
    expect(page.locator("#foot-line")).to_contain_text("nothing decoded again")
    page.locator("#samples-slider input[type=range]").press("ArrowRight")
    expect(page.locator("#foot-line")).to_contain_text("decoded in")


def test_a_batch_shows_how_far_it_is_and_what_came_out(visit, monkeypatch, tmp_path):
    asked, go_on = threading.Event(), threading.Event()

    def held(path):
        if path.stem == SAMPLES[1].stem:
            asked.set()
            assert go_on.wait(timeout=60)
        return read_upload(path)

    monkeypatch.setattr(batch, "read_upload", held)
    letter = tmp_path / "__bold__ [link](x).png"
    letter.write_text("Dear doctor")
    page = visit()
    open_tab(page, "Compare")
    references = [path.with_name(f"{path.stem}_mask.png") for path in SAMPLES[:2]]
    page.set_input_files("#batch-images input[type=file]", [*SAMPLES[:2], letter])
    page.set_input_files("#batch-references input[type=file]", references)
    expect(page.locator("#batch-images")).to_contain_text(SAMPLES[1].stem)
    expect(page.locator("#batch-references")).to_contain_text(references[1].stem)
    page.locator("#run-batch").click()
    expect(page.get_by_text(f"{SAMPLES[1].name}: 2 of 3").first).to_be_visible()
    go_on.set()
    expect(page.locator("#batch-said")).to_contain_text("2 segmented, 1 left out. __bold__ [link](x).png")
    assert page.locator("#batch-said :is(strong, a)").count() == 0, "names are text"
    expect(page.locator("#batch-gallery img")).to_have_count(2)
    silent = page.locator("img:visible").evaluate_all("found => found.filter(x => x.alt === null).map(x => x.src)")
    assert silent == []
    with page.expect_download() as download:
        page.locator("#download-zip").click()
    with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as archive:
        assert {"table.csv", *(f"{path.stem}_errors.png" for path in SAMPLES[:2])} <= set(archive.namelist())


def test_a_bad_file_is_explained_as_text_and_the_next_one_works(visit, tmp_path):
    page = visit()
    letter = tmp_path / "__bold__ [link](x) letter.png"
    letter.write_text("Dear doctor")
    page.set_input_files("#viewer input[type=file]", letter)
    toast = page.locator(".toast-body")
    expect(toast).to_contain_text("is not an image")
    assert toast.locator(":is(a, b, strong)").count() == 0
    expect(toast).to_contain_text("__bold__ [link](x) letter.png")
    settle(page)
    page.set_input_files("#viewer input[type=file]", SAMPLES[0])
    expect_image(page, SAMPLES[0].name)


def test_a_file_that_is_too_large_is_not_even_sent(visit, tmp_path):
    page = visit()
    heavy = tmp_path / "heavy.png"
    heavy.write_bytes(SAMPLES[0].read_bytes() + bytes(22_000_000))
    page.set_input_files("#viewer input[type=file]", heavy)
    expect(page.get_by_text("exceed the maximum")).to_be_visible()
    settle(page)


@pytest.mark.parametrize("into", ["viewer", "batch-images"])
def test_an_upload_is_gone_when_its_page_is_closed(visit, monkeypatch, tmp_path, into):
    upload = tmp_path / f"private-{into}.png"
    PIL.Image.open(SAMPLES[5]).rotate(3).save(upload)
    deleted, end = threading.Event(), Visit.end

    def noted(visit):
        mine = any(visit.folder.rglob(upload.name))
        end(visit)
        if mine:
            deleted.set()

    page = visit()
    monkeypatch.setattr(Visit, "end", noted)
    if into == "viewer":
        page.set_input_files(f"#{into} input[type=file]", upload)
        expect_image(page, upload.name)
    else:  # dropped, and then nothing is done with it
        open_tab(page, "Compare")
        with page.expect_response(lambda response: "/run/" in response.url):
            page.set_input_files(f"#{into} input[type=file]", upload)
    kept = Path(os.environ["GRADIO_TEMP_DIR"])
    assert list(kept.rglob(f"{upload.stem}*"))
    page.close()
    assert deleted.wait(timeout=60)
    assert [path for path in kept.rglob(f"{upload.stem}*") if path.is_file()] == []
