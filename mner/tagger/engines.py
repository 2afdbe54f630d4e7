"""What computes in a tagger in place of PyTorch: ONNX Runtime."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mner.batch import Batch
from mner.encoders.characters import characters_to_ids
from mner.errors import CheckpointError, MissingDependencyError
from mner.labels import Span
from mner.nn.crf import CRF
from mner.tagger.hub import read_config, read_file

GRAPH, TRANSITIONS = "model.onnx", "crf.safetensors"


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
        require("onnxruntime")
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
            given["characters"] = padded_characters(given["words"], given["word_mask"].shape[1])
        if "image_mask" in given:
            raise ValueError("Expected one image a post, since the exported model takes no more, but got several")
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

    label_scores = emissions

    def decode(self, emissions: Tensor, batch: Batch) -> list[list[int]]:
        """Viterbi: the best label indices of each post, as long as its words."""
        paths: list[list[int]] = self.crf.decode(emissions, batch["word_mask"].cpu())
        return paths

    def entity_scores(self, emissions: Tensor, batch: Batch, found: list[list[Span]]) -> list[list[float]]:
        """Probability of each span under the CRF."""
        scores: list[list[float]] = self.crf.span_probabilities(emissions, batch["word_mask"].cpu(), found)
        return scores


def padded_characters(words: Any, length: int) -> Tensor:
    """Ids (b, w, c) with two columns at least: torch.export takes a size of 1 for fixed."""
    ids = characters_to_ids(words, length)
    return nn.functional.pad(ids, (0, max(0, 2 - ids.shape[-1])))


def require(*modules: str) -> None:
    """Refuse to go on without these packages."""
    import importlib.util

    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingDependencyError(
            f"Expected {', '.join(missing)} for models in ONNX, but not installed; `pip install 'mner[onnx]'`"
        )
