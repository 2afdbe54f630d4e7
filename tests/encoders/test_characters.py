"""Words as characters."""

import hashlib

import pytest
import torch

from mner.encoders.characters import CHARACTER_COUNT, MAX_CHARACTERS, CharacterEncoder, characters_to_ids

POSTS = [["RT", "@Bieber", ":", "a"], ["Zürich", "🙂"]]


def test_ids_are_padded_to_the_longest_post_and_word():
    ids = characters_to_ids(POSTS)
    assert ids.shape == (2, 4, 7)
    assert ids.dtype == torch.int64
    lengths = (ids > 0).sum(-1)
    assert lengths.tolist() == [[2, 7, 1, 1], [6, 1, 0, 0]]
    assert ids.max() < CHARACTER_COUNT


@pytest.mark.parametrize("length", [1, 2, 6])
def test_length_cuts_and_pads_words(length):
    ids, whole = characters_to_ids(POSTS, length), characters_to_ids(POSTS)
    assert ids.shape[:2] == (2, length)
    shared, c = min(length, 4), ids.shape[2]
    assert torch.equal(ids[:, :shared], whole[:, :shared, :c])
    assert not ids[:, shared:].any()


def test_case_is_kept_and_unlisted_characters_fall_into_two_classes():
    upper, lower, japanese, arabic, smile, heart = characters_to_ids([["A", "a", "日", "ع", "🙂", "♥"]])[
        0, :, 0
    ].tolist()
    assert upper != lower
    assert japanese == arabic == 1
    assert smile == heart == 2


def test_character_set_is_fixed():
    """Checkpoints depend on it: if this fails, old checkpoints read other characters than they learned."""
    codes = [*range(0x100), *range(0x2000, 0x2070), 0x20AC, 0x2122]
    ids = characters_to_ids([[chr(code) for code in codes]])
    assert CHARACTER_COUNT == 202
    assert hashlib.sha256(bytes(ids[0, :, 0].tolist())).hexdigest()[:16] == "89b6ce59a9fe6444"


@pytest.mark.parametrize("posts", [[[]], [["", "a"]], [["x" * 100]], []])
def test_odd_input(posts):
    ids = characters_to_ids(posts)
    assert ids.shape[:2] == (len(posts), max((len(post) for post in posts), default=0))
    assert 1 <= ids.shape[2] <= MAX_CHARACTERS
    assert all(ids[0, place, 0] > 0 for place in range(ids.shape[1] if posts else 0))
    assert CharacterEncoder(5)(ids).shape == (*ids.shape[:2], 5)


def test_encoder_equals_its_formula():
    torch.manual_seed(0)
    encoder = CharacterEncoder(5, embedding_width=3, filters=2)
    word = "Toronto"
    ids = characters_to_ids([[word]])[0, 0]
    vectors = torch.cat([encoder.embedding(ids), torch.zeros(3, 3)])
    best = []
    for k, convolution in zip((2, 3, 4), encoder.convolutions, strict=True):
        windows = [
            torch.stack([(convolution.weight[f] * vectors[i : i + k].T).sum() + convolution.bias[f] for f in range(2)])
            for i in range(len(word))
        ]
        best.append(torch.stack(windows).relu().amax(0))
    torch.testing.assert_close(encoder(ids[None, None])[0, 0], encoder.projection(torch.cat(best)))


def test_neither_other_words_nor_padding_change_a_word():
    torch.manual_seed(0)
    encoder = CharacterEncoder()
    together = encoder(characters_to_ids(POSTS))
    for row, post in enumerate(POSTS):
        for place, word in enumerate(post):
            torch.testing.assert_close(together[row, place], encoder(characters_to_ids([[word]]))[0, 0])


def test_every_parameter_gets_a_gradient_and_the_padding_vector_stays_zero():
    encoder = CharacterEncoder()
    encoder(characters_to_ids(POSTS)).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in encoder.parameters())
    assert not encoder.embedding.weight[0].any()
    assert not encoder.embedding.weight.grad[0].any()


def test_bf16_autocast():
    encoder, ids = CharacterEncoder(), characters_to_ids(POSTS)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = encoder(ids)
    torch.testing.assert_close(rounded.float(), encoder(ids), rtol=0.1, atol=0.05)
