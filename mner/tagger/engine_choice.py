"""Which engine computes a tagger's label scores: PyTorch, ONNX Runtime, OpenVINO, or PyTorch's compiler.

Decoding and scores of entities are the model's own with each of them. Graphs are written once, into a cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import mner
from mner.encoders.weights import weights_hash
from mner.errors import CheckpointError, MissingDependencyError, MNERError
from mner.files import cache_folder
from mner.fusion.base import FusionModule
from mner.tagger.engines import EXPORT, NEEDED, Exported, installed
from mner.tagger.onnx import Exportable, export_onnx, probe_batches
from mner.tagger.quantization import quantize
from mner.training.checkpoint import class_path

Engine = Literal["auto", "torch", "onnx", "openvino", "compile"]
ENGINES = ("auto", "torch", "onnx", "openvino", "compile")
TURNS = 5
log = logging.getLogger(__name__)
Scores = Callable[[Any], Tensor]


class Accelerated:
    """A model whose label scores are computed elsewhere; all else is its own.

    Args:
        model: The model.
        scores: Label scores (b, w, l) of a batch.
        name: Of the engine.
    """

    def __init__(self, model: FusionModule, scores: Scores, name: str) -> None:
        self.model = model
        self.label_scores = scores
        self.engine = name

    def __getattr__(self, name: str) -> Any:
        if name == "model":  # not there yet, as while it is unpickled
            raise AttributeError(name)
        return getattr(self.model, name)


def with_engine(tagger: Exportable, engine: Engine, int8: bool = False) -> Any:
    """A tagger's model, with label scores by an engine.

    Args:
        tagger: The tagger.
        engine: See `Tagger`.
        int8: Whether ONNX Runtime may take weights rounded to eight bits.

    Raises:
        ValueError: If there is no such engine, or it has no use for `int8`.
        MissingDependencyError: If it is not installed.
        CheckpointError: If the model cannot be exported.
    """
    if engine not in ENGINES:
        raise ValueError(f"Expected argument `engine` to be one of {', '.join(ENGINES)}, but got {engine!r}")
    if int8 and engine not in ("auto", "onnx"):
        raise ValueError(f"Expected `int8` with engine auto or onnx, since {engine} has no use for it")
    model: Any = tagger.model
    if engine == "torch":
        return model
    if not isinstance(model, FusionModule):
        raise ValueError(f"Expected a model of PyTorch for engine {engine}, but it is exported already")
    if getattr(model, "neighbours", None) is not None:
        raise ValueError(f"Expected engine torch with neighbours, which a graph of scores has not, but got {engine}")
    if engine == "auto":
        return _fastest(tagger, int8)
    if engine == "compile":
        return Accelerated(model, _compiled(tagger), "compile")
    if model.device.type != "cpu":
        raise ValueError(f"Engine {engine} runs on the processor, but the tagger is on {model.device}: device='cpu'")
    return _exported(tagger, engine, int8)


def _exported(tagger: Exportable, engine: Literal["onnx", "openvino"], int8: bool) -> Accelerated:
    graph = Exported(exported_folder(tagger, int8), engine)

    def scores(batch: Any) -> Tensor:
        return torch.from_numpy(graph.label_scores(batch))

    return Accelerated(tagger.model, scores, f"{engine}, int8" if int8 else engine)


def exported_folder(tagger: Exportable, int8: bool = False) -> Path:
    """Where the cache has a tagger's model as a graph; it is written there if it was not.

    The folder's name comes of weights, class, options and versions, so that nothing else is ever found in it.
    """
    model = tagger.model
    facts = [class_path(model), dict(model.hparams), mner.__version__, torch.__version__, model.text_encoder.config]
    name = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
    place = cache_folder() / "engines" / f"{weights_hash(model)}-{name}"
    if not _usable(place):
        log.info("writing the model as a graph, once, to %s", place)
        shutil.rmtree(place, ignore_errors=True)
        export_onnx(tagger, place)
    if not int8:
        return place
    rounded = place.with_name(f"{place.name}-int8")
    if not _usable(rounded):
        shutil.rmtree(rounded, ignore_errors=True)
        quantize(place, rounded)
    return rounded


def _usable(folder: Path) -> bool:
    try:
        Exported(folder)
    except CheckpointError:  # none, or of a process that was killed while it wrote
        return False
    return True


def _compiled(tagger: Exportable) -> Scores:
    """PyTorch's compiler on the text encoder, whose first call says whether it works here."""
    model = tagger.model
    text = model.text_encoder.model
    batch = _on(next(iter(probe_batches(tagger))), model.device)
    before = _scores(model.label_scores, batch)
    model.text_encoder.fused = None  # which would pass the compiled layers by
    try:
        text.compile(dynamic=True)
        found = _scores(model.label_scores, batch)
        if not (found - before).abs().max() <= 0.05 * before.abs().max().clamp(min=1):  # not a number fails too
            kept = "a folder of its own for what it keeps, TORCHINDUCTOR_CACHE_DIR, may help"  # keys name no processor
            raise RuntimeError(f"its scores are others than those of PyTorch; {kept}")
    except Exception as error:  # no C++ compiler, or whatever the compiler of PyTorch stumbles over
        text._compiled_call_impl = None  # as before
        model.text_encoder.fuse()
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MNERError(f"torch.compile does not work for this model here ({reason}); choose another engine") from error
    return model.label_scores


def _fastest(tagger: Exportable, int8: bool) -> Any:
    """The engine that takes the least time for some posts, among those that give the same tags."""
    model = tagger.model
    if model.device.type != "cpu":
        log.info("engine auto: torch (the others run on the processor)")
        return model
    candidates = {"torch": Accelerated(model, model.label_scores, "torch")}
    others: tuple[Literal["onnx", "openvino"], ...] = ("onnx", "openvino")
    for engine in others:
        if installed(*EXPORT, *NEEDED[engine]):
            for rounded in (False, True) if int8 and engine == "onnx" else (False,):
                try:
                    made = _exported(tagger, engine, rounded)
                except (CheckpointError, MissingDependencyError) as error:
                    log.info("engine auto: no %s (%s)", engine, error)
                    continue
                candidates[made.engine] = made
    batches = [_on(batch, model.device) for batch in probe_batches(tagger)]
    expected = _tags(candidates["torch"], batches)
    same = {name: one for name, one in candidates.items() if name.endswith("int8") or _tags(one, batches) == expected}
    times = seconds_of({name: one.label_scores for name, one in same.items()}, batches)
    best = min(times, key=lambda name: times[name])
    told = ", ".join(f"{name} {1000 * taken:.1f} ms" for name, taken in times.items())
    log.info("engine auto: %s (%s for %d batches)", best, told, len(batches))
    return model if best == "torch" else same[best]


def seconds_of(scores: Mapping[str, Scores], batches: list[Any]) -> dict[str, float]:
    """Least seconds of each function for all batches; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in scores}
    for _ in range(TURNS):
        for name, one in scores.items():
            start = time.perf_counter()
            for batch in batches:
                _scores(one, batch)
            times[name].append(time.perf_counter() - start)
    return {name: min(some) for name, some in times.items()}


@torch.inference_mode()  # as taggers run; what is measured is what will be
def _scores(one: Scores, batch: Any) -> Tensor:
    return one(batch)


@torch.inference_mode()
def _tags(one: Accelerated, batches: list[Any]) -> list[Any]:
    return [one.decode(_scores(one.label_scores, batch), batch) for batch in batches]


def _on(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in batch.items()}
