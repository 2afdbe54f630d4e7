"""The built-in tiny encoder: a transformers folder that any loader reads, with a vocabulary that reads English."""

from __future__ import annotations

import fnmatch
import string
import tomllib
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertModel

from mner.data.formats.conll import read_conll
from mner.data.sample.texts import AMBIGUOUS, write_sample
from mner.files import locate

FOLDER = Path(locate("tiny"))
PRINTABLE = [chr(code) for code in range(33, 127)]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


def test_words_are_read(tokenizer):
    assert tokenizer.is_fast
    assert tokenizer.tokenize("Hello, photographers!") == ["hello", ",", "photographer", "##s", "!"]
    ids = tokenizer("hello world", "a picture")
    assert tokenizer.convert_ids_to_tokens(ids["input_ids"]) == [
        "[CLS]", "hello", "world", "[SEP]", "a", "picture", "[SEP]",
    ]  # fmt: skip
    assert ids["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]


def test_vocabulary():
    pieces = (FOLDER / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert pieces[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(set(pieces)) == len(pieces)
    assert all(piece == piece.strip().lower() and piece for piece in pieces[5:])
    lower = {character.lower() for character in PRINTABLE}
    assert lower <= set(pieces)
    assert {f"##{character}" for character in lower} <= set(pieces)
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 150_000


def test_no_ascii_text_is_unknown(tokenizer):
    @settings(max_examples=100, deadline=None)
    @given(st.text(alphabet=string.printable, max_size=60))
    def check(text: str) -> None:
        assume("[UNK]" not in text)
        assert tokenizer.tokenize(text) or not text.strip()
        assert "[UNK]" not in tokenizer.tokenize(text)

    check()


def test_other_letters_are_unknown_but_read(tokenizer):
    assert tokenizer.tokenize("Café 😂") == ["cafe", "[UNK]"]


def test_words_of_the_sample_are_one_piece(tokenizer, tmp_path):
    """Names apart, so that the small model reads sentences and not letters."""
    write_sample(tmp_path / "sample")
    words: set[str] = set()
    for post in read_conll(tmp_path / "sample" / "train.txt"):
        words |= {word for word, tag in zip(post.words, post.tags or (), strict=True) if tag == "O" and word.isalpha()}
    assert len(words) > 150
    assert [word for word in sorted(words) if len(tokenizer.tokenize(word)) != 1] == []


def test_names_are_known_by_their_pieces(tokenizer):
    names = {tuple(tokenizer.tokenize(name)) for name in AMBIGUOUS}
    assert len(names) == len(AMBIGUOUS)
    assert all(1 < len(pieces) < 8 for pieces in names)


def test_model(tokenizer):
    config = AutoConfig.from_pretrained(FOLDER)
    assert config.vocab_size == len(tokenizer)
    assert (config.num_hidden_layers, config.hidden_size, config.max_position_embeddings) == (2, 64, 512)
    model = AutoModel.from_config(config).eval()
    assert isinstance(model, BertModel)
    assert sum(parameter.numel() for parameter in model.parameters()) < 500_000
    with torch.no_grad():
        states = model(**tokenizer("hello " * 600, truncation=True, return_tensors="pt")).last_hidden_state
    assert states.shape == (1, 512, 64)
    assert states.isfinite().all()


def test_files_are_packaged():
    root = Path(__file__).parents[2]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["mner"]
    files = [path.relative_to(root / "mner").as_posix() for path in FOLDER.iterdir() if path.is_file()]
    assert len(files) == 3
    assert all(any(fnmatch.fnmatch(file, pattern) for pattern in patterns) for file in files)
