"""The commands on new posts: `mner tag`, `mner show`."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from mner.cli.suggestions import UsageError, near
from mner.data.formats.records import Reading
from mner.errors import DataNotFoundError, MNERError
from mner.files import HTML_MARK, STANDARD, digest, refuse_foreign, refuse_inputs
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

    The page shows those with a type, with doubtful entities, or that differ from gold, as its buttons say. Gold are the
    labels that the posts bring, in any format that mner reads.

    Args:
        input: File of posts or folder, as for `mner tag`; `-` for lines of the standard input.
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
    from mner.tagger.bulk_files import inputs_of, posts_from
    from mner.tagger.bulk_input import Images, sources_of
    from mner.tagger.preprocessor import ImageWarning
    from mner.tagger.render import Rendering
    from mner.tagger.tagger import Tagger

    source = Path(input)
    if checkpoint is None or not (input == STANDARD or source.exists()):
        missing = "--checkpoint" if checkpoint is None else f"a file or folder at {input}"
        raise DataNotFoundError(f"Expected {missing}, but got none")
    refuse_foreign(output, HTML_MARK, [source, *_given_files(checkpoint, context, images, image_weights)])
    options: dict[str, Any] = {"captioner": captioner, "image_weights": image_weights, "device": device}
    tagger = Tagger.load(checkpoint, **options)
    _keep_memory(tagger)
    texts = sources_of(context or ())
    parts: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImageWarning)  # each is on the page
        (one, *others) = inputs_of(input)
        found = Images(Path(one.name) if one.kind == "folder" and images is None else images)
        given = posts_from([one, *others], lambda _: found, texts)
        parts = _drawn(tagger, islice(given, count), attention)
    title = f"Entities of {'posts' if input == STANDARD else source.name}"
    if str(output) == STANDARD:
        sys.stdout.write(Rendering(parts).page(title))
    page = "the standard output" if str(output) == STANDARD else Rendering(parts).save(output, title=title)
    print(f"{len(parts)} posts drawn on {page}", file=sys.stderr)
    return 0


def _drawn(tagger: Any, given: Iterable[Any], attention: bool) -> list[str]:
    from mner.tagger.render import gold_of, pictures_of, post_html

    parts = []
    for one in given:
        head = f"<header>{escaped(f'post {one.number}' if one.id is None else one.id)}"
        if one.post is None:
            parts.append(f"{head}: {escaped(one.error)}</header>")
            continue
        if one.image_problem:
            head += f"<br>The image was not used: {escaped(one.image_problem)}"
        (prepared,) = tagger.prepare([one.post])
        (tagged,) = tagger.finish([prepared])
        gold = None
        if one.own.get("label") is not None:
            try:
                gold = gold_of(prepared, one.own["label"])
            except (ValueError, TypeError, AttributeError) as error:
                head += f"<br>Its labels are not shown: {escaped(str(error))}"
        pictures = pictures_of(tagger.decoder, tagger.sight, prepared, tagged, attention)
        parts.append(f"{head}</header>{post_html(tagged, tagger.sources, pictures, gold)}")
    return parts


def tag(
    input: list[str] | str,
    checkpoint: str | None = None,
    output: str = STANDARD,
    format: str = "auto",
    images: Path | None = None,
    context: list[str] | None = None,
    captioner: str | None = None,
    image_weights: Path | None = None,
    words: Literal["auto", "twitter2015", "twitter2017", "treebank", "whitespace", "characters"] = "auto",
    batch_size: int = 32,
    device: str = "auto",
    label_set: str | None = None,
    min_score: float = 0.0,
    input_format: str = "auto",
    fields: dict[str, str] | None = None,
    reading: Reading | None = None,
    names: list[str] | None = None,
    names_ignore_case: bool = False,
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "32-true",
    engine: Literal["auto", "torch", "onnx", "openvino", "compile"] = "torch",
    int8: bool = False,
    neighbours: Path | None = None,
) -> int:
    """Tag posts.

    The input is JSON lines, `{"id"?, "text" or "tokens", "image"?, "context"?}`; texts, one a line; a table of texts
    (CSV, TSV, Parquet); a file in any format of posts that mner reads; or a folder with a .txt file for each post and
    its image beside it under the same name. Several are read one after the other. Run again with the same output file,
    it goes on where it stopped; OUTPUT.mner.json says with which input, model and options, and with others it is
    refused. Other fields of a post stay as they are; a post without id gets none, but `number`, its line. A post that
    cannot be read or tagged is written out with its reason, and so is an image that could not be used.

    Args:
        input: Files, folders, or `-` for the standard input, which is JSON lines unless `input_format` says otherwise.
        checkpoint: The checkpoint that `mner fit` wrote, a shared model (folder or Hub name), or an exported folder.
        output: File to write, or `-` for the standard output.
        format: `jsonl`: a line for each post; `conll`: a line for each word, and bad posts in OUTPUT.errors.jsonl; or
            pre-annotations for labelstudio, prodigy, doccano, brat, spacy, or another format that `mner data convert`
            writes, made of OUTPUT.tagged.jsonl, which goes on where it stopped, when all posts are tagged. `auto` goes
            by the suffix of the output (.conll or .txt, .spacy, .parquet, .iob).
        images: Folder with the images that the input names; for a folder as input it is that folder, if not given.
            Images outside of it are not opened.
        context: Files of context texts, one for each source of the model, in order of training.
        captioner: Image-to-text model (name or folder) for posts without context, if the model was trained on captions.
        image_weights: File of the weights of what made its image features, if the model was trained on stored ones.
        words: How text is split into words; `auto`: as the training data are.
        batch_size: Most posts in a batch.
        device: `auto`, `cpu`, `cuda`, ...
        label_set: Whose labels to tag with, of a model that was trained on several data sets; if not given, the first.
        min_score: Entities with a lower score are left out, and counted.
        input_format: How the input is read: jsonl, text, csv, tsv, parquet, or a format of posts (conll, brat,
            label_studio ...). `auto` goes by suffix and content.
        fields: Which field or column is `text`, `words`, `id`, `image`, `context`: `--fields.text tweet`.
        reading: How formats of posts are read where they leave a choice.
        names: Lists of names that are always, or never, entities of a type: files with
            `NAME<TAB>always|never<TAB>TYPE`, or `TYPE=FILE` and `never:TYPE=FILE` for a name a line.
        names_ignore_case: Whether names are found in other case too.
        precision: What is computed in; `auto`: what the device does best, by a measurement of some milliseconds, and
            never slower than 32-true. Lower ones may give other entities.
        engine: What computes label scores; `auto`: the fastest of torch, onnx and openvino here that gives the same.
        int8: Whether `auto` and `onnx` may round weights to eight bits; then entities may differ.
        neighbours: File of training words (`mner neighbours`) whose labels are mixed into those of the model.

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
    from mner.tagger.bulk_files import inputs_of, posts_from
    from mner.tagger.bulk_input import Images, sources_of
    from mner.tagger.engines import GRAPH
    from mner.tagger.names import Names
    from mner.tagger.pre_annotations import WRITTEN, format_of, write_pre_annotations
    from mner.tagger.tagger import AHEAD, Tagger

    try:
        chosen = format_of(format, output)
    except MNERError as error:
        raise UsageError(f"{error}{near(format, WRITTEN)}") from None
    if checkpoint is None:
        raise DataNotFoundError("Expected --checkpoint, the file that `mner fit` wrote, but got none")
    inputs = inputs_of(input, input_format, fields)
    grows = chosen == "jsonl" or (chosen == "conll" and len(inputs) == 1)
    if not grows and output == STANDARD:
        raise MNERError(f"Expected --output FILE for {chosen}, which is written when all posts are tagged")
    sink_format: Any = chosen if grows else "jsonl"
    tagged = output if grows else f"{output.rstrip('/')}.tagged.jsonl"
    options: dict[str, Any] = {"captioner": captioner, "image_weights": image_weights, "batch_size": batch_size}
    options |= {"label_set": label_set, "min_score": min_score, "precision": precision}
    options |= {"engine": engine, "int8": int8, "neighbours": neighbours}
    options |= {"names": Names.read(names, names_ignore_case) if names else None}
    with ExitStack() as stack:
        sources = sources_of(context or ())
        for one in inputs:
            place = Path(output)
            in_it = one.kind == "folder" and place.resolve().parent == Path(one.name).resolve()
            if in_it and output != STANDARD and place.suffix.lower() == ".txt":
                raise MNERError(f"Expected an output outside of {one.name}, where {output} would be a post")
        shared = Images(images)
        own = {one.name: Images(Path(one.name)) for one in inputs if one.kind == "folder" and images is None}
        given = posts_from(inputs, lambda one: own.get(one.name, shared), sources, fields, reading)
        files = _given_files(checkpoint, context, images, image_weights, neighbours)
        model = digest(checkpoint)
        facts: dict[str, Any] = {
            "input": inputs[0].identity if len(inputs) == 1 else [one.identity for one in inputs],
            "model": model,
            "context": [digest(file) for file in context or ()],
            "images": None if images is None else str(images.resolve()),
            "captioner": captioner,
            "image_weights": None if image_weights is None else digest(image_weights),
            "words": words,
        }
        facts |= {"label_set": label_set} if label_set else {}
        facts |= {"min_score": min_score} if min_score else {}
        facts |= {"names": options["names"].digest} if names else {}
        facts |= {"fields": fields} if fields else {}
        facts |= {"input_format": input_format} if input_format != "auto" else {}
        facts |= {"reading": str(reading)} if reading else {}
        facts |= {"precision": precision} if precision != "32-true" else {}
        facts |= {"neighbours": digest(neighbours)} if neighbours else {}
        facts |= {"int8": True} if int8 else {}  # other engines give the same entities
        read = [*(Path(one.name) for one in inputs if one.name != STANDARD), *files]
        if not grows:
            refuse_inputs(output, read)
        sink = stack.enter_context(Sink(tagged, sink_format, facts, read))
        load = Tagger.from_onnx if (Path(checkpoint) / GRAPH).is_file() else Tagger.load
        tagger = load(checkpoint, words=None if words == "auto" else words, device=device, **options)
        _keep_memory(tagger)
        if precision == "auto":
            print(f"precision auto: {tagger.precision}", file=sys.stderr)
        if engine == "auto":
            print(f"engine auto: {tagger.engine}", file=sys.stderr)
        columns = TextColumn("tagging"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        progress = stack.enter_context(Progress(*columns, console=Console(file=sys.stderr)))
        counts = [one.count for one in inputs]
        bar = progress.add_task("", total=None if None in counts else sum(filter(None, counts)))
        try:
            # Lines that come one by one are tagged as soon as there is a batch of them.
            ahead = AHEAD if all(Path(one.name).is_file() or one.kind == "folder" for one in inputs) else 1
            run(tagger, given, sink, lambda count: progress.update(bar, advance=count), ahead)
        except BrokenPipeError:
            # Whoever read the output has gone, as `head` does. Python would complain once more when it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except KeyboardInterrupt:
            print("stopped; run it again with the same output file to go on", file=sys.stderr)
            return 130
    told = [sink.report(), shared.report(), *(one.report() for one in own.values())]
    print("\n".join(filter(None, told)), file=sys.stderr)
    if not grows:
        version = f"{type(tagger.model).__name__} {model[:12]}"
        count = write_pre_annotations(Path(tagged), Path(output), chosen, version)
        print(f"{count} posts written to {output} as {chosen}; all that is known is in {tagged}", file=sys.stderr)
    return 0


def _keep_memory(tagger: Any) -> None:
    from mner.runtime import keep_memory

    if not tagger.sight.blind:
        keep_memory()


def _given_files(checkpoint: str, context: list[str] | None, *more: Path | None) -> list[str | Path]:
    return [checkpoint, *(context or ()), *(path for path in more if path is not None)]


def export(
    checkpoint: str,
    out: Path,
    quantize: Literal["none", "dynamic", "static"] = "none",
    valid: str | None = None,
    max_loss: float = 0.5,
    images: Path | None = None,
    context: list[str] | None = None,
    image_weights: Path | None = None,
    calibration_posts: int = 128,
) -> int:
    """Write a model for ONNX Runtime, and check that it gives the same label scores.

    Args:
        checkpoint: The checkpoint that `mner fit` wrote, or the folder or Hub name of a shared model.
        out: Folder to write: model.onnx, crf.safetensors, config.json, the tokeniser's files.
        quantize: Round to eight bits: weights, and what is multiplied with them by its range in each batch (`dynamic`)
            or by that of the first posts of `valid` (`static`).
        valid: Posts with gold, on which the loss of F1 by rounding is measured.
        max_loss: Points of F1 (of 100) that rounding may cost; where it costs more, nothing is written.
        images: Folder with the images of these posts.
        context: Files of context texts of these posts, one for each source of the model, in order of training.
        image_weights: File of the weights of what made the model's image features.
        calibration_posts: How many posts `static` sees.

    Returns:
        Exit code 0.

    Raises:
        MissingDependencyError: If ONNX is not installed.
        CheckpointError: If the model cannot be exported, or the graph gives other scores.
        MNERError: If rounding costs more than `max_loss`.
    """
    from tempfile import TemporaryDirectory

    from mner.tagger.calibration import held_out
    from mner.tagger.engines import GRAPH
    from mner.tagger.onnx import export_onnx
    from mner.tagger.quantization import f1_of, feeds_of
    from mner.tagger.quantization import quantize as rounded_to
    from mner.tagger.tagger import Tagger

    if out.exists() and not out.is_dir():
        raise DataNotFoundError(f"Expected a folder to write to, but {out} is a file")
    if quantize == "none":
        difference = export_onnx(Tagger.load(checkpoint, device="cpu"), out)
        print(f"{out / GRAPH}: label scores differ by at most {difference:.1e} from PyTorch's", file=sys.stderr)
        return 0
    if valid is None:
        raise DataNotFoundError("Expected --valid, posts with gold on which the loss by rounding is measured")
    gold, posts = held_out(valid, images, context)
    with TemporaryDirectory() as scratch:
        whole, small = Path(scratch) / "whole", Path(scratch) / "small"
        export_onnx(Tagger.load(checkpoint, device="cpu"), whole)
        tagger = Tagger.from_onnx(whole, image_weights=image_weights)
        rounded_to(whole, small, quantize, feeds_of(tagger, posts[:calibration_posts]) if quantize == "static" else ())
        before = 100 * f1_of(tagger, posts, gold)
        after = 100 * f1_of(Tagger.from_onnx(small, image_weights=image_weights), posts, gold)
        held = f"{len(posts):,} posts of {Path(valid).name}"
        told = f"F1 on {held}: {after:.2f} with {quantize} int8, {before:.2f} without"
        if before - after > max_loss:
            raise MNERError(f"{told}; that is a loss of more than --max_loss {max_loss:g}, so that nothing was written")
        rounded_to(whole, out, quantize, feeds_of(tagger, posts[:calibration_posts]) if quantize == "static" else ())
    print(f"{out / GRAPH}: {told}", file=sys.stderr)
    return 0
