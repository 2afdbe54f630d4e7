"""Files of word vectors, the vocabulary of a training split, and the folder that the command makes."""

import gzip
import json
import logging
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mner.cli import main
from mner.data.examples import Example
from mner.data.formats.word_vectors import read_vectors
from mner.data.tokenizer import PostTokenizer
from mner.data.vocabulary import (
    Coverage,
    build_vocabulary,
    count_words,
    coverage,
    find_vector,
    read_vectors_for,
    render_coverage,
)
from mner.encoders.characters import characters_to_ids
from mner.errors import DataFormatError, DataNotFoundError

from ..conftest import write_posts

ROWS = {"the": [0.5, -1.0, 2.0], ".": [1.0, 0.0, 0.25], "lagos": [3.0, -0.5, 0.0], "Oslo": [0.125, 4.0, -8.0]}


def glove(rows=ROWS):
    return "".join(f"{word} {' '.join(map(str, row))}\n" for word, row in rows.items()).encode()


def binary(rows=ROWS, end=b"\n", header=None):
    start = f"{len(rows)} 3\n".encode() if header is None else header
    return start + b"".join(word.encode() + b" " + struct.pack("<3f", *row) + end for word, row in rows.items())


FORMATS = {
    "glove": glove(),
    "glove, crlf, no end": glove().replace(b"\n", b"\r\n")[:-2],
    "glove, spaces at line ends": glove().replace(b"\n", b" \n"),
    "word2vec text": b"4 3\n" + glove(),
    "word2vec binary": binary(),
    "word2vec binary without line ends": binary(end=b""),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_vectors(tmp_path, name, zipped):
    path = tmp_path / ("vectors.gz" if zipped else "vectors")
    path.write_bytes(gzip.compress(FORMATS[name]) if zipped else FORMATS[name])
    found = read_vectors(path, {"Oslo", "lagos", "absent"}, most_frequent=1)
    assert (found.width, found.rows, found.frequent) == (3, 4, ["the"])
    assert set(found.vectors) == {"the", "lagos", "Oslo"}
    for word, vector in found.vectors.items():
        np.testing.assert_array_equal(vector, ROWS[word])
        assert vector.dtype == np.float32


def test_words_with_spaces_odd_letters_and_repeats(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_bytes(". . 1 2\n\u0085 3 4\n\u2028x 5 6\n42 7 8\n42 9 9\n".encode())
    found = read_vectors(path, {". .", "\u0085", "\u2028x", "42"})
    assert {word: vector.tolist() for word, vector in found.vectors.items()} == {
        ". .": [1, 2], "\u0085": [3, 4], "\u2028x": [5, 6], "42": [7, 8]
    }  # fmt: skip
    assert found.rows == 5


BROKEN = {
    "empty": (b"", 1, "a word and the numbers"),
    "a page": (b"<html> moved\n", 1, "a word and the numbers"),
    "a word alone": (b"the\n", 1, "a word and the numbers"),
    "two spaces": (b"the 1  2\n", 1, "a word and the numbers"),
    "no rows": (b"0 3\n", 1, "at least 1 of each"),
    "no word": (b"a 1 2\n 3 4\n", 2, "a word and 2 numbers"),
    "too few numbers": (b"a 1 2 3\nb 1 2\n", 2, "a word and 3 numbers"),
    "too many numbers": (b"a 1 2\nb 1 2 3\n", 2, "a word and 2 numbers"),
    "a blank line": (b"a 1 2\n\nb 1 2\n", 2, "a word and 2 numbers"),
    "a word for a number": (b"a 1 2\nb one two\n", 2, "a word and 2 numbers"),
    "tabs": (b"a 1 2\nb\t1\t2\n", 2, "a word and 2 numbers"),
    "not a number": (b"a 1 2\nb 1 nan\n", 2, "a word and 2 numbers"),
    "two signs": (b"a 1 2\nwanted 1 --2\n", 2, "numbers"),
    "too large": (b"a 1 2\nwanted 1 1e99\n", 2, "numbers"),
    "another encoding": (b"a 1 2\nZ\xfcrich 1 2\n", 2, "UTF-8"),
    "width as the header does not say": (b"2 2\na 1 2 3\nb 1 2 3\n", 2, "a word and 2 numbers"),
    "text cut off": (b"3 2\na 1 2\nb 1 2\n", 3, "3, as line 1 says"),
    "text too long": (b"1 2\na 1 2\nb 1 2\n", 3, "1, as line 1 says"),
    "binary cut off": (binary()[:-6], None, "4 rows of 3 floats"),
    "binary with fewer rows": (binary(header=b"5 3\n"), None, "5 rows of 3 floats"),
    "binary with more rows": (binary(header=b"3 3\n"), None, "3 rows"),
    "binary, infinite": (binary({"wanted": [1.0, float("inf"), 0.0]}), None, "numbers"),
    "gzip cut off": (gzip.compress(glove())[:-9], None, "a whole file"),
    "gzip broken": (gzip.compress(glove())[:20] + b"\xff" * 30, None, "a whole file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_with_their_line(tmp_path, name):
    content, line, expected = BROKEN[name]
    path = tmp_path / "vectors"
    path.write_bytes(content)
    with pytest.raises(DataFormatError, match="vectors") as caught:
        read_vectors(path, {"wanted"})
    assert caught.value.line == line
    assert expected in caught.value.expected
    assert caught.value.found


def test_files_that_are_not_there(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(DataNotFoundError, match="vectors"):
            read_vectors(path, set())


def test_binary_words_that_are_not_utf8_are_left_out_and_counted(tmp_path, caplog):
    path = tmp_path / "vectors.bin"
    path.write_bytes(b"2 1\n\xc3 " + struct.pack("<f", 1.0) + b"ok " + struct.pack("<f", 2.0))
    with caplog.at_level(logging.WARNING):
        found = read_vectors(path, {"ok"})
    assert found.vectors == {"ok": 2.0}
    assert "1 of 2 words are not UTF-8" in caplog.text


TRAIN = [
    ("1", ["The", "the", "Lagos", "."], ["O", "O", "B-LOC", "O"]),
    ("2", ["the", "Oslo", "zzz", ".", "[SEP]"], ["O", "B-LOC", "O", "O", "O"]),
]
VALID = [("3", ["THE", "Oslo", "new", "rare", "lagos", "new"], ["O", "B-LOC", "O", "O", "B-LOC", "O"])]


def examples(posts):
    return [Example(id_, id_, tuple(words), tuple(tags)) for id_, words, tags in posts]


@pytest.fixture
def vectors(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_bytes(glove({"the": [1, 1, 1], "Rare": [9, 9, 9]}) + glove())
    return path


def test_coverage_by_hand(vectors):
    train, valid = count_words(examples(TRAIN)), count_words(examples(VALID))
    assert train == {"the": 3, "lagos": 1, ".": 2, "oslo": 1, "zzz": 1, "[sep]": 1}
    found = read_vectors_for(vectors, examples(TRAIN + VALID))
    made = build_vocabulary(train, found)
    assert made.words == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", ".", "lagos", "oslo", "zzz", "[sep]")
    assert made.singletons == (6, 10)
    assert made.known == 4
    assert made.table[7].tolist() == ROWS["Oslo"], "the file has it in capitals alone"
    # the, ., lagos, oslo of six words; 3 + 2 + 1 + 1 of nine running ones
    assert coverage(train, made, found) == Coverage(6, 9, 4, 7, 6, 9)
    # the, oslo, rare, lagos, new: three with a vector, and in the vocabulary; new is there twice
    assert coverage(valid, made, found) == Coverage(5, 6, 3, 3, 3, 3)
    table = render_coverage({"valid": coverage(valid, made, found)}).splitlines()
    assert table[1].split() == ["valid", "different", "5", "3", "(60.0%)", "3", "(60.0%)"]
    assert table[2].split() == ["running", "6", "3", "(50.0%)", "3", "(50.0%)"]


def test_a_word_is_looked_up_as_it_is_then_in_lower_case(vectors):
    train = count_words(examples(TRAIN), lowercase=False)
    assert train == {"the": 2, "The": 1, "Lagos": 1, ".": 2, "Oslo": 1, "zzz": 1, "[SEP]": 1}
    found = read_vectors_for(vectors, examples(TRAIN))
    made = build_vocabulary(train, found, lowercase=False)
    rows = dict(zip(made.words, made.table.tolist(), strict=True))
    assert rows["Oslo"] == ROWS["Oslo"]
    assert rows["Lagos"] == ROWS["lagos"]
    assert rows["The"] == rows["the"] == [1, 1, 1]  # the first of two rows of "the"
    assert made.words.count("[SEP]") == 1, "a word that is called like a special one is that one"
    assert find_vector("LAGOS", found).tolist() == ROWS["lagos"]
    assert find_vector("zzz", found) is None


def test_most_frequent_rows_join_and_random_vectors_have_the_scale_of_the_others(tmp_path):
    generator = np.random.default_rng(0)
    path = tmp_path / "vectors.txt"
    path.write_bytes(glove({f"W{row}": generator.normal(0, 7, 50).round(3).tolist() for row in range(30)}))
    counts = {f"x{row}": 2 for row in range(200)} | {"w1": 1}
    found = read_vectors_for(path, [Example("1", None, tuple(counts))], most_frequent=20)
    made = build_vocabulary(counts, found)
    assert made.words[204:] == ("w1", "w0", *(f"w{row}" for row in range(2, 20)))
    assert made.singletons == (204, 205)
    assert not made.table[0].any()
    assert 6 < made.table[4:204].std() < 8
    assert build_vocabulary(counts, width=64).table[1:].std() == pytest.approx(1 / 8, rel=0.05)
    assert (build_vocabulary(counts, found, seed=1).table[4:204] != made.table[4:204]).any()
    assert (build_vocabulary(counts, found).table == made.table).all()
    with pytest.raises(DataFormatError, match="no word"):
        build_vocabulary({})


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "posts"
    folder.mkdir()
    write_posts(folder / "train.txt", TRAIN)
    write_posts(folder / "valid.txt", VALID)
    return folder


def test_the_command_makes_a_folder_and_says_what_is_covered(root, tmp_path, vectors, capsys):
    out = tmp_path / "made" / "here"
    more = ["--vectors", str(vectors), "--most_frequent", "2", "--characters", "bilstm", "--lstm_width", "7"]
    assert main(["vocabulary", str(root), "--out", str(out), *more]) == 0
    said = capsys.readouterr().out
    assert "11 words, 5 with a vector of the file, 4 once in training" in said
    assert "4 (66.7%)" in said
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert (config["model_type"], config["characters"], config["lstm_width"]) == ("mner-word-level", "bilstm", 7)
    assert (config["vocab_size"], config["embedding_width"], config["singletons"]) == (11, 3, [6, 10])
    weights = load_file(out / "model.safetensors")
    tokenizer = PostTokenizer(str(out))
    ids = tokenizer.encode(["LAGOS", "rare", "\ufe0f", "nowhere", "old town"], ["the lagos", "zzz?"]).ids
    assert ids.tolist() == [2, 6, 10, 1, 1, 1, 1, 3, 4, 6, 3, 1, 3]
    assert tokenizer.encode(["LAGOS"], ["the"]).post_length == 3
    assert weights["embedding.weight"][6].tolist() == ROWS["lagos"]
    assert torch.equal(weights["character_table"][6, :5].long(), characters_to_ids([["lagos"]])[0, 0])
    assert not weights["character_table"][6, 5:].any()
    assert not weights["character_table"][:4].any()
    made = json.loads((out / "vocabulary.json").read_text(encoding="utf-8"))
    assert made["vectors"] == "vectors.txt"
    assert made["coverage"]["valid"]["running"] == 6
    # Again over its own; a training split alone has no valid to look at.
    assert main(["vocabulary", str(root / "train.txt"), "--out", str(out), "--lowercase", "false"]) == 0
    assert "valid" not in capsys.readouterr().out
    assert json.loads((out / "config.json").read_text(encoding="utf-8"))["embedding_width"] == 100
    assert [path.name for path in out.parent.iterdir()] == ["here"]


def test_a_foreign_folder_is_never_touched(root, tmp_path, vectors, capsys):
    own = tmp_path / "own"
    assert main(["vocabulary", str(root), "--out", str(own)]) == 0
    (own / "notes.txt").write_text("mine", encoding="utf-8")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}", encoding="utf-8")
    for out in (own, model, root / "train.txt"):
        before = {path: path.read_bytes() for path in (out.iterdir() if out.is_dir() else [out])}
        capsys.readouterr()
        assert main(["vocabulary", str(root), "--out", str(out)]) == 2
        assert "that `mner vocabulary` made" in capsys.readouterr().err
        assert {path: path.read_bytes() for path in (out.iterdir() if out.is_dir() else [out])} == before


def test_a_failure_leaves_what_was_there(root, tmp_path, vectors, capsys):
    out = tmp_path / "out"
    assert main(["vocabulary", str(root), "--out", str(out)]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    vectors.write_bytes(glove() + b"cut 0.1\n")
    for more in (
        ["--vectors", str(vectors)],
        ["--most_frequent", "5"],
        ["--dropout", "1.5"],
        ["--embedding_width", "0"],
        ["--character_width", "7", "--characters", "bilstm"],
    ):
        assert main(["vocabulary", str(root), "--out", str(out), *more]) == 2
        assert capsys.readouterr().err.startswith("mner vocabulary: ")
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (root / "train.txt").unlink()
    assert main(["vocabulary", str(root), "--out", str(out)]) == 2
    assert "training split" in capsys.readouterr().err
