"""
The viewer: one large picture with everything on it, as a `gr.HTML` component of our own.

Why not what Gradio has: `gr.Image` cannot zoom, has no layers and tells no right click or drag; `gr.ImageEditor` sends
the whole picture to the server for each stroke and draws no outlines. Viewer libraries (OpenSeadragon, Cornerstone,
Niivue) bring 0.3 to 2 MB for volumes and tiles that one ultrasound image does not have, and would still need the
prompts, undo and redo written for them. A canvas and about 500 lines of plain JavaScript do it, without a build step,
and nothing is fetched from elsewhere.

Panning, zooming and layers never ask the server. Outlines come as curves, not as pixels: they are smooth at any zoom.
"""

from pathlib import Path

import gradio as gr

HERE = Path(__file__).resolve().parent


def viewer(name: str) -> gr.HTML:
    """
    Shows what [`viewer_value`] returns.

    Events: `opened` (a file was dropped, pasted or picked), `guided` (clicks, box and strokes as they are now),
    `framed` (another frame of a clip is looked at), `calibrated` (a line of known length was drawn).

    Args:
        name (`str`): Its id in the page.
    """
    component = gr.HTML(
        value={},
        html_template=(HERE / "viewer.html").read_text(),
        css_template=(HERE / "viewer.css").read_text(),
        js_on_load=(HERE / "viewer_drawing.js").read_text() + (HERE / "viewer.js").read_text(),
        apply_default_css=False,
        elem_id=name,
    )
    component.api_info = lambda: {"type": "object"}
    return component
