import numpy as np
import pytest
import torch
from PIL import Image

from mner.data.batching import BucketSampler, Collate
from mner.data.dataset import MNERDataset
from mner.data.examples import Example
from mner.data.tokenizer import PostTokenizer

LABELS = ["O", "B-PER", "I-PER"]
POSTS = [
    Example("1", "i1", ("anna", "b"), ("B-PER", "O"), ("a caption",)),
    Example("2", None, ("c",), ("O",)),
    Example("3", "gone", ("d", "ee", "f"), ("B-PER", "I-PER", "O")),
]


@pytest.fixture
def tokenizer(bert_folder):
    return PostTokenizer(bert_folder)


def test_batch_fields(tokenizer):
    dataset = MNERDataset(POSTS, LABELS, tokenizer)
    batch = Collate(tokenizer.pad_id)([dataset[index] for index in range(3)])
    assert batch["word_mask"].tolist() == [[True, True, False], [True, False, False], [True, True, True]]
    assert batch["tags"].tolist() == [[1, 0, 0], [0, 0, 0], [1, 2, 0]]
    assert batch["token_mask"].dtype == torch.bool
    assert batch["token_mask"].sum(1).tolist() == dataset.lengths.tolist()
    assert batch["segment_ids"][0].sum() == len("acaption") + 1
    assert batch["segment_ids"][1:].sum() == 0
    assert batch["has_image"].tolist() == [False, False, False]
    assert batch["words"][2] == ("d", "ee", "f")
    assert batch["id"] == ["1", "2", "3"]
    pieces = tokenizer.tokenizer.convert_ids_to_tokens(batch["token_ids"].gather(1, batch["word_starts"])[2].tolist())
    assert pieces == ["d", "e", "f"]


def test_images_missing_ones_are_data(tokenizer):
    def open_image(image_id):
        return Image.new("RGB", (4, 4)) if image_id == "i1" else None

    dataset = MNERDataset(POSTS, LABELS, tokenizer, open_image, lambda image: torch.ones(3, 4, 4))
    batch = Collate(0, image_shape=(3, 4, 4))([dataset[index] for index in range(3)])
    assert batch["has_image"].tolist() == [True, False, False]
    assert batch["image"].sum((1, 2, 3)).tolist() == [48.0, 0.0, 0.0]
    assert "regions" not in batch


def test_stored_regions_of_different_numbers(tokenizer):
    store = {"i1": np.ones((2, 5), np.float16), "gone": np.zeros((0, 5), np.float16)}
    dataset = MNERDataset(POSTS, LABELS, tokenizer, regions=store)
    batch = Collate(0, region_width=5)([dataset[index] for index in range(3)])
    assert batch["regions"].shape == (3, 2, 5)
    assert batch["region_mask"].tolist() == [[True, True], [False, False], [False, False]]
    assert batch["has_image"].tolist() == [True, False, False]


def test_without_gold_there_are_no_tags(tokenizer):
    dataset = MNERDataset([POSTS[0], Example("4", None, ("x",))], LABELS, tokenizer)
    assert "tags" not in Collate()([dataset[0], dataset[1]])
    assert "tags" in Collate()([dataset[0]])


def test_context_dropout_cuts_the_context(tokenizer):
    whole = MNERDataset(POSTS[:1], LABELS, tokenizer)[0]
    dropped = MNERDataset(POSTS[:1], LABELS, tokenizer, context_dropout=1.0)[0]
    assert dropped["token_ids"].tolist() == whole["token_ids"][: whole["post_length"]].tolist()
    without = MNERDataset([Example("1", None, ("anna", "b"))], LABELS, tokenizer)[0]
    assert dropped["token_ids"].tolist() == without["token_ids"].tolist()


def test_unknown_tag_names_the_post(tokenizer):
    with pytest.raises(ValueError, match=r"Post '9' has tags \['B-DOG'\]"):
        MNERDataset([Example("9", None, ("x",), ("B-DOG",))], LABELS, tokenizer)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("n", "replicas"), [(23, 1), (23, 2), (64, 3), (2, 2), (5, 4)])
def test_every_post_once_and_as_many_batches_in_each_process(n, replicas, shuffle):
    lengths = np.random.default_rng(0).integers(1, 40, n)
    samplers = [BucketSampler(lengths, 4, shuffle, num_replicas=replicas, rank=rank) for rank in range(replicas)]
    batches = [list(sampler) for sampler in samplers]
    assert len({len(part) for part in batches}) == 1
    assert len(samplers[0]) == len(batches[0])
    assert sorted(index for part in batches for batch in part for index in batch) == list(range(n))
    assert all(0 < len(batch) <= 4 for part in batches for batch in part)


def test_buckets_are_tight_and_epochs_differ():
    lengths = np.random.default_rng(0).integers(5, 60, 2000)
    sampler = BucketSampler(lengths, 32, shuffle=True)
    first = list(sampler)
    padded = sum(len(batch) * lengths[batch].max() for batch in first)
    assert lengths.sum() / padded > 0.95
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_too_few_posts_for_the_processes():
    with pytest.raises(ValueError, match="at least one post for each of 3"):
        BucketSampler(np.array([1, 2]), 4, False, num_replicas=3, rank=0)


def test_batches_are_looked_up_together(tokenizer):
    dataset = MNERDataset(POSTS, LABELS, tokenizer)
    assert [item["example"].id for item in dataset.__getitems__([2, 0])] == ["3", "1"]
