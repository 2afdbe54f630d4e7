"""Models for ONNX Runtime: text encoder, fusion and label scores as one graph, with the CRF beside it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mner.data.tokenizer import PostTokenizer
from mner.data.word_splitter import Word
from mner.encoders.characters import padded_characters
from mner.errors import CheckpointError
from mner.files import output_folder
from mner.fusion.base import FusionModule
from mner.nn.recurrent import ONNX
from mner.tagger.decoder import Decoder
from mner.tagger.engines import EXPORT, GRAPH, TRANSITIONS, Exported, require
from mner.tagger.folder import PLAIN
from mner.tagger.hub import save_parts
from mner.tagger.image_processor import Seen, Sight
from mner.tagger.sections import Section

TOLERANCE = 1e-4
"""Most that a label score may differ from PyTorch's."""
_TEXT = ("token_ids", "token_mask", "segment_ids", "word_starts", "word_mask")
_POSTS = (
    ("Anna visits Old Town", "a dog in a park"),
    ("hi", ""),
    ("RT Bo : see you all in the big city of lights tonight , they said !", "two people , one of them in red"),
)


class Exportable(Protocol):
    """What an export needs of a `Tagger`."""

    model: FusionModule
    tokenizer: PostTokenizer
    sight: Sight
    sources: list[str]
    scores: dict[str, float]
    licence: str | None


def export_onnx(tagger: Exportable, folder: str | os.PathLike[str]) -> float:
    """Write a model as a folder that `Tagger.from_onnx` loads.

    The graph takes what a `Batch` holds (word pieces, and the image or its features) and gives label scores. Batch,
    length and number of regions may be any. What decodes them, the CRF, is not in the graph: Viterbi has no place in
    ONNX. A strategy can be exported if `torch.export` can follow its `emissions` and if it decodes as `FusionModule`
    does; all of mner's can.

    Args:
        tagger: A tagger with the model and its tokeniser.
        folder: The folder; made if it is not there.

    Returns:
        The largest difference between the graph's label scores and PyTorch's, on posts that it was not traced with.

    Raises:
        MissingDependencyError: If ONNX is not installed.
        CheckpointError: If the model cannot be exported, or the graph gives other scores.
    """
    require(*EXPORT)
    model = tagger.model
    if not isinstance(model, FusionModule):
        raise CheckpointError("Expected a model of PyTorch, but it is exported already")
    plain = {name: getattr(FusionModule, name) for name in ("posterior", "decode", "entity_scores")}
    own = [name for name, method in plain.items() if getattr(type(model), name) is not method]
    if own:
        raise CheckpointError(
            f"{type(model).__name__} has its own `{own[0]}`, which would be lost in a graph of scores"
        )
    if model.label_sets:
        raise CheckpointError("Expected a model with one list of labels, but got label sets: a graph has one head")
    if model.needs:
        raise CheckpointError(
            f"{type(model).__name__} needs {', '.join(sorted(model.needs))}, for which a graph has no inputs"
        )
    with output_folder(folder) as place:
        return _export(tagger, model, place)


def _export(tagger: Exportable, model: FusionModule, place: Path) -> float:
    device = model.device
    model.cpu()
    try:
        batches = probe_batches(tagger)
        _trace(model, batches[0], place / GRAPH)
        save_parts(
            model,
            place,
            tagger.scores,
            tagger.licence,
            tagger.tokenizer,
            {"mner_onnx": 1, PLAIN: tagger.tokenizer.is_plain()},
        )
        from safetensors.torch import save_file

        save_file({name: value.detach().clone() for name, value in model.crf.state_dict().items()}, place / TRANSITIONS)
        difference = _difference(model, Exported(place), batches)
    finally:
        model.to(device)
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"The graph gives label scores that differ by {difference:.2g} from PyTorch's; expected at most "
            f"{TOLERANCE:g}. It was not kept"
        )
    return difference


class _Graph(nn.Module):
    """Emissions from the tensors of a batch, in order of their names."""

    def __init__(self, model: FusionModule, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: Tensor) -> Tensor:
        batch: Any = dict(zip(self.names, tensors, strict=True))
        return self.model.emissions(batch)


def _trace(model: FusionModule, batch: Mapping[str, Tensor], path: Path) -> None:
    names = list(batch)
    # What belongs to the batch may be any: posts, pieces, words, regions, characters.
    free = {"has_image": 1, "image": 1, "characters": 3}
    shapes = [dict.fromkeys(range(free.get(name, 2)), torch.export.Dim.DYNAMIC) for name in names]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                _Graph(model, names).eval(),
                tuple(batch.values()),
                input_names=names,
                output_names=["emissions"],
                dynamic_shapes=(tuple(shapes),),
                custom_translation_table=ONNX,
                dynamo=True,
                verbose=False,
            )
            program.save(path)
    except Exception as error:  # whatever torch.export and its translation stumble over
        reason = [line for line in str(error).splitlines() if line.startswith("<class")] or str(error).splitlines()[:1]
        raise CheckpointError(f"{type(model).__name__} cannot be exported: {' '.join(reason)}") from error


def probe_batches(tagger: Exportable) -> list[dict[str, Tensor]]:
    """What to trace with and what to compare on: posts of several lengths, with and without image and context."""
    model = tagger.model
    generator = torch.Generator().manual_seed(0)
    decoder = Decoder(model, tagger.tokenizer, torch.device("cpu"))
    pixels = tagger.sight.transform.size if tagger.sight.transform is not None else 0
    own = getattr(model, "image_encoder", None) is not None

    def seen(regions: int) -> Seen:
        if not model.uses_image or not regions:
            return Seen()
        if own:
            return Seen(image=torch.randn(3, pixels or 224, pixels or 224, generator=generator))
        return Seen(regions=torch.randn(regions, model.region_width, generator=generator).numpy())

    def batch(*regions: int) -> dict[str, Tensor]:
        sections = [
            Section(0, [Word(word, 0, 0) for word in text.split()], (context,) if tagger.sources else (), seen(count))
            for (text, context), count in zip(_POSTS, regions, strict=False)
        ]
        made: dict[str, Any] = dict(decoder.batch([decoder.items(section)[0] for section in sections]))
        names = list(_TEXT)
        encoder = model.text_encoder
        if encoder.word_vectors.mean:
            names.append("word_ends")
        if hasattr(model, "characters") or encoder.reads_characters or encoder.word_vectors.characters:
            made["characters"] = padded_characters(made["words"], made["word_mask"].shape[1])
            names.append("characters")
        if model.uses_image:
            names += ["image", "has_image"] if own else ["regions", "region_mask"]
        return {name: made[name] for name in names if name in made}

    # The first has 2 or more of everything, which torch.export needs; the others have 1 of something.
    return [batch(3, 0, 2), batch(1), batch(0), batch(0, 1), batch(0, 4, 0)]


def _difference(model: FusionModule, exported: Exported, batches: list[dict[str, Tensor]]) -> float:
    worst = 0.0
    for tensors in batches:
        batch: Any = tensors
        with torch.no_grad():
            expected = model.emissions(batch)
        found = torch.from_numpy(exported.label_scores(batch))
        real = tensors["word_mask"]
        worst = max(worst, float((found - expected)[real].abs().max()))
    return worst
