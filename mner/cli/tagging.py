"""The commands on new posts: `mner tag`, `mner show`."""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from mner.errors import DataNotFoundError, MNERError
from mner.files import HTML_MARK, STANDARD, digest, refuse_foreign
from mner.html import escaped


def show(
    input: str,
    checkpoint: str | None = None,
    output: Path = Path("entities.html"),
    images: Path | None = None,
    context: list[str] | None = None,
    captioner: str | None = None,
    image_weights: Path | None = None,
    count: int = 50,
    attention: bool = True,
    device: str = "auto",
) -> int:
    """Draw posts with their entities, images and attention as a page that needs no other file.

    Args:
        input: File of JSON lines or a folder, as for `mner tag`.
        checkpoint: The checkpoint that `mner fit` wrote, or the folder or Hub name of a shared model.
        output: The page, a new one or one that mner drew; `-` is the standard output.
        images: Folder with the images that the input names.
        context: Files of context texts, one for each source of the model, in order of training.
        captioner: Image-to-text model for posts without context.
        image_weights: File of the weights of what made the model's image features.
        count: Most posts on the page.
        attention: Draw attention over the images.
        device: `auto`, `cpu`, `cuda`, ...

    Returns:
        Exit code 0.

    Raises:
        DataNotFoundError: If there is no input.
        CheckpointError: If the model cannot be used.
    """
    from mner.tagger.bulk_input import Images, from_folder, from_lines, sources_of
    from mner.tagger.preprocessor import ImageWarning
    from mner.tagger.render import Rendering
    from mner.tagger.tagger import Tagger

    source = Path(input)
    if checkpoint is None or not source.exists():
        missing = "--checkpoint" if checkpoint is None else f"a file or folder at {input}"
        raise DataNotFoundError(f"Expected {missing}, but got none")
    refuse_foreign(output, HTML_MARK, [source, *_given_files(checkpoint, context, images, image_weights)])
    options: dict[str, Any] = {"captioner": captioner, "image_weights": image_weights, "device": device}
    tagger = Tagger.load(checkpoint, **options)
    texts = sources_of(context or ())
    parts: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImageWarning)  # each is on the page
        if source.is_dir():
            given = from_folder(source, Images(images or source), texts)
            parts = _drawn(tagger, islice(given, count), attention)
        else:
            with source.open("rb") as stream:
                parts = _drawn(tagger, islice(from_lines(stream, input, Images(images), texts), count), attention)
    title = f"Entities of {source.name}"
    if str(output) == STANDARD:
        sys.stdout.write(Rendering(parts).page(title))
    page = "the standard output" if str(output) == STANDARD else Rendering(parts).save(output, title=title)
    print(f"{len(parts)} posts drawn on {page}", file=sys.stderr)
    return 0


def _drawn(tagger: Any, given: Iterable[Any], attention: bool) -> list[str]:
    parts = []
    for one in given:
        head = f"<div class='beside'>{escaped(f'post {one.number}' if one.id is None else one.id)}"
        if one.post is None:
            parts.append(f"<div class='mner'>{head}: {escaped(one.error)}</div></div>")
            continue
        problem = f"<br>The image was not used: {escaped(one.image_problem)}" if one.image_problem else ""
        drawn = tagger.render(one.post, attention=attention).parts[0]
        parts.append(f"<div class='mner'>{head}{problem}</div>{drawn}</div>")
    return parts


def tag(
    input: str,
    checkpoint: str | None = None,
    output: str = STANDARD,
    format: Literal["auto", "jsonl", "conll"] = "auto",
    images: Path | None = None,
    context: list[str] | None = None,
    captioner: str | None = None,
    image_weights: Path | None = None,
    words: Literal["auto", "twitter2015", "twitter2017", "treebank", "whitespace", "characters"] = "auto",
    batch_size: int = 32,
    device: str = "auto",
    label_set: str | None = None,
) -> int:
    """Tag posts.

    The input is JSON lines, `{"id"?, "text" or "tokens", "image"?, "context"?}`, or a folder with a .txt file for each
    post and its image beside it under the same name. Run again with the same output file, it goes on where it stopped;
    OUTPUT.mner.json says with which input, model and options, and with others it is refused. Other fields of a post
    stay as they are; a post without id gets none, but `number`, its line. A post that cannot be read or tagged is
    written out with its reason, and so is an image that could not be used.

    Args:
        input: File of JSON lines, a folder, or `-` for lines from the standard input.
        checkpoint: The checkpoint that `mner fit` wrote, or the folder or Hub name of a shared model.
        output: File to write, or `-` for the standard output.
        format: `jsonl`: a line for each post; `conll`: a line for each word, and bad posts in OUTPUT.errors.jsonl.
            `auto` goes by the suffix of the output (.conll or .txt).
        images: Folder with the images that the input names; for a folder as input it is that folder, if not given.
            Images outside of it are not opened.
        context: Files of context texts, one for each source of the model, in order of training.
        captioner: Image-to-text model (name or folder) for posts without context, if the model was trained on captions.
        image_weights: File of the weights of what made its image features, if the model was trained on stored ones.
        words: How text is split into words; `auto`: as the training data are.
        batch_size: Posts in a batch.
        device: `auto`, `cpu`, `cuda`, ...
        label_set: Whose labels to tag with, of a model that was trained on several data sets; if not given, the first.

    Returns:
        Exit code: 0, also if there were bad posts; 1 if the reader of the output went away; 130 if interrupted.

    Raises:
        DataNotFoundError: If there is no input.
        DataFormatError: If the output file holds something else.
        CheckpointError: If the model cannot be used.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from mner.tagger.bulk import Sink, run
    from mner.tagger.bulk_input import Images, from_folder, from_lines, sources_of, text_files
    from mner.tagger.tagger import AHEAD, Tagger

    if checkpoint is None:
        raise DataNotFoundError("Expected --checkpoint, the file that `mner fit` wrote, but got none")
    chosen = _by_suffix(output) if format == "auto" else format
    options: dict[str, Any] = {"captioner": captioner, "image_weights": image_weights, "batch_size": batch_size}
    options |= {"label_set": label_set} if label_set else {}
    with ExitStack() as stack:
        source = Path(input)
        is_file = input != STANDARD and source.is_file()
        if input != STANDARD and not source.exists():
            raise DataNotFoundError(f"No input at {input}: expected a file of JSON lines, a folder, or - for lines")
        sources = sources_of(context or ())
        if input != STANDARD and source.is_dir():
            place = Path(output)
            if output != STANDARD and place.suffix.lower() == ".txt" and place.resolve().parent == source.resolve():
                raise MNERError(f"Expected an output outside of {source}, where {output} would be a post; name another")
            total: int | None = len(text_files(source))
            found = Images(images or source)
            given = from_folder(source, found, sources)
        else:
            stream = sys.stdin.buffer if input == STANDARD else stack.enter_context(source.open("rb"))
            # Of what is no file, such as a pipe, counting would take all.
            total = _count(source) if is_file else None
            found = Images(images)
            given = from_lines(stream, "<stdin>" if input == STANDARD else input, found, sources)
        files = _given_files(checkpoint, context, images, image_weights)
        facts = {
            "input": _identity(source, is_file) if input != STANDARD else STANDARD,
            "model": digest(checkpoint),
            "context": [digest(file) for file in context or ()],
            "images": None if images is None else str(images.resolve()),
            "captioner": captioner,
            "image_weights": None if image_weights is None else digest(image_weights),
            "words": words,
        }
        facts |= {"label_set": label_set} if label_set else {}
        read = files if input == STANDARD else [source, *files]
        sink = stack.enter_context(Sink(output, chosen, facts, read))
        tagger = Tagger.load(checkpoint, words=None if words == "auto" else words, device=device, **options)
        columns = TextColumn("tagging"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        progress = stack.enter_context(Progress(*columns, console=Console(file=sys.stderr)))
        bar = progress.add_task("", total=total)
        try:
            # Lines that come one by one are tagged as soon as there is a batch of them.
            ahead = AHEAD if is_file or source.is_dir() else 1
            run(tagger, given, sink, lambda count: progress.update(bar, advance=count), ahead)
        except BrokenPipeError:
            # Whoever read the output has gone, as `head` does. Python would complain once more when it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except KeyboardInterrupt:
            print("stopped; run it again with the same output file to go on", file=sys.stderr)
            return 130
    print("\n".join(filter(None, [sink.report(), found.report()])), file=sys.stderr)
    return 0


def _given_files(checkpoint: str, context: list[str] | None, *more: Path | None) -> list[str | Path]:
    return [checkpoint, *(context or ()), *(path for path in more if path is not None)]


def _identity(source: Path, is_file: bool) -> str:
    """What tells one input from another, though posts may be added to it or mended: its place and its first line."""
    if not is_file:
        return str(source.resolve()) if source.is_dir() else STANDARD  # a pipe has another name each time
    with source.open("rb") as stream:
        first = stream.readline(1 << 16)
    return f"{source.resolve()} ({hashlib.sha256(first).hexdigest()[:12]})"


def _by_suffix(output: str) -> Literal["jsonl", "conll"]:
    return "conll" if Path(output).suffix.lower() in (".conll", ".txt") else "jsonl"


def _count(path: Path) -> int:
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def export(checkpoint: str, out: Path) -> int:
    """Write a model for ONNX Runtime, and check that it gives the same label scores.

    Args:
        checkpoint: The checkpoint that `mner fit` wrote, or the folder or Hub name of a shared model.
        out: Folder to write: model.onnx, crf.safetensors, config.json, the tokeniser's files.

    Returns:
        Exit code 0.

    Raises:
        MissingDependencyError: If ONNX is not installed.
        CheckpointError: If the model cannot be exported, or the graph gives other scores.
    """
    from mner.tagger.engines import GRAPH
    from mner.tagger.onnx import export_onnx
    from mner.tagger.tagger import Tagger

    if out.exists() and not out.is_dir():
        raise DataNotFoundError(f"Expected a folder to write to, but {out} is a file")
    difference = export_onnx(Tagger.load(checkpoint, device="cpu"), out)
    print(f"{out / GRAPH}: label scores differ by at most {difference:.1e} from PyTorch's", file=sys.stderr)
    return 0
