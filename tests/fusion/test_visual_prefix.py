"""HVPNeT: what makes the prefix against the formula in loops, and the words that read it."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import BertModel

from mner.fusion import TextOnly, VisualPrefix
from mner.fusion.visual_prefix import PrefixMaker
from mner.nn.masking import first_pieces
from tests.encoders.tiny_models import plain
from tests.fusion.samples import F, build, close, labels, sample, wide, without_gradient

NO_IMAGE, FOUR = 2, 3  # rows without image, and with four regions
D, HEADS, LAYERS, PLACES, SLICES = 8, 2, 3, 2, 4


@pytest.fixture
def maker():
    return wide(PrefixMaker(F, D, HEADS, LAYERS, PLACES, hidden=5), 0.5)


@pytest.fixture(params=[1, 4], ids=["regions", "pyramids"])
def module(request):
    return build(VisualPrefix, places=request.param, prefix_hidden=7)


@pytest.fixture
def batch():
    return sample()


def slot(maker, region, place, layer):
    """Key and value (2d) of a place of a region, in loops; and the weights of the slices."""
    first, _, second = maker.projection
    f = F // PLACES
    slices = []  # of each place: g times 2d
    for number in range(PLACES):
        made = second.weight @ torch.tanh(first.weight @ region[number * f : (number + 1) * f] + first.bias)
        slices.append((made + second.bias).view(SLICES, 2 * D))
    mean = torch.cat([sum(each) / SLICES for each in slices])
    scores = maker.gates[layer].weight @ mean + maker.gates[layer].bias
    scores = torch.where(scores > 0, scores, 0.01 * scores)
    weights = scores.exp() / scores.exp().sum()
    return sum(weights[g] * slices[place][g] for g in range(SLICES)), weights


@torch.no_grad()
def test_each_head_reads_its_columns_of_each_slot(maker):
    regions = torch.randn(2, 3, F)
    keys, values = maker(regions)
    assert keys.shape == values.shape == (LAYERS, 2, HEADS, 3 * PLACES, D // HEADS)
    for layer in range(LAYERS):
        for b, r, place in ((0, 0, 0), (0, 2, 1), (1, 1, 0), (1, 2, 1)):
            pair, _ = slot(maker, regions[b, r], place, layer)
            for head in range(HEADS):
                columns = slice(head * D // HEADS, (head + 1) * D // HEADS)
                at = (layer, b, head, r * PLACES + place)
                torch.testing.assert_close(keys[at], pair[:D][columns])
                torch.testing.assert_close(values[at], pair[D:][columns])


@torch.no_grad()
def test_slices_have_weights_that_sum_to_1_and_differ_by_region_and_layer(maker):
    regions = torch.randn(1, 2, F)
    slices = maker.projection(regions.unflatten(-1, (PLACES, -1))).unflatten(-1, (SLICES, -1))
    weights = maker.weights(slices)
    assert weights.shape == (LAYERS, 1, 2, SLICES)
    torch.testing.assert_close(weights.sum(-1), torch.ones(LAYERS, 1, 2))
    torch.testing.assert_close(weights[1, 0, 1], slot(maker, regions[0, 1], 0, 1)[1])
    assert (weights[0, 0, 0] - weights[1, 0, 0]).abs().max() > 1e-3
    assert (weights[0, 0, 0] - weights[0, 0, 1]).abs().max() > 1e-3


@torch.no_grad()
def test_a_masked_prefix_is_the_plain_model(module, batch):
    reference = BertModel(module.text_encoder.model.config, add_pooling_layer=False).eval()
    reference.load_state_dict(module.text_encoder.model.state_dict())
    states = reference(
        input_ids=batch["token_ids"], attention_mask=batch["token_mask"].long(), token_type_ids=batch["segment_ids"]
    ).last_hidden_state
    expected = first_pieces(states, batch["word_starts"])
    hidden = {**batch, "region_mask": torch.zeros_like(batch["region_mask"])}
    assert close(module.encode(hidden), expected, batch["word_mask"])
    seen = (module.encode(batch) - expected).abs().amax(-1)
    has_image = batch["has_image"][:, None] & batch["word_mask"]
    assert seen[has_image].min() > 1e-3
    assert seen[~has_image & batch["word_mask"]].max() < 1e-5


@torch.no_grad()
def test_words_attend_to_slots_before_words(batch):
    """The first layer by hand: softmax of queries with [K'; K]."""
    module = build(VisualPrefix, places=4, prefix_hidden=7)
    model, row = module.text_encoder.model, FOUR
    t, r = int(batch["token_mask"][row].sum()), int(batch["region_mask"][row].sum())
    keys, values = (each[0, row, :, : 4 * r] for each in module.prefix(batch["regions"].float()))
    attention = model.encoder.layer[0].attention.self
    states = model.embeddings(batch["token_ids"], batch["segment_ids"])[row, :t]
    query, key, value = (
        part(states).unflatten(-1, (len(keys), -1)).transpose(0, 1)
        for part in (attention.query, attention.key, attention.value)
    )
    weights = (query @ torch.cat([keys, key], 1).mT / query.shape[-1] ** 0.5).softmax(-1)
    expected = (weights @ torch.cat([values, value], 1)).transpose(0, 1).flatten(1)
    seen = []
    hook = attention.register_forward_hook(lambda _, __, output: seen.append(output[0]))
    module.encode(batch)
    hook.remove()
    torch.testing.assert_close(seen[0][row, :t], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_an_absent_crop_is_not_a_black_one(module, batch):
    row = FOUR
    r = int(batch["region_mask"][row].sum())
    assert r > 1
    black, absent = copy.deepcopy(batch), copy.deepcopy(batch)
    black["regions"][row, r - 1] = 0.0
    absent["regions"][row, r - 1], absent["region_mask"][row, r - 1] = 50.0, False
    words = len(batch["words"][row])
    given, one, other = (module.emissions(each)[row, :words] for each in (batch, black, absent))
    assert all((a - b).abs().max() > 1e-4 for a, b in ((given, one), (given, other), (one, other)))
    less = {**sample(row), **{key: batch[key][row : row + 1, : r - 1] for key in ("regions", "region_mask")}}
    torch.testing.assert_close(module.emissions(less)[0], other, atol=1e-5, rtol=1e-4)


def test_every_parameter_learns_and_what_makes_the_prefix_as_the_encoder(module, batch):
    module.losses(batch)["tagging"].backward()
    assert without_gradient(module) == []
    assert module.pretrained == [module.text_encoder, module.prefix]


@torch.no_grad()
def test_nothing_stays_behind(module, batch):
    before = module.text_encoder.model.config._attn_implementation
    module.emissions(batch)
    with pytest.raises(IndexError):
        module.emissions({**batch, "token_ids": batch["token_ids"] + 5000})
    assert module.text_encoder.model.config._attn_implementation == before
    text = TextOnly(labels()).eval()
    text.text_encoder.load_state_dict(module.text_encoder.state_dict())
    assert close(module.text_encoder.words(batch), text.text_encoder.words(batch), batch["word_mask"])


def test_places_that_do_not_divide_a_region_are_refused():
    with pytest.raises(ValueError, match=f"divide the region's width {F}, but got 5; it is 4 for features"):
        VisualPrefix(labels(), region_width=F, places=5)


@pytest.mark.parametrize("kind", ["mpnet", "deberta-v2", "albert"])
def test_an_encoder_that_takes_no_prefix_is_refused_before_training(kind):
    with pytest.raises(ValueError, match=f"whose attention takes a prefix.*{kind}"):
        VisualPrefix(labels(), plain(kind), region_width=F)


@pytest.mark.parametrize("kind", ["roberta", "distilbert", "electra", "modernbert"])
def test_other_encoders_read_it(kind, batch):
    module = wide(VisualPrefix(labels(), plain(kind, vocab_size=3000, max_position_embeddings=80), region_width=F))
    emissions = module.emissions(batch)
    hidden = module.emissions({**batch, "region_mask": torch.zeros_like(batch["region_mask"])})
    assert not close(emissions[batch["has_image"]], hidden[batch["has_image"]], batch["word_mask"][batch["has_image"]])
    assert close(emissions[[NO_IMAGE]], hidden[[NO_IMAGE]], batch["word_mask"][[NO_IMAGE]])
