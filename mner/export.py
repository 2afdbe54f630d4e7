"""Models for ONNX Runtime: text encoder, fusion and label scores as one graph, with the CRF beside it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mner.crf import CRF
from mner.data.batch import Batch
from mner.decode import Decoder, Section
from mner.encoders.characters import characters_to_ids
from mner.errors import CheckpointError, DataNotFoundError, MissingDependencyError
from mner.fusion.base import FusionModule
from mner.hub import read_config, read_file, save_parts
from mner.labels import Span
from mner.nn.recurrent import ONNX
from mner.pictures import Seen
from mner.words import Word

if TYPE_CHECKING:
    from mner.tagger import Tagger

GRAPH, TRANSITIONS = "model.onnx", "crf.safetensors"
TOLERANCE = 1e-4
"""Most that a label score may differ from PyTorch's."""

_TEXT = ("token_ids", "token_mask", "segment_ids", "word_starts", "word_mask")
_POSTS = (
    ("Anna visits Old Town", "a dog in a park"),
    ("hi", ""),
    ("RT Bo : see you all in the big city of lights tonight , they said !", "two people , one of them in red"),
)


def export_onnx(tagger: Tagger, folder: str | os.PathLike[str]) -> float:
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
    _require("onnx", "onnxscript", "onnxruntime")
    model = tagger.model
    if not isinstance(model, FusionModule):
        raise CheckpointError("Expected a model of PyTorch, but it is exported already")
    own = [
        name for name in ("decode", "entity_scores") if getattr(type(model), name) is not getattr(FusionModule, name)
    ]
    if own:
        raise CheckpointError(
            f"{type(model).__name__} has its own `{own[0]}`, which would be lost in a graph of scores"
        )
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    device = model.device
    model.cpu()
    try:
        batches = _batches(tagger)
        _trace(model, batches[0], place / GRAPH)
        save_parts(model, place, tagger.scores, tagger.licence, tagger.tokenizer, {"mner_onnx": 1})
        from safetensors.torch import save_file

        save_file({name: value.detach().clone() for name, value in model.crf.state_dict().items()}, place / TRANSITIONS)
        difference = _difference(model, Exported(place), batches)
    finally:
        model.to(device)
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"The graph in {place} gives label scores that differ by {difference:.2g} from PyTorch's; expected at most "
            f"{TOLERANCE:g}. Do not use it"
        )
    return difference


class Exported(nn.Module):
    """An exported model, in the place of a `FusionModule` in a `Tagger`.

    Args:
        folder: What `export_onnx` wrote.

    Raises:
        MissingDependencyError: If ONNX Runtime is not installed.
        CheckpointError: If the folder holds no exported model.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__()
        _require("onnxruntime")
        import onnxruntime
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        place = Path(folder)
        config = read_config(place)
        if config.get("mner_onnx") != 1:
            raise CheckpointError(f"Expected a model that `mner export` wrote in {place}, but it is another")
        options = config["hyper_parameters"]
        data = dict(config.get("data") or {})
        data["tokenizer"] = {file: read_file(place, file) for file in config["tokenizer_files"]}
        self.restored = {"data": data}
        self.labels = list(options["labels"])
        self.hparams = dict(options)
        try:
            session_options = onnxruntime.SessionOptions()
            session_options.log_severity_level = 3
            providers = onnxruntime.get_available_providers()
            self.session: Any = onnxruntime.InferenceSession(str(place / GRAPH), session_options, providers=providers)
            self.crf = CRF(len(self.labels), True, self.labels, bool(options.get("constrain", True)))
            self.crf.load_state_dict(load_file(place / TRANSITIONS))
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"{GRAPH} and {TRANSITIONS} in {place} cannot be used: {error}") from error
        except Exception as error:  # ONNX Runtime's errors share no class but this
            raise CheckpointError(f"{GRAPH} in {place} is no graph that can be run: {error}") from error
        self.inputs = {entry.name: entry for entry in self.session.get_inputs()}
        self.uses_image = bool({"image", "regions"} & set(self.inputs))
        if "image" in self.inputs:
            self.image_encoder = SimpleNamespace(name=options["image_encoder"])

    def emissions(self, batch: Batch) -> Tensor:
        """Label scores (b, w, l) of each word."""
        given: dict[str, Any] = dict(batch)
        b = len(given["token_ids"])
        if "characters" in self.inputs and "characters" not in given:
            given["characters"] = _characters(given["words"], given["word_mask"].shape[1])
        if "image" in self.inputs and "image" not in given:
            size = self.inputs["image"].shape[-1]
            given["image"] = torch.zeros(b, 3, size, size)
            given["has_image"] = torch.zeros(b, dtype=torch.bool)
        if "regions" in self.inputs and "regions" not in given:
            given["regions"] = torch.zeros(b, 1, self.inputs["regions"].shape[-1])
            given["region_mask"] = torch.zeros(b, 1, dtype=torch.bool)
        if "regions" in given:
            given["regions"] = given["regions"].float()
        feeds = {name: np.ascontiguousarray(given[name].cpu().numpy()) for name in self.inputs}
        (scores,) = self.session.run(None, feeds)
        return torch.from_numpy(scores)

    def decode(self, emissions: Tensor, batch: Batch) -> list[list[int]]:
        """Viterbi: the best label indices of each post, as long as its words."""
        paths: list[list[int]] = self.crf.decode(emissions, batch["word_mask"].cpu())
        return paths

    def entity_scores(self, emissions: Tensor, batch: Batch, found: list[list[Span]]) -> list[list[float]]:
        """Probability of each span under the CRF."""
        scores: list[list[float]] = self.crf.span_probabilities(emissions, batch["word_mask"].cpu(), found)
        return scores


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


def _batches(tagger: Tagger) -> list[dict[str, Tensor]]:
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
        made: dict[str, Any] = dict(decoder.batch([decoder.item(section) for section in sections]))
        names = list(_TEXT)
        if hasattr(model, "characters") or model.text_encoder.reads_characters:
            made["characters"] = _characters(made["words"], made["word_mask"].shape[1])
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
        found = exported.emissions(batch)
        real = tensors["word_mask"]
        worst = max(worst, float((found - expected)[real].abs().max()))
    return worst


def _characters(words: Any, length: int) -> Tensor:
    """Ids (b, w, c) with two columns at least: torch.export takes a size of 1 for fixed."""
    ids = characters_to_ids(words, length)
    return nn.functional.pad(ids, (0, max(0, 2 - ids.shape[-1])))


def _require(*modules: str) -> None:
    import importlib.util

    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingDependencyError(
            f"Expected {', '.join(missing)} for models in ONNX, but not installed; `pip install 'mner[onnx]'`"
        )


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
    from mner.tagger import Tagger

    if out.exists() and not out.is_dir():
        raise DataNotFoundError(f"Expected a folder to write to, but {out} is a file")
    difference = export_onnx(Tagger.load(checkpoint, device="cpu"), out)
    print(f"{out / GRAPH}: label scores differ by at most {difference:.1e} from PyTorch's", file=sys.stderr)
    return 0
