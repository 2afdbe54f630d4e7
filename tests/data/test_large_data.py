"""Many posts: what is kept of them is flat, and how they are cut into chunks changes nothing."""

import tracemalloc

import numpy as np
import pytest

from mner.data import dataset as module
from mner.data import read_conll, read_jsonl
from mner.data.dataset import MNERDataset
from mner.data.examples import Example
from mner.data.formats.conll import write_conll
from mner.data.formats.json_lines import write_jsonl
from mner.data.tokenizer import PostTokenizer
from mner.labels import bio_labels

LABELS = bio_labels(["PER"])


@pytest.fixture(scope="module")
def tokenizer():
    return PostTokenizer("tiny", max_length=24)


def posts(count, context=True):
    words = ["Anna", "visits", "Orrinda", "\ufe0f", "https://t.co/abc", "unbelievable"]
    return [
        Example(
            str(number),
            None,
            tuple(words[(number + place) % 6] + str(place % 2) for place in range(1 + number % 7)),
            ("O",) * (1 + number % 7),
            (f"a photo of {words[number % 6]}",) * (number % 3) if context else (),
        )
        for number in range(count)
    ]


def test_chunks_change_nothing(tokenizer, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 3)
    monkeypatch.setattr(module, "KNOWN", 4)
    some = posts(20)
    dataset = MNERDataset(some, LABELS, tokenizer)
    for number, post in enumerate(some):
        expected = tokenizer.encode(post.words, post.context)
        item = dataset[number]
        np.testing.assert_array_equal(item["token_ids"], expected.ids)
        np.testing.assert_array_equal(item["word_starts"], expected.word_starts)
        assert item["post_length"] == expected.post_length
        assert dataset.lengths[number] == len(expected.ids)


def test_an_empty_data_set_is_one(tokenizer):
    assert len(MNERDataset([], LABELS, tokenizer)) == 0


def test_a_post_costs_no_more_than_its_numbers(tokenizer):
    some = posts(4000, context=False)
    numbers = sum(len(tokenizer.encode(post.words).ids) + 2 * len(post.words) for post in some) * 4
    tracemalloc.start()
    dataset = MNERDataset(some, LABELS, tokenizer)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(dataset) == 4000
    # Growing arrays have room to spare; the ends and lengths of posts, and the list of posts, come on top.
    assert peak < 1.5 * numbers + 4000 * 40 + 100_000


@pytest.mark.parametrize(
    ("suffix", "read", "write"), [("txt", read_conll, write_conll), ("jsonl", read_jsonl, write_jsonl)]
)
def test_a_word_that_is_read_twice_is_kept_once(tmp_path, suffix, read, write):
    path = tmp_path / f"posts.{suffix}"
    write(path, [Example(str(number), str(number), ("Anna", "sings"), ("B-PER", "O")) for number in range(2)])
    one, two = read(path)
    assert one == Example("0", "0", ("Anna", "sings"), ("B-PER", "O"))
    assert all(first is second for first, second in zip(one.words + one.tags, two.words + two.tags, strict=True))
