"""`mner vocabulary`: the folder of a word-level text encoder, from a training split and a file of word vectors."""

from __future__ import annotations

import json
import os
import sys
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from mner.data.formats.posts import read_posts
from mner.data.sources import find_splits
from mner.data.vocabulary import (
    SPECIAL,
    Coverage,
    Vocabulary,
    build_vocabulary,
    count_words,
    coverage,
    read_vectors_for,
    render_coverage,
)
from mner.errors import DataNotFoundError
from mner.files import output_folder

MARK = "vocabulary.json"
"""The file by which a folder is known as made here; it says from what."""

_FILES = {MARK, "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
_MAX_LENGTH = 512
"""Words of post and context together; longer posts are read in windows, as with BERT."""


def write_folder(folder: str | os.PathLike[str], vocabulary: Vocabulary, made: dict[str, Any], **sizes: Any) -> Path:
    """Write a folder that `text_encoder` can name: configuration, tokeniser and tables.

    Args:
        folder: Where; its files are replaced if they are of this function, else there must be nothing.
        vocabulary: The words and their vectors.
        made: What the folder is to say of itself, plain data.
        sizes: Arguments of `WordLevelConfig`.

    Raises:
        FileExistsError: If something else is there.
        DataFormatError: If somebody changed what is there.
        BusyError: If another process is writing there.
        ValueError: If a size is out of its range.
    """
    import torch
    from safetensors.torch import save_file

    from mner.encoders.characters import MAX_CHARACTERS, characters_to_ids
    from mner.encoders.word_level import WordLevelConfig, WordLevelModel

    place = Path(folder)
    check_free(place)
    v, width = vocabulary.table.shape
    config = WordLevelConfig(v, width, singletons=vocabulary.singletons, **sizes)
    config.architectures = [WordLevelModel.__name__]
    table = torch.zeros(v, MAX_CHARACTERS, dtype=torch.uint8)
    spelt = characters_to_ids([vocabulary.words[len(SPECIAL) :]])[0]
    table[len(SPECIAL) :, : spelt.shape[1]] = spelt.to(torch.uint8)
    with output_folder(place, check=check_free) as new:
        config.save_pretrained(new)
        _tokenizer(vocabulary).save_pretrained(new)
        tables = {"embedding.weight": torch.from_numpy(vocabulary.table), "character_table": table}
        save_file(tables, new / "model.safetensors", metadata={"format": "pt"})
        (new / MARK).write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return place


def check_free(folder: Path) -> None:
    """Whether a vocabulary can be written there: nothing, an empty folder, or one that was made here.

    Raises:
        FileExistsError: If something else is there.
    """
    if not folder.exists():
        return
    found = (path.name for path in folder.iterdir()) if folder.is_dir() else ["a file"]
    names = {name for name in found if not name.startswith(".mner")}
    if names and (MARK not in names or names - _FILES):
        raise FileExistsError(
            f"Expected no folder at {folder}, or one that `mner vocabulary` made, but found {sorted(names)[:4]}; "
            "name another, or move it away"
        )


def _tokenizer(vocabulary: Vocabulary) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: place for place, word in enumerate(vocabulary.words)}
    padding, unknown, first, last = SPECIAL
    tokenizer: Any = Tokenizer(models.WordLevel(ids, unk_token=unknown))
    if vocabulary.lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(first, ids[first]), (last, ids[last])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=padding,
        unk_token=unknown,
        cls_token=first,
        sep_token=last,
        model_max_length=_MAX_LENGTH,
    )


def vocabulary(
    train: Path,
    out: Path = Path("vocabulary"),
    vectors: Path | None = None,
    most_frequent: int = 0,
    characters: Literal["cnn", "bilstm", "none"] = "cnn",
    lowercase: bool = True,
    freeze_words: bool = False,
    embedding_width: int = 100,
    character_width: int = 50,
    lstm_width: int = 100,
    lstm_layers: int = 1,
    dropout: float = 0.5,
    singleton_dropout: float = 0.5,
    seed: int = 0,
) -> int:
    """Make the folder of a word-level text encoder, to be named as `text_encoder`.

    Args:
        train: The training split, or a data folder with it (and then valid is looked at too, for what is covered).
        out: Folder to write. One that this command did not make is never replaced.
        vectors: GloVe or word2vec, as text or binary, gzipped or not; none for random vectors.
        most_frequent: Beside the training words, so many first rows of the file of vectors.
        characters: How the characters of a word are read.
        lowercase: Look words up in lower case; their characters keep theirs.
        freeze_words: Do not train the word vectors.
        embedding_width: Width of word vectors where there is no file.
        character_width: Width of a word's character vector.
        lstm_width: Width of each direction of the BiLSTM.
        lstm_layers: Layers of the BiLSTM; 0 for none.
        dropout: On what the BiLSTM reads.
        singleton_dropout: Probability of reading a word that training has once as unknown, in training.
        seed: Of random vectors.

    Returns:
        Exit code 0; 2 if a file or option cannot be used.
    """
    sizes = {
        "characters": None if characters == "none" else characters,
        "character_width": character_width,
        "lstm_width": lstm_width,
        "lstm_layers": lstm_layers,
        "dropout": dropout,
        "singleton_dropout": singleton_dropout,
        "freeze_words": freeze_words,
    }
    fault = _fault(out, vectors, most_frequent, {"embedding_width": embedding_width, **sizes})
    if fault:
        print(f"mner vocabulary: {fault}", file=sys.stderr)
        return 2
    splits = _splits(train)
    posts = {split: read_posts(file) for split, file in splits.items()}
    counts = {split: count_words(some, lowercase) for split, some in posts.items()}
    found = None if vectors is None else read_vectors_for(vectors, chain.from_iterable(posts.values()), most_frequent)
    made = build_vocabulary(counts["train"], found, embedding_width, lowercase, seed)
    covered = {split: coverage(some, made, found) for split, some in counts.items()}
    write_folder(out, made, _said(made, covered, None if vectors is None else vectors.name, most_frequent), **sizes)
    singles = made.singletons[1] - made.singletons[0]
    print(f"{out}: {len(made.words):,} words, {made.known:,} with a vector of the file, {singles:,} once in training")
    print(render_coverage(covered))
    return 0


def _fault(out: Path, vectors: Path | None, most_frequent: int, sizes: dict[str, Any]) -> str:
    """What is wrong with the options, before anything is read; nothing if all is well."""
    from mner.encoders.word_level import WordLevelConfig

    if most_frequent < 0 or (most_frequent and vectors is None):
        return f"Expected `--vectors` beside --most_frequent {most_frequent}, or no --most_frequent"
    try:
        check_free(out)
        WordLevelConfig(**sizes)
    except (FileExistsError, ValueError) as error:
        return str(error)
    return ""


def _splits(train: Path) -> dict[str, Path]:
    if not train.is_dir():
        return {"train": train}
    found = find_splits(train)
    if "train" not in found:
        raise DataNotFoundError(f"Expected a training split in {train}, but found only {sorted(found)}")
    return {split: found[split] for split in ("train", "valid") if split in found}


def _said(made: Vocabulary, covered: dict[str, Coverage], vectors: str | None, most_frequent: int) -> dict[str, Any]:
    from dataclasses import asdict

    import mner

    return {
        "mner": mner.__version__,
        "vectors": vectors,
        "most_frequent": most_frequent,
        "lowercase": made.lowercase,
        "words": len(made.words),
        "with_vector": made.known,
        "coverage": {split: asdict(some) for split, some in covered.items()},
    }
