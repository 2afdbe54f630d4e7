"""`mner demo`: a local page to try a model: type a post, drop an image, see the entities."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mner.errors import MissingDependencyError
from mner.html import COLOURS_OF_PAGE
from mner.tagger.post import Post
from mner.tagger.preprocessor import ImageWarning
from mner.tagger.render import Rendering, pictures_of, post_html
from mner.tagger.tagger import Tagger

if TYPE_CHECKING:
    import gradio

MAX_TEXT = 20_000
"""Characters of a post that the page takes."""

HEADS = ("text", "type", "probability", "start", "end")

FONT = ("system-ui", "-apple-system", "Segoe UI", "Helvetica", "Arial", "sans-serif")
SHADES = {
    "ground": (
        *("body_background_fill", "background_fill_primary", "input_background_fill"),
        "table_even_background_fill",
    ),
    "raised": (
        *("background_fill_secondary", "block_background_fill", "block_label_background_fill", "panel_background_fill"),
        *("table_odd_background_fill", "button_secondary_background_fill"),
    ),
    "letters": (
        *("body_text_color", "block_title_text_color", "block_label_text_color", "table_text_color"),
        *("button_secondary_text_color", "button_secondary_text_color_hover"),
    ),
    "link": (
        *("border_color_accent", "input_border_color_focus", "link_text_color"),
        *("link_text_color_active", "link_text_color_hover", "link_text_color_visited"),
        *("button_primary_background_fill", "button_primary_background_fill_hover", "button_primary_border_color"),
    ),
}
"""What of gradio's page has which colour of our style sheet. What is not named here is made of these."""
MIXED = {25: ("border_color_primary", "block_border_color", "input_border_color", "table_border_color"),
         75: ("body_text_color_subdued", "block_info_text_color", "input_placeholder_color"),
         8: ("button_secondary_background_fill_hover", "color_accent_soft")}  # fmt: skip
"""What has this share, in percent, of the letters' colour over the ground's."""

CSS = """
.gradio-container { width: 100%; max-width: 66em !important; margin: 0 auto !important; }
#marked .mner { padding: 0; }
#marked .mner:has(> .pictures) { display: block; }
#marked .pictures { margin-top: 1em; }
button:focus-visible, textarea:focus-visible, a:focus-visible {
  outline: 3px solid var(--color-accent) !important; outline-offset: 1px; }
@media (max-width: 40em) {
  #entities th, #entities td, #entities .cell-wrap { padding: 0.3em 0.2em !important; font-size: 0.8rem; }
  #entities th, #entities th * { font-size: 0.7rem !important; } }
"""


def answer(tagger: Tagger, text: str | None, image: str | None, *contexts: str | None) -> tuple[str, list[list[Any]]]:
    """A post as HTML, and its entities as rows of a table.

    Args:
        tagger: The tagger.
        text: What was typed.
        image: Path of the image that was dropped.
        contexts: A text for each of the model's context sources.
    """
    given = None if not any(contexts) else [context or "" for context in contexts]
    post = Post((text or "")[:MAX_TEXT], image=image or None, context=given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImageWarning)  # it is on the page
        (prepared,) = tagger.prepare([post])
        (tagged,) = tagger.finish([prepared])
        pictures = pictures_of(tagger.decoder, tagger.sight, prepared, tagged)
    rows = [[entity.text, entity.type, round(entity.score, 4), entity.start, entity.end] for entity in tagged]
    return Rendering([post_html(tagged, tagger.sources, pictures)])._repr_html_(), rows


def look() -> dict[str, Any]:
    """The page's colours, those of our style sheet light and dark, as options of `launch`."""
    import gradio

    light, dark = COLOURS_OF_PAGE
    colours = {}
    for end, of in (("", light), ("_dark", dark)):
        for name, places in SHADES.items():
            colours.update({place + end: of[name] for place in places})
        for share, places in MIXED.items():
            mixed = f"color-mix(in srgb, {of['letters']} {share}%, {of['ground']})"
            colours.update({place + end: mixed for place in places})
        colours["button_primary_text_color" + end] = of["ground"]
        colours["button_primary_text_color_hover" + end] = of["ground"]
    colours["color_accent"] = colours["loader_color"] = "*border_color_accent"  # these have no dark one
    theme = gradio.themes.Base(font=FONT, font_mono=("ui-monospace", "Consolas", "monospace"))
    return {"theme": theme.set(**colours), "css": CSS}


def build(tagger: Tagger, title: str = "mner") -> gradio.Blocks:
    """The page.

    Args:
        tagger: The tagger.
        title: Its title.

    Raises:
        MissingDependencyError: If gradio is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing is sent anywhere
    try:
        import gradio
    except ImportError:
        raise MissingDependencyError(
            "Expected gradio for the demo, but it is not installed; `pip install 'mner[demo]'`"
        ) from None
    types = ", ".join(dict.fromkeys(label[2:] for label in tagger.labels if label != "O"))
    with gradio.Blocks(title=title, analytics_enabled=False) as page:
        gradio.Markdown(f"## {title}\nFinds {types} in a post ({type(tagger.model).__name__}).")
        with gradio.Row():
            with gradio.Column():
                text = gradio.Textbox(
                    label="Post",
                    placeholder="Shift+Enter tags it",
                    lines=4,
                    max_length=MAX_TEXT,
                    autofocus=True,
                    elem_id="post",
                )
                image = gradio.Image(
                    label="Image", type="filepath", image_mode=None, sources=["upload", "clipboard"], height=240
                )
                contexts = [gradio.Textbox(label=f"Context: {source}") for source in tagger.sources]
                button = gradio.Button("Tag", variant="primary", elem_id="tag")
            with gradio.Column(scale=2):
                marked = gradio.HTML(elem_id="marked")
                table = gradio.Dataframe(
                    headers=list(HEADS),
                    label="Entities",
                    interactive=False,
                    wrap=True,
                    column_widths=["28%", "15%", "27%", "15%", "15%"],
                    elem_id="entities",
                )

        def tag(text: str | None, image: str | None, *contexts: str | None) -> tuple[str, list[list[Any]]]:
            return answer(tagger, text, image, *contexts)

        given: Sequence[Any] = [text, image, *contexts]
        for event in (button.click, text.submit):
            event(tag, inputs=list(given), outputs=[marked, table], concurrency_limit=1)
    return page


def demo(
    checkpoint: str,
    captioner: str | None = None,
    image_weights: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    open_browser: bool = False,
    device: str = "auto",
) -> int:
    """Serve a page on this machine: type a post, drop an image, see the entities.

    Args:
        checkpoint: The checkpoint that `mner fit` wrote, or the folder or Hub name of a shared model.
        captioner: Image-to-text model for posts without context, if the model was trained on captions.
        image_weights: File of the weights of what made the model's image features.
        host: Address to listen at; the default is for this machine alone.
        port: Port to listen at.
        open_browser: Open the page in a browser.
        device: `auto`, `cpu`, `cuda`, ...

    Returns:
        Exit code 0, once it is stopped.

    Raises:
        MissingDependencyError: If gradio is not installed.
        CheckpointError: If the model cannot be used.
    """
    tagger = Tagger.load(checkpoint, captioner=captioner, image_weights=image_weights, device=device)
    page = build(tagger, Path(checkpoint).name)
    page.launch(
        server_name=host, server_port=port, inbrowser=open_browser, share=False, max_file_size="20mb", ssr_mode=False,
        **look(),
    )  # fmt: skip
    return 0
