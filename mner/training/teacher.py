"""A trained model as a teacher: what it says of the labels of each word of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mner.batch import Batch
from mner.data.agreement import tokenizer_of
from mner.data.batching import Collate
from mner.data.dataset import MNERDataset
from mner.data.examples import Example
from mner.data.windows import whole_posts
from mner.errors import MNERError
from mner.training.checkpoint import load_module
from mner.training.module import TaggingModule

TOGETHER = 32
"""Posts that a teacher with word pieces of its own reads at once."""
KEPT = 100_000
"""Posts of which is kept what such a teacher said: about 100 MB of short ones."""


class Teacher:
    """Says how likely each label of each word is.

    A teacher with the word pieces of the student reads the student's batches, images and context too. One with word
    pieces of its own, as a larger encoder of another family has, reads the words of the posts in its own way, each post
    once: what it said is kept. It has to read text alone, without context.

    Args:
        path: Its checkpoint.
        labels: The student's.
        files: Those of the student's tokeniser; None if nobody knows them, and they are taken to be the teacher's.
        device: Where it runs.

    Attributes:
        reads_words: Whether it has word pieces of its own.

    Raises:
        MNERError: If it is for other labels, or has other word pieces and reads more than text.
    """

    def __init__(
        self, path: str, labels: Sequence[str], files: dict[str, str] | None, device: torch.device | str = "cpu"
    ) -> None:
        self.model: Any = load_module(path, TaggingModule).requires_grad_(False).eval().to(device)
        if list(self.model.labels) != list(labels):
            raise MNERError(
                f"Expected a teacher for the labels {list(labels)}, but {path} is for {list(self.model.labels)}"
            )
        data = (self.model.restored or {}).get("data") or {}
        own = data.get("tokenizer")
        self.reads_words = bool(own and files and own != files)
        self._said: dict[tuple[str, ...], Tensor] = {}  # (w, l) on the processor
        if not self.reads_words:
            return
        if self.model.uses_image or data.get("context"):
            raise MNERError(
                f"Expected a teacher that reads the same word pieces, or one that reads text alone, but {path} was "
                f"trained with another tokeniser, and with {'images' if self.model.uses_image else 'context'} beside; "
                "use one with the tokeniser of the model's text encoder, or a TextOnly without context"
            )
        tokenizer = tokenizer_of(self.model, data.get("max_length"), data.get("replace_urls"))
        assert tokenizer is not None  # its files are there
        tokenizer.limit_to(data.get("piece_limit"))
        tokenizer.limit_to(self.model.text_encoder.piece_limit)
        self.tokenizer = tokenizer

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        """Probability of each label at each word (b, w, l), float64; anything where there is no word."""
        if not self.reads_words:
            return self._of(batch)
        self._read([words for words in dict.fromkeys(batch["words"]) if words not in self._said])
        said = pad_sequence([self._said[words] for words in batch["words"]], batch_first=True)
        for words in list(self._said)[: max(len(self._said) - KEPT, 0)]:
            del self._said[words]  # the oldest
        return said.to(batch["word_mask"].device, torch.float64)

    def _of(self, batch: Batch) -> Tensor:
        said = self.model.posterior(batch) if self.model.decodes_posteriors else None
        known = said is not None
        found: Tensor = said if said is not None else self.model.emissions(batch)
        if self.reads_words:  # else the student has the same windows
            found, batch = whole_posts(found, batch)
        if not known:
            found = self.model.crf.marginals(found, batch["word_mask"], constrained=False)
        return found.double()

    def _read(self, posts: list[tuple[str, ...]]) -> None:
        """Posts that were not read yet."""
        labels, pad = self.model.labels, self.tokenizer.pad_id
        for start in range(0, len(posts), TOGETHER):
            some = posts[start : start + TOGETHER]
            rows = MNERDataset([Example("", None, words) for words in some], labels, self.tokenizer)
            batch = Collate(pad)([rows[number] for number in range(len(rows))])
            said = self._of(self.model.transfer_batch_to_device(batch, self.model.device, 0))
            for words, one in zip(some, said.float().cpu(), strict=True):
                self._said[words] = one[: len(words)].clone()
