"""The Space: lays out the page and says which action answers what. Run it with `sfrecsam demo` or `python app.py`."""

import importlib.util
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

import appearance
from actions import NO_IMAGE, NOT_GUIDED, Actions
from batch import HEADERS
from downloads import OTHER_FORMATS
from sample_list import SAMPLES
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from staged_model import Controls, StagedModel
from uploads import MAX_BATCH, MAX_MEGABYTES, paths_of
from viewer import viewer
from visits import IDLE_SECONDS, Visit

HERE = Path(__file__).resolve().parent
CORRECTORS = [("Remove false positives", "fp"), ("Add false negatives", "fn")]
MAX_SAMPLES = 32
AT_ONCE = {"concurrency_limit": 2, "concurrency_id": "model"}
QUIET = {"trigger_mode": "always_last", "show_progress": "hidden", **AT_ONCE}
PRIVATE = {"api_visibility": "private"}
SERVED = {
    "theme": appearance.THEME,
    "css": appearance.CSS,
    "head": appearance.HEAD,
    "max_file_size": f"{MAX_MEGABYTES}mb",
    "footer_links": ["api", "settings"],
    "ssr_mode": False,
    "mcp_server": importlib.util.find_spec("mcp") is not None,
}
Components = list[gr.components.Component]


def build(actions: Actions, root: Path) -> gr.Blocks:
    """The page, wired to its actions; files of its visits go below `root`."""
    with gr.Blocks(title=appearance.TITLE, analytics_enabled=False) as page:
        visit = gr.State(
            lambda: Visit.begin(root, actions.staged.default_controls()),
            time_to_live=IDLE_SECONDS,
            delete_callback=Visit.end,
        )
        visit.load_event_to_attach = None  # begun by the first action, not by each page that is only looked at
        gr.Markdown(appearance.HEADER, elem_id="header")
        with gr.Tabs():
            with gr.Tab("Segment", id="segment"):
                controls, folded = _segment_tab(actions, visit)
            with gr.Tab("Compare", id="compare"):
                _compare_tab(actions, visit, controls)
            with gr.Tab("Explain", id="explain") as explain:
                outputs = _explain_tab()
        explain.select(actions.explain, visit, [visit, *outputs], **PRIVATE, **AT_ONCE)
        _segment_api(actions, visit)
        page.load(None, None, folded, js=appearance.FOLD_CONTROLS, **PRIVATE)

        def leave(request: gr.Request) -> None:
            """Ends the visit when its page is closed; the state alone would live on for an hour."""
            left = page.state_holder[request.session_hash].state_data.pop(visit._id, None)
            if left is not None:
                left.end()

        page.unload(leave)
    return page.queue(max_size=64)


def _segment_tab(actions: Actions, visit: gr.State) -> tuple[Components, gr.Accordion]:
    """The samples, the viewer, and what was found; returns the controls, and what they are folded into."""
    with gr.Row(elem_classes="workspace"):
        with gr.Column(scale=2, min_width=200):
            samples = appearance.piece(
                appearance.SAMPLES,
                "samples",
                [{"src": appearance.thumbnail(sample.image()), "label": sample.label} for sample in SAMPLES],
                appearance.PICK,
            )
        with gr.Column(scale=7, min_width=320):
            picture = viewer("viewer")
        with gr.Column(scale=3, min_width=260):
            head = appearance.piece(appearance.HEAD_LINE, "head-line")
            switch = gr.Button("Use the mask before correction", size="md", visible=False, elem_id="switch")
            table = appearance.piece(appearance.MEASUREMENTS, "measurements", [])
            with gr.Column(elem_classes="downloads"):
                files = [
                    gr.DownloadButton(label, size="md", elem_id=name)
                    for label, name in (
                        ("Mask (PNG)", "download-mask"),
                        ("Picture (PNG)", "download-overlay"),
                        ("Numbers (JSON)", "download-numbers"),
                    )
                ]
                format = gr.Dropdown(OTHER_FORMATS, value=OTHER_FORMATS[0][1], label="Other formats", elem_id="format")
                files.append(gr.DownloadButton("Save in this format", size="md", elem_id="download-other"))
                files += [
                    gr.DownloadButton(label, size="md", visible=False, elem_id=name)
                    for label, name in (
                        ("Outlined clip (MP4)", "download-clip"),
                        ("Its masks (TIFF)", "download-masks"),
                        ("Its numbers (CSV)", "download-frames"),
                    )
                ]
            foot = gr.Markdown(NOT_GUIDED, elem_id="foot-line")
            with gr.Accordion("Control", elem_id="control") as folded:
                controls = _controls(actions.staged.default_controls())
    outputs = [visit, picture, head, table, switch, *files, foot]
    millimetres = controls.pop()
    picture.opened(actions.open_upload, [visit, *controls, format], outputs, **PRIVATE, **QUIET)
    samples.picked(actions.open_sample, [visit, *controls, format], outputs, **PRIVATE, **QUIET)
    picture.guided(actions.guide, visit, outputs, **PRIVATE, **QUIET)
    picture.framed(actions.show_frame, visit, outputs, **PRIVATE, **QUIET)
    picture.calibrated(actions.calibrate_by_line, visit, outputs, **PRIVATE, **QUIET)
    for triggers, action, inputs in (
        ([control.input for control in controls], actions.control, [visit, *controls]),
        ([format.input], actions.choose_format, [visit, format]),
        ([switch.click], actions.switch_correction, [visit]),
        ([millimetres.submit], actions.calibrate, [visit, millimetres]),
    ):
        gr.on(triggers, action, inputs, outputs, js=appearance.say_busy(len(inputs)), **PRIVATE, **QUIET)
    return controls, folded


def _controls(default: Controls) -> Components:
    return [
        _slider(
            "Samples",
            "Decoder passes with noise; 0: none.",
            default.mc_samples,
            "samples-slider",
            maximum=MAX_SAMPLES,
            step=1,
            precision=0,
        ),
        _slider(
            "Suspicion threshold (bit)",
            "Less certain pixels may be corrected.",
            round(default.suspicion_threshold, 3),
            "suspicion-slider",
        ),
        _slider(
            "Presence threshold",
            "Below it nothing is marked.",
            round(default.presence_threshold, 3),
            "presence-slider",
        ),
        gr.CheckboxGroup(CORRECTORS, value=list(default.correctors), label="Correctors", elem_id="correctors"),
        gr.Number(
            None,
            label="Millimetres per pixel",
            info="Type and press Enter, or use the tool Scale.",
            minimum=0,
            elem_id="millimetres",
        ),
    ]


def _slider(label: str, info: str, value: float, name: str, maximum: float = 1, **options: Any) -> gr.Slider:
    """A slider from 0, whose number field may be empty or hold too much while one types."""
    slider = gr.Slider(0, maximum, value, label=label, info=info, elem_id=name, **{"step": 0.001} | options)
    read = slider.preprocess
    slider.preprocess = lambda payload: read(min(max(payload or 0, 0), maximum))
    return slider


def _compare_tab(actions: Actions, visit: gr.State, controls: Components) -> None:
    gr.Markdown(
        f"Up to {MAX_BATCH} images to a table and a ZIP, with the settings under *Control*. With reference masks "
        "(`x.png` or `x_mask.png` for the image `x`) you also get the Dice coefficient and a map of the errors."
    )
    with gr.Row():
        images, references = (
            gr.File(label=label, file_count="multiple", min_width=260, height=180, elem_id=name)
            for label, name in (("Images", "batch-images"), ("Reference masks (optional)", "batch-references"))
        )
    run = gr.Button("Segment all", variant="primary", elem_id="run-batch")
    said = appearance.piece("<p>{{value}}</p>", "batch-said", "")
    with gr.Column(elem_classes="answer"):
        table = gr.Dataframe(headers=HEADERS, label="Table", interactive=False, buttons=[], elem_id="batch-table")
        archive = gr.DownloadButton("Everything (ZIP)", elem_id="download-zip")
        gr.HTML(appearance.title("Outlines and errors", appearance.ERRORS))
        gallery = gr.Gallery(
            label="Outlines and errors",
            show_label=False,
            columns=3,
            object_fit="contain",
            height="auto",
            elem_id="batch-gallery",
        )
    for files in (images, references):
        files.preprocess = paths_of
        files.upload(actions.receive, [visit, files], visit, queue=False, **PRIVATE)
    outputs = [visit, table, gallery, archive, said]
    run.click(actions.batch, [visit, images, references, *controls], outputs, api_name="batch", **AT_ONCE)


def _explain_tab() -> Components:
    gr.Markdown(
        "A vision transformer sees what things are, and little of speckle and faint borders. SF-RecSAM adds a branch "
        "that filters its features **by frequency**, with gains that it has learned."
    )
    shares = gr.Markdown(NO_IMAGE, elem_id="shares")
    with gr.Column(elem_classes="answer"):
        with gr.Row():
            spectrum = _picture(
                "1. The image's spectrum",
                "Magnitude of the image's Fourier transform",
                "spectrum",
                "Coarse inside, speckle outside.",
            )
            with gr.Column(min_width=280, elem_classes="picture"):
                gr.HTML(appearance.title("2. The learned filter", "Amplifies above 1, damps below 1."))
                response = gr.HTML(elem_id="filter")
        energy = _picture(
            "3. What the filter changes",
            "Heatmap over the image of the energy that the learned filter adds to the features",
            "energy",
            "Bright where filtered features differ most from unfiltered ones.",
            height=460,
        )
    return [spectrum, response, energy, shares]


def _picture(title: str, alt_text: str, name: str, legend: str = "", height: int = 380) -> gr.Image:
    """A picture under its title and legend."""
    with gr.Column(min_width=280, elem_classes="picture"):
        gr.HTML(appearance.title(title, legend))
        return gr.Image(
            label=title,
            show_label=False,
            interactive=False,
            buttons=["fullscreen"],
            alt_text=alt_text,
            height=height,
            elem_id=name,
        )


def _segment_api(actions: Actions, visit: gr.State) -> None:
    """An endpoint without a page: everything in one call."""
    default = actions.staged.default_controls()
    with gr.Group(visible=False):
        image = gr.File(label="image")
        image.preprocess = paths_of
        inputs = [
            visit,
            image,
            gr.JSON([], label="points"),
            gr.JSON([], label="labels"),
            gr.JSON([], label="box"),
            gr.Number(default.mc_samples, label="mc_samples", minimum=0, maximum=MAX_SAMPLES, precision=0),
            gr.Number(default.suspicion_threshold, label="suspicion_threshold", minimum=0, maximum=1),
            gr.Number(default.presence_threshold, label="presence_threshold", minimum=0, maximum=1),
            gr.CheckboxGroup(["fp", "fn"], value=list(default.correctors), label="correctors"),
            gr.Dropdown(["mask", *(format for _, format in OTHER_FORMATS)], value="mask", label="format"),
        ]
        outputs = [visit, gr.File(label="lesions"), gr.JSON(label="measurements")]
        gr.Button().click(actions.segment, inputs, outputs, api_name="segment", **AT_ONCE)


@contextmanager
def space(model: str | None = None) -> Iterator[gr.Blocks]:
    """
    The page, with a folder for its visits that is gone afterwards.

    Args:
        model (`str`, *optional*): Checkpoint folder or Hub name; the environment's `SFRECSAM_MODEL`, or else the
            bundled checkpoint, if not given.
    """
    staged = StagedModel(*load_checkpoint(model or os.environ.get("SFRECSAM_MODEL")))
    staged.warm_up()
    with tempfile.TemporaryDirectory(prefix="sfrecsam-") as folder:
        root = Path(folder).resolve()
        os.environ["GRADIO_TEMP_DIR"] = str(root)
        yield build(Actions(staged), root)


def _stop(*_: Any) -> None:
    """Lets a stopped container, too, delete its uploads, and be asked only once."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit()


def launch(model: str | None = None, port: int | None = None) -> None:
    """Serves the page until it is interrupted or terminated."""
    signal.signal(signal.SIGTERM, _stop)
    warnings.filterwarnings("ignore", "This MCP server includes a tool that has a gr.State")  # none relies on it
    with space(model) as page:
        page.launch(server_port=port, **SERVED)


if __name__ == "__main__":
    launch()
