"""The number of pieces that an encoder takes: that many can be encoded, and one more cannot."""

from __future__ import annotations

import pytest
import torch

from mner.encoders.text import TextEncoder, piece_limit

from .tiny_models import encoder

ROWS = 24
WITH_LIMIT = {
    "bert": ROWS, "albert": ROWS, "electra": ROWS, "distilbert": ROWS, "visual_bert": ROWS, "bart": ROWS, "mbart": ROWS,
    # They count from behind the padding index, which is 1.
    "roberta": ROWS - 2, "xlm-roberta": ROWS - 2, "camembert": ROWS - 2, "mpnet": ROWS - 2,
}  # fmt: skip
WITHOUT = ["deberta-v2", "modernbert", "t5", "mt5"]


def read(text_encoder, pieces):
    ids = torch.randint(3, 40, (2, pieces))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, pieces // 2 :] = False
    return text_encoder(ids.masked_fill(~mask, 1), mask, torch.zeros_like(ids))


@pytest.mark.parametrize(("kind", "limit"), WITH_LIMIT.items())
def test_as_many_as_it_says_and_not_one_more(kind, limit):
    text_encoder = encoder(kind)
    assert text_encoder.piece_limit == piece_limit(text_encoder.model) == limit
    assert read(text_encoder, limit).shape == (2, limit, 16)
    with pytest.raises((IndexError, RuntimeError)):
        read(text_encoder, limit + 1)


@pytest.mark.parametrize("kind", WITHOUT)
def test_relative_and_rotary_positions_have_no_limit(kind):
    text_encoder = encoder(kind)
    assert text_encoder.piece_limit is None
    assert read(text_encoder, 5 * ROWS).isfinite().all()


def test_deberta_with_absolute_positions_has_one():
    text_encoder = encoder("deberta-v2", position_biased_input=True)
    assert text_encoder.piece_limit == ROWS
    read(text_encoder, ROWS)
    with pytest.raises((IndexError, RuntimeError)):
        read(text_encoder, ROWS + 1)


def test_padding_counts_like_pieces_in_bert_and_by_its_index_in_roberta():
    """The limit holds for the padded length in all of them, so that nobody has to know which is which."""
    for kind, padding, limit in (("roberta", 0, ROWS - 1), ("roberta", 5, ROWS - 6), ("bert", 5, ROWS)):
        assert encoder(kind, pad_token_id=padding).piece_limit == limit


def test_the_built_in_encoder():
    text_encoder = TextEncoder("tiny")
    assert text_encoder.piece_limit == text_encoder.config["max_position_embeddings"] == 512
