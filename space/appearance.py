"""How the Space looks: words at the top, theme, style, and what makes it work without a mouse or eyes."""

import gradio as gr

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

CSS = """
.block.notice { border-left: 5px solid #e66100; padding: 10px 16px !important; border-radius: 6px;
                background: color-mix(in srgb, #e66100 9%, transparent); }
.picture-title h3 { margin: 0; font-size: 1.02em; font-weight: 650; }
.picture-title p { margin: 2px 0 0 !important; min-height: 1.5em; font-size: 0.88em;
                   color: var(--body-text-color-subdued); }
.swatch { margin-right: 12px; white-space: nowrap; }
.swatch::before { content: ""; display: inline-block; width: 0.8em; height: 0.8em; margin-right: 0.4em;
                  border-radius: 2px; background: var(--swatch); outline: 1px solid #8888; }
.swatch.scale::before { width: 4.5em; background: linear-gradient(90deg, #440154, #21918c, #fde725); }
#guide img { cursor: crosshair; }
:focus-visible { outline: 3px solid #1a85ff !important; outline-offset: 2px; }
@media (max-width: 768px) {
  .workspace { flex-direction: column; flex-wrap: nowrap !important; }
  .workspace > .column, .workspace .tabs { min-width: 0 !important; max-width: 100%; }
  .workspace .tabs { overflow-x: clip; }
  .workspace > .inputs { display: contents; }
  .workspace > .results { order: 2; }
  .workspace .controls { order: 3; }
}
"""

OUTLINE = '<span class="swatch" style="--swatch:#ffc20a">outline of the lesion</span>'
CORRECTIONS = """<span class="swatch" style="--swatch:#1a85ff">added</span>
<span class="swatch" style="--swatch:#e66100">removed</span>
<span class="swatch" style="--swatch:#ffc20a">final outline</span>"""
UNCERTAINTY = '<span class="swatch scale">sure to unsure (entropy, 0 to 1 bit)</span>'
PROMPTS = """<span class="swatch" style="--swatch:#1a85ff">plus: lesion</span>
<span class="swatch" style="--swatch:#e66100">minus: background</span>
<span class="swatch" style="--swatch:#ffffff">box</span>
<span class="swatch" style="--swatch:#ffc20a">outline</span>"""
ERRORS = """<span class="swatch" style="--swatch:#ffc20a">outline</span>
<span class="swatch" style="--swatch:#1a85ff">marked in vain</span>
<span class="swatch" style="--swatch:#e66100">missed</span>"""


def title(words: str, legend: str = "") -> str:
    """What stands above a picture."""
    return f'<div class="picture-title"><h3>{words}</h3><p>{legend}</p></div>'


# Gradio leaves the pictures of slider, gallery and samples without a text for those who do not see them.
HEAD = """
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>  /* Gradio confines CSS to what lies inside the page's main column; this is about that column itself. */
.gradio-container > .app { max-width: min(1320px, 100vw) !important; box-sizing: border-box; }
.gradio-container > .app > .wrap, .gradio-container main, main > .column { min-width: 0; max-width: 100%; }
@media (max-width: 768px) { .gradio-container > .app { padding: 16px !important; } }
</style>
<script>
function describePictures() {
  for (const picture of document.querySelectorAll("img")) {
    const block = picture.closest(".block");
    const label = block && block.querySelector("label, [data-testid=block-label], .label");
    const words = picture.closest("button")?.getAttribute("aria-label") || (label ? label.textContent.trim() : "");
    if (!picture.alt && words) picture.alt = words;
  }
}
new MutationObserver(describePictures).observe(document, {childList: true, subtree: true});
</script>
"""
