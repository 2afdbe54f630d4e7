"""A trained model as a teacher: what it says of the labels of each word of a batch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mner.batch import Batch
from mner.data.agreement import tokenizer_of
from mner.data.batching import Collate
from mner.data.dataset import MNERDataset
from mner.data.examples import Example
from mner.data.windows import whole_posts
from mner.errors import MNERError
from mner.files import digest, foreign, lock, whole
from mner.training.checkpoint import load_module
from mner.training.module import TaggingModule

TOGETHER = 32
"""Posts that a teacher with word pieces of its own reads at once."""
KEY = "answers"
KEPT = 100_000
"""Posts of which is kept what such a teacher said: about 100 MB of short ones."""


class Answers:
    """What a teacher said of posts: by their words, the probability of each label at each (w, l), float32.

    Args:
        file: Where it is kept for other runs, and was by them; None for this run alone.
        facts: Whose answers these are. A file with those of another teacher is refused.

    Raises:
        MNERError: If the file is of another teacher, or something else.
    """

    def __init__(self, file: Path | None = None, **facts: Any) -> None:
        self.file, self.facts = file, facts
        self.said = self._kept()
        self._known = len(self.said)

    def _kept(self) -> dict[tuple[str, ...], Tensor]:
        if self.file is None or not self.file.exists():
            return {}
        try:
            with safe_open(self.file, "pt") as stored:
                content, said = json.loads((stored.metadata() or {})[KEY]), stored.get_tensor(KEY)
        except (SafetensorError, KeyError):
            raise foreign(self.file, found="a file that is no teacher's answers") from None
        for name, wanted in self.facts.items():
            if content.get(name) != wanted:
                found = f"{self.file} holds answers with {name} {content.get(name)}, and this run's is {wanted}"
                raise MNERError(f"{found}; name another file")
        posts = [tuple(words) for words in content["posts"]]
        return dict(zip(posts, said.split([len(words) for words in posts]), strict=True))

    def save(self) -> None:
        """Write what is new, beside what another process has written since."""
        if self.file is None or len(self.said) == self._known:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        held = lock(self.file.with_name(f".{self.file.name}.lock"), self.file)
        try:
            self.said = self._kept() | self.said
            facts = json.dumps({**self.facts, "posts": list(self.said)})
            with whole(self.file) as stream:
                stream.write(save({KEY: torch.cat(list(self.said.values()))}, {KEY: facts}))
        finally:
            held.release()
        self._known = len(self.said)


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
        answers: A file in which what it said is kept for other runs. It then reads words, whatever its word pieces.
        precision: Of the run, which is that of its answers.

    Attributes:
        reads_words: Whether it has word pieces of its own.

    Raises:
        MNERError: If it is for other labels, or reads words and has to read more, or `answers` are those of another.
    """

    def __init__(
        self,
        path: str,
        labels: Sequence[str],
        files: dict[str, str] | None,
        device: torch.device | str = "cpu",
        answers: str | None = None,
        precision: str = "32-true",
    ) -> None:
        self.model: Any = load_module(path, TaggingModule).requires_grad_(False).eval().to(device)
        if list(self.model.labels) != list(labels):
            raise MNERError(
                f"Expected a teacher for the labels {list(labels)}, but {path} is for {list(self.model.labels)}"
            )
        data = (self.model.restored or {}).get("data") or {}
        own = data.get("tokenizer")
        if answers and not own:
            raise MNERError(f"{path} does not say how it reads words, so that its answers cannot be kept; leave it out")
        other = bool(own and files and own != files)
        self.reads_words = other or bool(answers)
        self.answers = Answers()
        if not self.reads_words:
            return
        if self.model.uses_image or data.get("context"):
            beside = "images" if self.model.uses_image else "context"
            if not other:
                raise MNERError(
                    f"Expected a teacher that reads text alone, whose answers can be kept, but {path} was trained with "
                    f"{beside} beside; leave `answers` ({answers}) out"
                )
            raise MNERError(
                f"Expected a teacher that reads the same word pieces, or one that reads text alone, but {path} was "
                f"trained with another tokeniser, and with {beside} beside; "
                "use one with the tokeniser of the model's text encoder, or a TextOnly without context"
            )
        tokenizer = tokenizer_of(self.model, data.get("max_length"), data.get("replace_urls"))
        assert tokenizer is not None  # its files are there
        tokenizer.limit_to(data.get("piece_limit"))
        tokenizer.limit_to(self.model.text_encoder.piece_limit)
        self.tokenizer = tokenizer
        if answers:
            self.answers = Answers(Path(answers), teacher=digest(path), labels=list(labels), precision=precision)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        """Probability of each label at each word (b, w, l), float64; anything where there is no word."""
        if not self.reads_words:
            return self._of(batch)
        known = self.answers.said
        self._read([words for words in dict.fromkeys(batch["words"]) if words not in known])
        said = pad_sequence([known[words] for words in batch["words"]], batch_first=True)
        for words in list(known)[: max(len(known) - KEPT, 0)] if self.answers.file is None else ():
            del known[words]  # the oldest
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
                self.answers.said[words] = one[: len(words)].clone()
