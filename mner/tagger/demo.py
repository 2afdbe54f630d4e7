"""`mner demo`: a local page to try a model: type a post, drop an image, see the entities."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mner.errors import MissingDependencyError
from mner.tagger.post import Post
from mner.tagger.preprocessor import ImageWarning
from mner.tagger.render import Rendering, pictures_of, post_html
from mner.tagger.tagger import Tagger

if TYPE_CHECKING:
    import gradio

MAX_TEXT = 20_000
"""Characters of a post that the page takes."""

HEADS = ("text", "type", "probability", "start", "end")


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
                text = gradio.Textbox(label="Post", lines=4, max_length=MAX_TEXT, autofocus=True, elem_id="post")
                image = gradio.Image(
                    label="Image", type="filepath", image_mode=None, sources=["upload", "clipboard"], height=240
                )
                contexts = [gradio.Textbox(label=f"Context: {source}") for source in tagger.sources]
                button = gradio.Button("Tag", variant="primary", elem_id="tag")
            with gradio.Column(scale=2):
                marked = gradio.HTML(elem_id="marked")
                table = gradio.Dataframe(headers=list(HEADS), label="Entities", interactive=False)

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
        server_name=host, server_port=port, inbrowser=open_browser, share=False, max_file_size="20mb", ssr_mode=False
    )
    return 0
