"""How the Space looks: words at the top, theme, legends, and the table of measurements."""

from pathlib import Path

import gradio as gr

HERE = Path(__file__).resolve().parent
TITLE = "SF-RecSAM: breast-ultrasound lesion segmentation"
HEADER = """
# SF-RecSAM
Outlines lesions in breast ultrasound, shows where it is unsure, and corrects itself there.
"""
NOTICE = """
**Research use only. Not a medical device, not for diagnosis.**
Your images are processed on this server, kept for this visit only, and deleted when you leave.
"""
THEME = gr.themes.Default(
    primary_hue=gr.themes.colors.blue,
    neutral_hue=gr.themes.colors.slate,
    font=["system-ui", "sans-serif"],
    font_mono=["system-ui", "sans-serif"],
    text_size=gr.themes.sizes.text_md,
)
CSS = (HERE / "page.css").read_text()
HEAD = f"""
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>  /* Gradio confines CSS to what lies inside the page's main column; this is about that column itself. */
.gradio-container > .app {{ max-width: min(1320px, 100vw) !important; box-sizing: border-box; }}
.gradio-container > .app > .wrap, .gradio-container main, main > .column {{ min-width: 0; max-width: 100%; }}
.rubber-band {{ position: fixed; z-index: 1000; pointer-events: none; border: 2px dashed white;
                outline: 1px solid #0008; }}
footer .divider {{ display: none; }}
@media (max-width: 768px) {{ .gradio-container > .app {{ padding: 16px !important; }} }}
</style>
<script>{(HERE / "page.js").read_text()}</script>
"""
HEAR_BOX = "document.addEventListener('box-drawn', event => trigger('drawn', event.detail));"
FOLD_CONTROLS = "() => ({__type__: 'update', open: window.innerWidth > 768})"

OUTLINE = '<span class="swatch" style="--swatch:#ffc20a">outline of the lesion</span>'
FILLED = '<span class="swatch" style="--swatch:#ffc20a">lesion; move the line</span>'
CORRECTIONS = """<span class="swatch" style="--swatch:#1a85ff">added</span>
<span class="swatch" style="--swatch:#e66100">removed</span>
<span class="swatch" style="--swatch:#ffc20a">final outline</span>"""
UNCERTAINTY = '<span class="swatch scale">sure to unsure (0 to 1 bit)</span>'
PROMPTS = """<span class="swatch" style="--swatch:#1a85ff">plus: lesion</span>
<span class="swatch" style="--swatch:#e66100">minus: background</span>
<span class="swatch" style="--swatch:#ffffff">box</span>
<span class="swatch" style="--swatch:#ffc20a">outline</span>"""
ERRORS = """<span class="swatch" style="--swatch:#ffc20a">outline</span>
<span class="swatch" style="--swatch:#1a85ff">marked, but not in the reference</span>
<span class="swatch" style="--swatch:#e66100">missed</span>"""

MEASUREMENTS = """<table>{{#each value}}
<tr><th scope="row">{{this.[0]}}</th><td>{{this.[1]}}</td></tr>
{{/each}}</table>"""


def title(words: str, legend: str = "") -> str:
    """What stands above a picture."""
    return f'<div class="picture-title"><h3>{words}</h3><p>{legend}</p></div>'


def measurements(name: str) -> gr.HTML:
    """A table whose value is a list of pairs: what was measured, and how much."""
    table = gr.HTML(
        value=[],
        html_template=MEASUREMENTS,
        js_on_load=None,
        elem_id=name,
        elem_classes="measurements",
    )
    table.api_info = lambda: {"type": "array", "items": {"type": "array", "items": {"type": "string"}}}
    return table
