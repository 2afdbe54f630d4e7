"""Vectors of a corpus on disk, and the nearest by cosine: of texts by an encoder, of images by their features."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mner.data.agreement import tokenizer_of
from mner.data.formats.feature_store import FeatureStore
from mner.data.tokenizer import PostTokenizer
from mner.encoders.text import TextEncoder
from mner.errors import CheckpointError, MissingDependencyError
from mner.files import digest, output_folder
from mner.fusion.base import FusionModule
from mner.growing_file import Growing
from mner.preprocessing.bm25 import Found
from mner.preprocessing.corpus import Corpus, Text
from mner.runtime import pick_device

CHUNK = 1024
"""Texts whose vectors are written together: what a kill costs at most."""
BLOCK = 65_536
"""Vectors that are compared together."""
PART = 100_000
"""Vectors after which an approximate index is saved."""


class Encoder(Protocol):
    """Texts -> unit vectors."""

    name: str
    width: int
    facts: Mapping[str, Any]

    def __call__(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Vectors (n, d) of length 1, or 0 where there is nothing to compare by."""


class MeanEncoder:
    """The mean over the word pieces of a text, special tokens among them, as sentence encoders are trained to have it.

    Reimers and Gurevych (2019). Of a checkpoint it is its text encoder.

    Args:
        model: Hub name or folder of a transformers model, or a checkpoint that `mner fit` wrote.
        batch_size: Texts in a batch.
        device: `auto`, `cpu`, `cuda`, ...

    Raises:
        CheckpointError: If it can't be loaded, or reads the characters of words.
    """

    def __init__(self, model: str, batch_size: int = 64, device: str = "auto") -> None:
        path = Path(model)
        tokenizer: PostTokenizer | None
        if path.is_file() or path.suffix == ".ckpt":
            module = FusionModule.load_from_checkpoint(path)
            module.text_encoder.merge()
            encoder, tokenizer = module.text_encoder, tokenizer_of(module)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # random weights are the same ones when a run goes on
                encoder, tokenizer = TextEncoder(model), PostTokenizer(model)
        if tokenizer is None or encoder.reads_characters:
            raise CheckpointError(f"Expected an encoder of running text with its tokeniser, but {model} is another")
        self.name, self.width = path.stem if path.exists() else model, encoder.width
        self.facts: Mapping[str, Any] = {"encoder": self.name, "weights": digest(path)}
        self.batch_size = batch_size
        self.device = pick_device(device)
        self.encoder = encoder.eval().to(self.device)
        tokenizer.limit_to(encoder.piece_limit)
        self._limit, self._tokenizer = tokenizer.max_length, tokenizer.tokenizer

    @torch.no_grad()
    def __call__(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Vectors (n, d); texts of similar length share a batch."""
        tokenize: Any = self._tokenizer
        pieces = tokenize([text.text for text in texts], truncation=True, max_length=self._limit)["input_ids"]
        order = sorted(range(len(texts)), key=lambda place: len(pieces[place]))
        found = np.zeros((len(texts), self.width), np.float32)
        for start in range(0, len(order), self.batch_size):
            places = order[start : start + self.batch_size]
            rows = [torch.tensor(pieces[place], dtype=torch.long) for place in places]
            ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.device)
            lengths = torch.tensor([len(row) for row in rows], device=self.device)
            mask = torch.arange(ids.shape[1], device=self.device) < lengths[:, None]
            states = self.encoder(ids, mask, torch.zeros_like(ids))
            total = (states * mask[..., None]).sum(1)  # a mean's direction is its sum's
            found[places] = torch.nn.functional.normalize(total.float(), dim=-1).cpu().numpy()
        return found


class ImageVectors:
    """The mean over the stored regions of a text's image; 0 where the store does not have it.

    Args:
        store: The features.
    """

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self.name, self.width = f"images by {store.meta['encoder']}", store.width
        made = {key: store.meta.get(key) for key in ("encoder", "weights", "kind", "width")}
        self.facts: Mapping[str, Any] = {"features": made, "images": digest(store.path / "index.tsv")}

    def __call__(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Vectors (n, f)."""
        found = np.zeros((len(texts), self.width), np.float32)
        for row, text in enumerate(texts):
            if text.image_id is not None and text.image_id in self.store and len(self.store[text.image_id]):
                mean = self.store[text.image_id].astype(np.float32).mean(0)
                found[row] = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return found


class Nearest:
    """Nearest neighbours of texts in a corpus, by the cosine of their vectors.

    The corpus's vectors are computed once and kept beside its texts, in half precision; a run that was stopped goes on
    with the text after the last chunk. All of them are compared, a block at a time, or those that an approximate index
    (HNSW, Malkov and Yashunin 2020, by usearch) leads to, which is mapped into memory.

    Args:
        corpus: The texts.
        encoder: What makes vectors.
        approximate: Use an approximate index.
        tell: Called with the number of vectors that are done, as they are made.

    Raises:
        MissingDependencyError: With `approximate`, but without usearch.
    """

    def __init__(
        self, corpus: Corpus, encoder: Encoder, approximate: bool = False, tell: Callable[[int], object] | None = None
    ) -> None:
        self.corpus, self.encoder, self.name = corpus, encoder, encoder.name
        mark = hashlib.sha256(json.dumps(encoder.facts, sort_keys=True).encode()).hexdigest()[:12]
        self._file = corpus.folder / f"vectors-{mark}.f16"
        self._fill(tell)
        self.vectors = np.memmap(self._file, np.float16, "r", shape=(len(corpus), encoder.width))
        self._index = self._approximate(mark) if approximate else None

    def search(self, queries: Sequence[Text], count: int) -> list[Found]:
        """The `count` nearest texts of each query; none for one that has no vector."""
        vectors = self.encoder(queries)
        count = min(count, len(self.corpus))
        if self._index is not None:
            found = [self._index.search(vector, count, exact=False) for vector in vectors]
            pairs = [(one.keys.astype(np.int64), 1 - one.distances) for one in found]
        else:
            scores, places = self._compared(torch.from_numpy(vectors), count)
            pairs = list(zip(places.numpy(), scores.numpy(), strict=True))
        return [
            [(int(where[row]), float(score[row])) for row in np.lexsort((where, -score)) if score[row] != 0]
            if vector.any()
            else []
            for vector, (where, score) in zip(vectors, pairs, strict=True)
        ]

    def _compared(self, vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
        scores, places = torch.empty(len(vectors), 0), torch.empty(len(vectors), 0, dtype=torch.long)
        for start in range(0, len(self.corpus), BLOCK):
            block = torch.from_numpy(np.array(self.vectors[start : start + BLOCK], np.float32))
            here = vectors @ block.T
            best = here.topk(min(count, len(block)), dim=1)
            scores, places = torch.cat([scores, best.values], 1), torch.cat([places, best.indices + start], 1)
            kept = scores.topk(min(count, scores.shape[1]), dim=1)
            scores, places = kept.values, places.gather(1, kept.indices)
        return scores, places

    def _fill(self, tell: Callable[[int], object] | None) -> None:
        row = 2 * self.encoder.width
        if self._file.is_file() and self._file.stat().st_size == row * len(self.corpus):
            return
        growing = Growing(self._file, {**self.encoder.facts, "width": self.encoder.width, "texts": len(self.corpus)})
        try:
            file = growing.files[self._file]
            done = file.seek(0, os.SEEK_END) // row
            file.truncate(done * row)
            for start in range(done, len(self.corpus), CHUNK):
                if tell is not None:
                    tell(start)
                chunk = self.encoder(list(self.corpus.texts(start, start + CHUNK)))
                growing.write(self._file, chunk.astype(np.float16).tobytes())
                growing.flush()
        finally:
            growing.close()

    def _approximate(self, mark: str) -> Any:
        try:
            from usearch.index import Index
        except ImportError as error:
            raise MissingDependencyError("An approximate index needs usearch: pip install mner[retrieval]") from error
        name = f"nearest-{mark}.usearch"
        place = self.corpus.folder / name
        index: Any = Index(ndim=self.encoder.width, metric="cos", dtype="f16")
        if place.is_file():
            index.load(place)
        for start in range(len(index), len(self.corpus), PART):
            end = min(start + PART, len(self.corpus))
            index.add(np.arange(start, end), np.array(self.vectors[start:end]))
            with output_folder(self.corpus.folder) as draft:
                index.save(draft / name)
        return Index.restore(place, view=True)
