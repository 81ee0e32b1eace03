"""The Space: lays out the page and says which action answers what. Run it with `sfrecsam demo` or `python app.py`."""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr

import appearance
from actions import NO_IMAGE, Actions
from batch import HEADERS
from sfrecsam_hf.checkpoints import load_checkpoint
from sfrecsam_hf.image_reading import mask_stem
from staged_model import Controls, StagedModel
from uploads import MAX_BATCH, MAX_MEGABYTES, path_of
from visits import BACKGROUND, BOX_CORNER, IDLE_SECONDS, LESION, Visits

HERE = Path(__file__).resolve().parent
CORRECTORS = [("Remove false positives", "fp"), ("Add false negatives", "fn")]
AT_ONCE = {"concurrency_limit": 2, "concurrency_id": "model"}
SERVED = {
    "theme": appearance.THEME,
    "css": appearance.CSS,
    "head": appearance.HEAD,
    "max_file_size": f"{MAX_MEGABYTES}mb",
    "footer_links": ["api"],
    "ssr_mode": False,
}
LATEST = {"trigger_mode": "always_last", "show_progress": "minimal", **AT_ONCE}


def build(actions: Actions) -> gr.Blocks:
    """The page, wired to its actions."""
    with gr.Blocks(
        title=appearance.TITLE, analytics_enabled=False, delete_cache=(IDLE_SECONDS // 4, IDLE_SECONDS)
    ) as page:
        gr.Markdown(appearance.HEADER)
        gr.Markdown(appearance.NOTICE, elem_classes="notice")
        with gr.Row(elem_classes="workspace"):
            with gr.Column(scale=4, min_width=300, elem_classes="inputs"):
                image = gr.Image(
                    label="Ultrasound image",
                    type="filepath",
                    sources=["upload", "clipboard"],
                    buttons=[],
                    height=280,
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
                controls = _controls(actions.staged.default_controls())
            with gr.Column(scale=9, min_width=300, elem_classes="results"), gr.Tabs():
                with gr.Tab("Segment", id="segment"):
                    segment_outputs = _segment_tab()
                with gr.Tab("Guide", id="guide"):
                    guide_outputs = _guide_tab(actions)
                with gr.Tab("Compare and batch", id="batch"):
                    _batch_tab(actions, controls)
                with gr.Tab("Explain", id="explain"):
                    explain_outputs = _explain_tab()
        answers = [*segment_outputs, *guide_outputs]
        for opened in (
            image.input(actions.open_image, [image, *controls], [image, *answers], api_name="open_image", **AT_ONCE),
            samples.click(
                actions.open_sample, [samples, *controls], [image, *answers], api_name="open_sample", **AT_ONCE
            ),
        ):
            opened.then(actions.explain, None, explain_outputs, api_visibility="private", **AT_ONCE)
        gr.on(
            [control.input for control in controls], actions.control, controls, answers, api_name="control", **LATEST
        )
        _segment_api(actions)
        page.unload(actions.leave)
    return page.queue(max_size=64)


def _controls(default: Controls) -> list[gr.components.Component]:
    with gr.Accordion("Control", open=True, elem_classes="controls"):
        return [
            gr.Slider(
                0,
                32,
                default.mc_samples,
                step=1,
                label="Samples",
                info="Stochastic decoder passes; 0 uses the learned uncertainty.",
                elem_id="samples-slider",
            ),
            gr.Slider(
                0,
                1,
                round(default.suspicion_threshold, 3),
                step=0.001,
                label="Suspicion threshold (bit)",
                info="Pixels that are less sure than this may be corrected.",
                elem_id="suspicion-slider",
            ),
            gr.Slider(
                0,
                1,
                round(default.presence_threshold, 3),
                step=0.001,
                label="Presence threshold",
                info="If a lesion is less probable than this, nothing is marked.",
                elem_id="presence-slider",
            ),
            gr.CheckboxGroup(CORRECTORS, value=list(default.correctors), label="Correctors", elem_id="correctors"),
        ]


def _picture(title: str, alt_text: str, name: str, legend: str = "", height: int | None = 400) -> gr.Image:
    """A picture under its title and legend."""
    with gr.Column(min_width=280):
        gr.HTML(appearance.title(title, legend), padding=False)
        return gr.Image(
            label=title,
            show_label=False,
            interactive=False,
            buttons=["fullscreen"],
            alt_text=alt_text,
            height=height,
            elem_id=name,
        )


def _measurements(name: str) -> gr.Dataframe:
    return gr.Dataframe(
        headers=["Measure", "Value"], label="Measurements", interactive=False, wrap=True, buttons=[], elem_id=name
    )


def _segment_tab() -> list[gr.components.Component]:
    with gr.Row():
        contour = _picture("Lesion", "The image with the lesion outlined in yellow", "contour", appearance.OUTLINE)
        with gr.Column(min_width=280):
            gr.HTML(appearance.title("Before | after correction", appearance.OUTLINE), padding=False)
            slider = gr.ImageSlider(
                label="Before and after correction",
                show_label=False,
                interactive=False,
                buttons=["fullscreen"],
                max_height=400,
                elem_id="before-after",
            )
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
    times = gr.Markdown(NO_IMAGE, elem_id="times")
    table = _measurements("measurements")
    with gr.Row():
        downloads = [
            gr.DownloadButton(label, size="md", elem_id=name)
            for label, name in (
                ("Mask (PNG)", "download-mask"),
                ("Overlay (PNG)", "download-overlay"),
                ("Numbers (JSON)", "download-numbers"),
            )
        ]
    return [contour, slider, uncertainty, corrections, table, *downloads, times]


def _guide_tab(actions: Actions) -> list[gr.components.Component]:
    with gr.Row(equal_height=True):
        kind = gr.Radio([LESION, BACKGROUND, BOX_CORNER], value=LESION, label="A click marks", scale=3, elem_id="kind")
        with gr.Column(scale=1, min_width=180):
            undo = gr.Button("Undo", size="md", elem_id="undo")
            clear = gr.Button("Clear", size="md", elem_id="clear")
    picture = _picture(
        "Click on the image; two box corners make a box",
        "The image with your clicks, your box and the resulting outline in yellow",
        "guide",
        appearance.PROMPTS,
        height=560,
    )
    times = gr.Markdown(NO_IMAGE, elem_id="guide-times")
    table = _measurements("guide-measurements")
    with gr.Accordion("Without a mouse: a click by its position in the image", open=False), gr.Row():
        x = gr.Number(label="x (px)", minimum=0, elem_id="click-x")
        y = gr.Number(label="y (px)", minimum=0, elem_id="click-y")
        place = gr.Button("Place", elem_id="place")
    outputs = [picture, times, table]
    quiet = {"show_progress": "hidden", **AT_ONCE}
    picture.select(actions.select, kind, outputs, api_visibility="private", **quiet)
    place.click(actions.click, [x, y, kind], outputs, api_name="click", **quiet)
    undo.click(actions.undo, None, outputs, api_name="undo", **quiet)
    clear.click(actions.clear, None, outputs, api_name="clear", **quiet)
    return outputs


def _batch_tab(actions: Actions, controls: list[gr.components.Component]) -> None:
    gr.Markdown(
        f"Up to {MAX_BATCH} images. With reference masks (`x.png` or `x_mask.png` for the image `x`) you also get the "
        "Dice coefficient and a map of the errors."
    )
    with gr.Row():
        images = gr.File(label="Images", file_count="multiple", elem_id="batch-images", height=180)
        references = gr.File(
            label="Reference masks (optional)", file_count="multiple", elem_id="batch-references", height=180
        )
    run = gr.Button("Segment all", variant="primary", elem_id="run-batch")
    said = gr.Markdown(elem_id="batch-said")
    table = gr.Dataframe(headers=HEADERS, label="Table", interactive=False, buttons=[], elem_id="batch-table")
    gr.HTML(appearance.title("Outlines and errors", appearance.ERRORS), padding=False)
    gallery = gr.Gallery(
        label="Outlines and errors",
        show_label=False,
        columns=3,
        object_fit="contain",
        height="auto",
        elem_id="batch-gallery",
    )
    archive = gr.DownloadButton("Everything (ZIP)", elem_id="download-zip")
    outputs = [table, gallery, archive, said]
    run.click(actions.batch, [images, references, *controls], outputs, api_name="batch", **AT_ONCE)


def _explain_tab() -> list[gr.components.Component]:
    gr.Markdown(
        "A vision transformer sees what things are, and little of speckle and faint borders. SF-RecSAM adds a branch "
        "that filters its features **by frequency**, with gains that it has learned."
    )
    with gr.Row():
        spectrum = _picture(
            "1. The image's spectrum",
            "Magnitude of the image's Fourier transform",
            "spectrum",
            "Coarse structure in the middle, speckle outside.",
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
    shares = gr.Markdown(NO_IMAGE, elem_id="shares")
    return [spectrum, response, energy, shares]


def _segment_api(actions: Actions) -> None:
    """An endpoint without a page: everything in one call."""
    default = actions.staged.default_controls()
    with gr.Group(visible=False):
        inputs = [
            gr.File(label="image"),
            gr.JSON([], label="points"),
            gr.JSON([], label="labels"),
            gr.JSON([], label="box"),
            gr.Number(default.mc_samples, label="mc_samples"),
            gr.Number(default.suspicion_threshold, label="suspicion_threshold"),
            gr.Number(default.presence_threshold, label="presence_threshold"),
            gr.CheckboxGroup(["fp", "fn"], value=list(default.correctors), label="correctors"),
        ]
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
    gr.set_static_paths(HERE / "samples")  # not copied to where uploads are, and deleted with one that is equal
    samples = [path for path in sorted((HERE / "samples").glob("*.png")) if mask_stem(path.stem) == path.stem]
    with tempfile.TemporaryDirectory(prefix="sfrecsam-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        yield build(Actions(staged, Visits(Path(folder), staged.default_controls()), samples))


def launch(model: str | None = None, port: int | None = None) -> None:
    """Serves the page until it is interrupted or terminated."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that a stopped container, too, deletes its uploads
    with space(model) as page:
        page.launch(server_port=port, **SERVED)


if __name__ == "__main__":
    launch()
