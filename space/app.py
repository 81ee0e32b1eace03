"""The Space: lays out the page and says which action answers what. Run it with `sfrecsam demo` or `python app.py`."""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

import appearance
from actions import NO_IMAGE, WELCOME, Actions
from batch import HEADERS
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.modeling.image_reading import mask_stem
from staged_model import Controls, StagedModel
from uploads import MAX_BATCH, MAX_MEGABYTES, path_of, paths_of
from visits import BACKGROUND, BOX_CORNER, IDLE_SECONDS, LESION, Visits

HERE = Path(__file__).resolve().parent
CORRECTORS = [("Remove false positives", "fp"), ("Add false negatives", "fn")]
MAX_SAMPLES = 32
AT_ONCE = {"concurrency_limit": 2, "concurrency_id": "model"}
LATEST = {"trigger_mode": "always_last", **AT_ONCE}
EVERY = {"trigger_mode": "multiple", "show_progress": "hidden", **AT_ONCE}
PRIVATE = {"api_visibility": "private"}
SERVED = {
    "theme": appearance.THEME,
    "css": appearance.CSS,
    "head": appearance.HEAD,
    "max_file_size": f"{MAX_MEGABYTES}mb",
    "footer_links": ["api", "settings"],
    "ssr_mode": False,
}


def build(actions: Actions) -> gr.Blocks:
    """The page, wired to its actions."""
    with gr.Blocks(
        title=appearance.TITLE, analytics_enabled=False, delete_cache=(IDLE_SECONDS // 4, IDLE_SECONDS)
    ) as page:
        gr.Markdown(appearance.HEADER)
        gr.Markdown(appearance.NOTICE, elem_classes="notice")
        with gr.Row(elem_classes="workspace"):
            with gr.Column(scale=4, min_width=300):
                image = gr.Image(
                    label="Ultrasound image",
                    type="filepath",
                    sources=["upload", "clipboard"],
                    buttons=[],
                    height=240,
                    placeholder=f"Drop or paste an image\n(PNG, JPEG, TIFF, BMP; up to {MAX_MEGABYTES} MB)",
                    alt_text="The ultrasound image that you chose",
                    elem_id="image",
                )
                image.preprocess = path_of
                samples = gr.Dataset(
                    label="Samples from BUS-BRA",
                    components=[gr.Image(visible=False, type="filepath")],
                    samples=[[str(sample)] for sample in actions.samples],
                    type="index",
                    elem_id="samples",
                )
                with gr.Accordion("Control") as folded:
                    controls = _controls(actions.staged.default_controls())
            with gr.Column(scale=9, min_width=300), gr.Tabs():
                with gr.Tab("Segment", id="segment"):
                    segment_outputs = _segment_tab()
                with gr.Tab("Guide", id="guide"):
                    guide_outputs = _guide_tab(actions)
                with gr.Tab("Compare", id="compare"):
                    _compare_tab(actions, controls)
                with gr.Tab("Explain", id="explain"):
                    explain_outputs = _explain_tab()
        answers = [*segment_outputs, *guide_outputs]
        opened = [
            image.input(actions.open_image, [image, *controls], [image, *answers], api_name="open_image", **LATEST),
            samples.click(actions.open_sample, [samples, *controls], [image, *answers], **PRIVATE, **LATEST),
        ]
        for event in opened:
            event.then(actions.explain, None, explain_outputs, **PRIVATE, **LATEST)
        moved = [control.input for control in controls]
        gr.on(moved, actions.control, controls, answers, api_name="control", show_progress="minimal", **LATEST)
        _segment_api(actions)
        page.load(None, None, folded, js=appearance.FOLD_CONTROLS, **PRIVATE)
        page.unload(actions.leave)
    return page.queue(max_size=64)


def _controls(default: Controls) -> list[gr.components.Component]:
    return [
        _slider(
            "Samples",
            "Stochastic decoder passes; 0 uses the learned uncertainty.",
            default.mc_samples,
            "samples-slider",
            maximum=MAX_SAMPLES,
            step=1,
            precision=0,
        ),
        _slider(
            "Suspicion threshold (bit)",
            "Pixels that are less sure than this may be corrected.",
            round(default.suspicion_threshold, 3),
            "suspicion-slider",
        ),
        _slider(
            "Presence threshold",
            "If a lesion is less probable than this, nothing is marked.",
            round(default.presence_threshold, 3),
            "presence-slider",
        ),
        gr.CheckboxGroup(CORRECTORS, value=list(default.correctors), label="Correctors", elem_id="correctors"),
    ]


def _slider(label: str, info: str, value: float, name: str, maximum: float = 1, **options: Any) -> gr.Slider:
    """A slider from 0, whose number field may be empty or hold too much while one types."""
    slider = gr.Slider(0, maximum, value, label=label, info=info, elem_id=name, **{"step": 0.001} | options)
    read = slider.preprocess
    slider.preprocess = lambda payload: read(min(max(payload or 0, 0), maximum))
    return slider


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


def _segment_tab() -> list[gr.components.Component]:
    times = gr.Markdown(WELCOME, elem_id="times")
    with gr.Column(elem_classes="answer"):
        with gr.Row():
            contour = _picture("Lesion", "The image with the lesion outlined in yellow", "contour", appearance.OUTLINE)
            with gr.Column(min_width=280, elem_classes="picture"):
                gr.HTML(appearance.title("Before | after correction", appearance.FILLED))
                slider = gr.ImageSlider(
                    label="Before and after correction",
                    show_label=False,
                    interactive=False,
                    buttons=["fullscreen"],
                    max_height=380,
                    elem_id="before-after",
                )
        with gr.Row():
            with gr.Column(scale=3, min_width=280):
                table = appearance.measurements("measurements")
            with gr.Column(scale=1, min_width=180):
                downloads = [
                    gr.DownloadButton(label, size="md", elem_id=name)
                    for label, name in (
                        ("Mask (PNG)", "download-mask"),
                        ("Overlay (PNG)", "download-overlay"),
                        ("Numbers (JSON)", "download-numbers"),
                    )
                ]
        with gr.Row():
            uncertainty = _picture(
                "Uncertainty",
                "Heatmap of the predictive entropy over the image",
                "uncertainty",
                appearance.UNCERTAINTY,
            )
            corrections = _picture(
                "Corrections",
                "The image with added pixels in blue and removed pixels in orange",
                "corrections",
                appearance.CORRECTIONS,
            )
    return [contour, slider, uncertainty, corrections, table, *downloads, times]


def _guide_tab(actions: Actions) -> list[gr.components.Component]:
    times = gr.Markdown(NO_IMAGE, elem_id="guide-times")
    with gr.Column(elem_classes="answer"):
        with gr.Row(equal_height=True):
            kind = gr.Radio(
                [LESION, BACKGROUND, BOX_CORNER], value=LESION, label="A click marks", min_width=300, elem_id="kind"
            )
            with gr.Row():
                undo = gr.Button("Undo", size="md", min_width=100, elem_id="undo")
                clear = gr.Button("Clear", size="md", min_width=100, elem_id="clear")
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                picture = _picture(
                    "Click on the image, or drag a box",
                    "The image with your clicks, your box and the resulting outline in yellow",
                    "guide",
                    appearance.PROMPTS,
                    height=540,
                )
            with gr.Column(scale=3, min_width=260):
                table = appearance.measurements("guide-measurements")
                with gr.Accordion("Without a mouse: point by numbers", open=False):
                    x = gr.Number(label="x (px)", minimum=0, elem_id="click-x")
                    y = gr.Number(label="y (px)", minimum=0, elem_id="click-y")
                    place = gr.Button("Place", elem_id="place")
    drawn_box = gr.HTML(js_on_load=appearance.HEAR_BOX, visible="hidden")
    outputs = [picture, times, table]
    picture.select(actions.select, kind, outputs, **PRIVATE, **EVERY)
    drawn_box.drawn(actions.draw_box, None, outputs, **PRIVATE, **EVERY)
    place.click(actions.click, [x, y, kind], outputs, api_name="click", **EVERY)
    undo.click(actions.undo, None, outputs, api_name="undo", **EVERY)
    clear.click(actions.clear, None, outputs, api_name="clear", **EVERY)
    return outputs


def _compare_tab(actions: Actions, controls: list[gr.components.Component]) -> None:
    gr.Markdown(
        f"Up to {MAX_BATCH} images to a table and a ZIP. With reference masks (`x.png` or `x_mask.png` for the image "
        "`x`) you also get the Dice coefficient and a map of the errors."
    )
    with gr.Row():
        images, references = (
            gr.File(label=label, file_count="multiple", min_width=260, height=180, elem_id=name)
            for label, name in (("Images", "batch-images"), ("Reference masks (optional)", "batch-references"))
        )
    run = gr.Button("Segment all", variant="primary", elem_id="run-batch")
    said = gr.Markdown(elem_id="batch-said")
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
        files.upload(actions.receive, files, None, queue=False, **PRIVATE)
    outputs = [table, gallery, archive, said]
    run.click(actions.batch, [images, references, *controls], outputs, api_name="batch", **AT_ONCE)


def _explain_tab() -> list[gr.components.Component]:
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
            response = _picture(
                "2. The learned filter",
                "Gain of the learned filter over radial frequency, one line for each stride",
                "filter",
                "Amplifies above 1, damps below 1.",
            )
        energy = _picture(
            "3. What the filter changes",
            "Heatmap over the image of the energy that the learned filter adds to the features",
            "energy",
            "Bright where filtered features differ most from unfiltered ones.",
            height=460,
        )
    return [spectrum, response, energy, shares]


def _segment_api(actions: Actions) -> None:
    """An endpoint without a page: everything in one call."""
    default = actions.staged.default_controls()
    with gr.Group(visible=False):
        inputs = [
            api_file := gr.File(label="image"),
            gr.JSON([], label="points"),
            gr.JSON([], label="labels"),
            gr.JSON([], label="box"),
            gr.Number(default.mc_samples, label="mc_samples", minimum=0, maximum=MAX_SAMPLES, precision=0),
            gr.Number(default.suspicion_threshold, label="suspicion_threshold", minimum=0, maximum=1),
            gr.Number(default.presence_threshold, label="presence_threshold", minimum=0, maximum=1),
            gr.CheckboxGroup(["fp", "fn"], value=list(default.correctors), label="correctors"),
        ]
        api_file.preprocess = path_of
        outputs = [gr.File(label="mask"), gr.JSON(label="measurements")]
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
    gr.set_static_paths(HERE / "samples")  # not copied to where uploads are, and deleted with one that is equal
    samples = [path for path in sorted((HERE / "samples").glob("*.png")) if mask_stem(path.stem) == path.stem]
    with tempfile.TemporaryDirectory(prefix="sfrecsam-") as folder:
        folder = str(Path(folder).resolve())
        os.environ["GRADIO_TEMP_DIR"] = folder
        visits = Visits(Path(folder), staged.default_controls())
        with visits.forgetting():
            yield build(Actions(staged, visits, samples))


def _stop(*_: Any) -> None:
    """Lets a stopped container, too, delete its uploads, and be asked only once."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit()


def launch(model: str | None = None, port: int | None = None) -> None:
    """Serves the page until it is interrupted or terminated."""
    signal.signal(signal.SIGTERM, _stop)
    with space(model) as page:
        page.launch(server_port=port, **SERVED)


if __name__ == "__main__":
    launch()
