"""CWI: multiplicative attention against its formula in loops, and the three strategies that leave out a part."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mner.encoders.characters import batch_characters
from mner.fusion import CharacterImage, CharacterWord, CharacterWordImage, WordImage
from mner.fusion.character_word_image import MultiplicativeAttention
from tests.fusion.samples import build, close, sample, wide, without_gradient

Q, F, D, K = 6, 9, 5, 3
REGIONS = (4, 2)
every = pytest.mark.parametrize("cls", [CharacterWordImage, CharacterImage, WordImage, CharacterWord])


@pytest.fixture
def inputs():
    mask = torch.arange(max(REGIONS)) < torch.tensor(REGIONS)[:, None]
    return torch.randn(2, 3, Q), torch.randn(2, max(REGIONS), F), mask


@pytest.fixture
def attention():
    return wide(MultiplicativeAttention(Q, F, D, K), 0.5)


@torch.no_grad()
def test_the_formula_in_loops(attention, inputs):
    queries, regions, _ = inputs
    found, weights = attention(*inputs)
    keys, values = attention.key.weight.view(K, Q, F), attention.value.weight.view(K, D, F)
    for b, r in enumerate(REGIONS):
        for t in range(3):
            parts, shares = [], []
            for k in range(K):
                scores = torch.stack([queries[b, t] @ keys[k] @ regions[b, i] / Q**0.5 for i in range(r)])
                shares.append(scores.softmax(0))
                parts.append(sum(shares[k][i] * values[k] @ regions[b, i] for i in range(r)))
            expected = torch.tanh(attention.output(torch.cat([*parts, queries[b, t]])))
            torch.testing.assert_close(found[b, t], expected, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(weights[b, t, :r], torch.stack(shares).mean(0), atol=1e-5, rtol=1e-4)
    assert (weights[1, :, REGIONS[1] :] == 0).all()


@torch.no_grad()
def test_weights_depend_on_the_word_and_order_of_regions_means_nothing(attention, inputs):
    queries, regions, mask = inputs
    found, weights = attention(*inputs)
    assert (weights[:, 0] - weights[:, 1]).abs().max() > 0.05
    moved, _ = attention(queries, regions.flip(1), mask.flip(1))
    torch.testing.assert_close(moved, found, atol=1e-5, rtol=1e-4)


@every
@torch.no_grad()
def test_each_part_is_read_unless_it_is_left_out(cls):
    module, batch = build(cls), sample(0, 3)
    before, mask = module.emissions(batch), batch["word_mask"]
    pieces = {**batch, "token_ids": batch["token_ids"].clamp(max=7)}
    letters = {**batch, "words": [tuple(word.swapcase() for word in words) for words in batch["words"]]}
    assert batch_characters(letters).shape == batch_characters(batch).shape
    image = {**batch, "regions": batch["regions"] + 1}
    read = [not close(module.emissions(other), before, mask, 1e-4) for other in (pieces, letters, image)]
    assert read == [cls.reads_words, cls.reads_characters, cls.uses_image]


@every
def test_every_parameter_learns(cls):
    module = build(cls).train()
    module.losses(sample())["tagging"].backward()
    assert [name for name in without_gradient(module) if not name.endswith("key.bias")] == []
    learning = {name.split(".")[0] for name, value in module.named_parameters() if value.requires_grad}
    assert ("text_encoder" in learning, "characters" in learning, "attention" in learning) == (
        cls.reads_words, cls.reads_characters, cls.uses_image,
    )  # fmt: skip


@torch.no_grad()
def test_emissions_are_those_of_a_bilstm_on_all_three():
    module, batch = build(CharacterWordImage, hidden=7), sample(0)
    query = module.encode(batch)
    assert query.shape[-1] == module.width + 100
    seen, _ = module.attention(query, *module.regions(batch))
    reference = nn.LSTM(2 * module.width + 100, 7, batch_first=True, bidirectional=True)
    state = dict(module.reader.forward_layers[0].state_dict())
    state |= {f"{name}_reverse": value for name, value in module.reader.backward_layers[0].state_dict().items()}
    reference.load_state_dict(state)
    expected = module.head(reference(torch.cat([query, seen], -1))[0])
    assert close(module.emissions(batch), expected, batch["word_mask"])
