"""Exported models in eight bits, and what that costs in F1 on held-out posts."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mner.errors import CheckpointError
from mner.files import output_folder
from mner.labels import Span, spans
from mner.tagger.engines import EXPORT, GRAPH, Exported, require

if TYPE_CHECKING:
    from mner.tagger.post import Post

Tagger = Any  # `mner.tagger.Tagger`, which imports this
How = Literal["dynamic", "static"]
_ROUNDED = ["MatMul", "Gemm"]


def quantize(folder: Path, out: Path, how: How = "dynamic", feeds: Iterable[dict[str, Any]] = ()) -> None:
    """Write an exported model again, with the products of matrices in eight bits.

    Args:
        folder: What `export_onnx` wrote.
        out: The folder to write.
        how: `dynamic`: weights are rounded once, what is multiplied with them by its range in each batch. `static`: the
            ranges of the latter are those of `feeds`.
        feeds: Inputs of the graph, for `static`.

    Raises:
        MissingDependencyError: If ONNX is not installed.
        CheckpointError: If the graph cannot be rounded.
    """
    require(*EXPORT)
    from onnxruntime import quantization

    with output_folder(out) as place:
        for file in folder.iterdir():
            if file.is_file() and not file.name.startswith(".") and file.name != GRAPH:
                shutil.copy(file, place / file.name)
        try:
            inferred = place / "inferred.onnx"  # with all shapes, as ONNX Runtime wants it before
            quantization.quant_pre_process(folder / GRAPH, inferred, skip_symbolic_shape=True)
            common: dict[str, Any] = {"weight_type": quantization.QuantType.QInt8, "op_types_to_quantize": _ROUNDED}
            if how == "dynamic":
                quantization.quantize_dynamic(inferred, place / GRAPH, **common)
            else:
                reader: Any = _reader(iter(feeds))
                quantization.quantize_static(inferred, place / GRAPH, reader, **common)
            inferred.unlink()
        except Exception as error:  # ONNX Runtime's errors share no class but this
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(f"{folder / GRAPH} cannot be rounded to eight bits: {reason}") from error


def _reader(feeds: Iterator[dict[str, Any]]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # has no types
        def get_next(self) -> dict[str, Any] | None:
            return next(feeds, None)

    return Reader()


def feeds_of(tagger: Tagger, posts: Sequence[Post]) -> Iterator[dict[str, Any]]:
    """What the graph of an exported model gets for posts, batch by batch."""
    from mner.tagger.results import sections_of

    model: Any = tagger.model
    assert isinstance(model, Exported)
    for start in range(0, len(posts), tagger.batch_size):
        sections = sections_of(tagger.prepare(posts[start : start + tagger.batch_size]))
        items = [item for section in sections for item in tagger.decoder.items(section)]
        yield model.feeds(tagger.decoder.batch(items))


def f1_of(tagger: Tagger, posts: list[Post], gold: Sequence[Sequence[Span]]) -> float:
    """F1 of a tagger on posts that were given as words: both ends and the type of an entity have to be right."""
    right = named = known = 0
    for tagged, true in zip(tagger(posts), gold, strict=True):
        found = set(spans(tagged.tags))
        right, named, known = right + len(found & set(true)), named + len(found), known + len(set(true))
    return 2 * right / (named + known) if named + known else 0.0
