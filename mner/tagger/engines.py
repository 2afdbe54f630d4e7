"""What computes in a tagger in place of PyTorch: ONNX Runtime or OpenVINO."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mner.batch import Batch
from mner.errors import CheckpointError, MissingDependencyError
from mner.labels import Span
from mner.nn._crf_arrays import ArrayCRF
from mner.tagger.folder import PLAIN, read_config, read_file
from mner.training.stored_facts import CALIBRATION, temperature_of

GRAPH, TRANSITIONS = "model.onnx", "crf.safetensors"
NEEDED = {"onnx": ("onnxruntime",), "openvino": ("openvino",)}
EXPORT = ("onnx", "onnxscript", "onnxruntime")
"""What an export needs."""


class Exported:
    """An exported model, in the place of a `FusionModule` in a `Tagger`. A model of text alone needs no torch.

    Args:
        folder: What `export_onnx` wrote.
        engine: `onnx` for ONNX Runtime, or `openvino`.

    Raises:
        MissingDependencyError: If the engine is not installed.
        CheckpointError: If the folder holds no exported model.
    """

    needs: frozenset[str] = frozenset()

    def __init__(self, folder: str | os.PathLike[str], engine: Literal["onnx", "openvino"] = "onnx") -> None:
        require(*NEEDED[engine], extra=engine)
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        self.engine = engine
        place = Path(folder)
        config = read_config(place)
        if not is_exported(config):
            raise CheckpointError(f"Expected a model that `mner export` wrote in {place}, but it is another")
        options = config["hyper_parameters"]
        data = dict(config.get("data") or {})
        data["tokenizer"] = {file: read_file(place, file) for file in config["tokenizer_files"]}
        data[PLAIN] = config.get(PLAIN) is True  # graphs of before do not say
        self.restored: dict[str, Any] | None = {"data": data, CALIBRATION: config.get(CALIBRATION)}
        self.labels = list(options["labels"])
        self.hparams = dict(options)
        try:
            self.graph: Any = (_OpenVINO if engine == "openvino" else _OnnxRuntime)(place / GRAPH)
            self.crf = ArrayCRF(load_file(place / TRANSITIONS), self.labels, bool(options.get("constrain", True)))
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"{GRAPH} and {TRANSITIONS} in {place} cannot be used: {error}") from error
        except Exception as error:  # the engines' errors share no class but this
            raise CheckpointError(f"{GRAPH} in {place} is no graph that can be run: {error}") from error
        self.inputs: dict[str, Sequence[Any]] = self.graph.inputs
        self.uses_image = bool({"image", "regions"} & set(self.inputs))
        self.image_encoder = SimpleNamespace(name=options["image_encoder"]) if "image" in self.inputs else None

    def label_scores(self, batch: Batch) -> NDArray[np.float32]:
        """Label scores (b, w, l) of each word; the batch may hold arrays or tensors."""
        scores: NDArray[np.float32] = self.graph(self.feeds(batch))
        return scores

    def feeds(self, batch: Batch) -> dict[str, Any]:
        """What the graph takes of a batch, as arrays."""
        given: dict[str, Any] = dict(batch)
        b = len(given["token_ids"])
        if "characters" in self.inputs and "characters" not in given:
            from mner.encoders.characters import padded_characters

            given["characters"] = padded_characters(given["words"], given["word_mask"].shape[1])
        if "image_mask" in given:
            raise ValueError("Expected one image a post, since the exported model takes no more, but got several")
        if "image" in self.inputs and "image" not in given:
            size = self.inputs["image"][-1]
            given["image"] = np.zeros((b, 3, size, size), np.float32)
            given["has_image"] = np.zeros(b, np.bool_)
        if "regions" in self.inputs and "regions" not in given:
            given["regions"] = np.zeros((b, 1, self.inputs["regions"][-1]), np.float32)
            given["region_mask"] = np.zeros((b, 1), np.bool_)
        arrays = {name: np.ascontiguousarray(given[name]) for name in self.inputs}
        if "regions" in arrays:
            arrays["regions"] = arrays["regions"].astype(np.float32, copy=False)
        return arrays

    def decode(self, emissions: NDArray[Any], batch: Batch) -> list[list[int]]:
        """Viterbi: the best label indices of each post, as long as its words."""
        return self.crf.decode(emissions, np.asarray(batch["word_mask"]))

    def entity_scores(self, emissions: NDArray[Any], batch: Batch, found: list[list[Span]]) -> list[list[float]]:
        """Probability of each span under the CRF, at the model's `temperature`."""
        mask, temperature = np.asarray(batch["word_mask"]), temperature_of(self.restored)
        return self.crf.span_probabilities(emissions, mask, found, temperature)


def is_exported(config: dict[str, Any]) -> bool:
    """Whether the configuration of a saved model is that of an exported one."""
    return config.get("mner_onnx") == 1


def _threads() -> int:
    """Threads for an engine: as many as PyTorch has, or would have; 0 for the engine's own choice."""
    if "torch" in sys.modules:
        return int(sys.modules["torch"].get_num_threads())
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdecimal() else 0


class _OnnxRuntime:
    """A graph in ONNX Runtime."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = _threads()
        providers = onnxruntime.get_available_providers()
        self.session: Any = onnxruntime.InferenceSession(str(path), options, providers=providers)
        self.inputs: dict[str, Sequence[Any]] = {entry.name: entry.shape for entry in self.session.get_inputs()}

    def __call__(self, feeds: dict[str, Any]) -> Any:
        (scores,) = self.session.run(None, feeds)
        return scores


class _OpenVINO:
    """A graph in OpenVINO, on the processor and in float32: by itself it would compute in bf16 where it can."""

    def __init__(self, path: Path) -> None:
        import openvino

        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": str(_threads()),
            "PERFORMANCE_HINT": "LATENCY",
        }
        core = openvino.Core()
        self.compiled: Any = core.compile_model(core.read_model(str(path)), "CPU", options)
        shapes = {entry.get_any_name(): entry.get_partial_shape() for entry in self.compiled.inputs}
        self.inputs: dict[str, Sequence[Any]] = {
            name: [size.get_length() if size.is_static else None for size in shape] for name, shape in shapes.items()
        }

    def __call__(self, feeds: dict[str, Any]) -> Any:
        return self.compiled(feeds)[0].copy()  # the next call computes into the same place


def installed(*modules: str) -> bool:
    """Whether all of these packages are there."""
    return not _missing(modules)


def require(*modules: str, extra: str = "onnx") -> None:
    """Refuse to go on without these packages."""
    if missing := _missing(modules):
        raise MissingDependencyError(
            f"Expected {', '.join(missing)} for models in ONNX, but not installed; `pip install 'mner[{extra}]'`"
        )


def _missing(modules: Sequence[str]) -> list[str]:
    import importlib.util

    return [module for module in modules if importlib.util.find_spec(module) is None]
