"""Vocabularies of public captioners, which come in files beside the weights."""

from __future__ import annotations

import io
import json
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mner.errors import CheckpointError


def vocabulary_file(weights: str | Path, given: str | Path | None, patterns: Sequence[str], what: str) -> Path:
    """The file of a vocabulary: the one that is given, or the only one of its kind beside the weights.

    Args:
        weights: File of the weights.
        given: File of the vocabulary, or None.
        patterns: Names that it may have.
        what: What it is, for messages.

    Raises:
        CheckpointError: If there is none, or several.
    """
    if given is not None:
        if not Path(given).is_file():
            raise CheckpointError(f"Expected a vocabulary ({what}) at {str(given)!r}, but there is no such file")
        return Path(given)
    folder = Path(weights).expanduser().parent
    found = sorted(file for pattern in patterns for file in folder.glob(pattern))
    if len(found) != 1:
        there = ", ".join(file.name for file in found) or "none"
        raise CheckpointError(
            f"Expected one vocabulary ({what}) beside {weights}, but found {there}; name it with `vocabulary`"
        )
    return found[0]


def read_words(file: Path) -> dict[int, str]:
    """Words by number, of a file `infos_….pkl` (key `vocab`) or `cocotalk.json` (key `ix_to_word`).

    Of a pickle only plain data are made: whatever else it names becomes an empty stand-in, and no code runs.

    Raises:
        CheckpointError: If the file holds something else.
    """
    expected = "expected words by number under `vocab` (infos_….pkl) or `ix_to_word` (cocotalk.json)"
    try:
        raw = file.read_bytes()
        content: Any = json.loads(raw) if file.suffix == ".json" else _PlainUnpickler(raw).load()
        found = content["ix_to_word"] if "ix_to_word" in content else content["vocab"]
        words = {int(number): word for number, word in found.items()}
    except Exception as error:  # a pickle may fail in any way
        raise CheckpointError(f"{file} cannot be read as a vocabulary ({error!r}); {expected}") from error
    if sorted(words) != list(range(1, len(words) + 1)) or not all(isinstance(word, str) for word in words.values()):
        raise CheckpointError(f"{file} does not number its words from 1 on; {expected}")
    return words


class _Anything(dict[Any, Any]):
    """In place of an object that a pickle holds and nothing here reads."""

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, _: Any) -> None: ...

    def __call__(self, *_: Any) -> _Anything:
        return self

    def append(self, _: Any) -> None:
        """Nothing is kept."""

    def extend(self, _: Any) -> None:
        """Nothing is kept."""


class _PlainUnpickler(pickle.Unpickler):
    """Reads dictionaries, lists, texts and numbers; imports nothing and calls nothing that a file names."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(io.BytesIO(raw), encoding="latin1")  # some were written by Python 2

    def find_class(self, module: str, name: str) -> Any:
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else _Anything
