"""How the Space looks: words at the top, theme, legends, and the small pieces of HTML around the viewer."""

import base64
import io
from pathlib import Path
from typing import Any

import gradio as gr
import PIL.Image

HERE = Path(__file__).resolve().parent
THUMBNAIL = 176
TITLE = "SF-RecSAM: breast-ultrasound lesion segmentation"
HEADER = """
# SF-RecSAM
Outlines lesions in breast ultrasound, shows where it is unsure, and corrects itself there. **Research use only. Not a
medical device, not for diagnosis.** Your images stay on this server, are kept for this visit only, and are deleted
when you leave.
"""
THEME = gr.themes.Default(
    primary_hue=gr.themes.colors.blue,
    neutral_hue=gr.themes.colors.slate,
    font=["system-ui", "sans-serif"],
    font_mono=["system-ui", "sans-serif"],
    text_size=gr.themes.sizes.text_md,
).set(  # grays that can be read: at least 4.5 to 1
    button_primary_background_fill="#1457b0",
    button_primary_background_fill_dark="#1457b0",
    button_primary_background_fill_hover="#0f458e",
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_300",
    block_label_text_color="*neutral_700",
    block_title_text_color="*neutral_700",
)
CSS = (HERE / "page.css").read_text()
HEAD = """
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>  /* Gradio confines CSS to what lies inside the page's main column; this is about that column itself. */
.gradio-container > .app { max-width: min(1640px, 100vw) !important; box-sizing: border-box;
                           padding: 10px 20px !important; }
.gradio-container > .app > .wrap, .gradio-container main, main > .column { min-width: 0; max-width: 100%; }
footer .divider { display: none; }
@keyframes viewer-turn { to { transform: rotate(1turn); } }
@media (prefers-reduced-motion: reduce) { * { animation-duration: 3s !important; scroll-behavior: auto !important; } }
@media (max-width: 768px) { .gradio-container > .app { padding: 10px !important; } }
</style>
"""
FOLD_CONTROLS = "() => ({__type__: 'update', open: window.innerWidth > 768})"
ERRORS = """<span class="swatch" style="--swatch:#ffc20a">outline</span>
<span class="swatch" style="--swatch:#1a85ff">marked, but not in the reference</span>
<span class="swatch" style="--swatch:#e66100">missed</span>"""

MEASUREMENTS = """<table aria-label="Measurements">{{#each value}}
<tr><th scope="row">{{this.[0]}}</th><td>{{this.[1]}}</td></tr>
{{/each}}</table>"""
HEAD_LINE = """{{#if value}}<div class="head-line {{value.level}}" role="status"><h2>{{value.title}}</h2>
{{#each value.lines}}<p>{{this}}</p>{{/each}}</div>{{/if}}"""
SAMPLES = """<ul aria-label="Samples">{{#each value}}<li><button type="button" data-index="{{@index}}">
<img src="{{this.src}}" alt="" width="80" height="60"><span>{{this.label}}</span></button></li>{{/each}}</ul>"""
PICK = """element.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (!button) return;
  document.dispatchEvent(new Event('busy'));
  trigger('picked', {index: Number(button.dataset.index)});
});"""


def say_busy(inputs: int) -> str:
    """Marks the viewer as busy, and hands the inputs of an action on."""
    return f"(...given) => {{ document.dispatchEvent(new Event('busy')); return given.slice(0, {inputs}); }}"


def title(words: str, legend: str = "") -> str:
    """What stands above a picture."""
    return f'<div class="picture-title"><h3>{words}</h3><p>{legend}</p></div>'


def piece(template: str, name: str, value: Any = None, js_on_load: str | None = None) -> gr.HTML:
    """A piece of HTML filled with a value; whatever the value holds is shown as text."""
    html = gr.HTML(value=value, html_template=template, js_on_load=js_on_load, apply_default_css=False, elem_id=name)
    html.api_info = lambda: {"type": "array" if template is MEASUREMENTS else "object"}
    return html


def thumbnail(image: PIL.Image.Image) -> str:
    """A small picture as a data address, so that no file of the Space has to be served for it."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    written = io.BytesIO()
    small.save(written, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"
