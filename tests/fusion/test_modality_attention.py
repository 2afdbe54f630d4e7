"""Moon et al.: the weights of word, characters and image, against the formula in loops and the bound of its sigmoid."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mner.encoders.characters import batch_characters
from mner.fusion import ModalityAttention
from mner.fusion.modality_attention import ModalityAttentionFusion
from tests.fusion.samples import build, close, sample, wide, without_gradient

D, C, F, P = 6, 4, 9, 5
REGIONS = (3, 1, 0)
LEAST, MOST = 1 / (1 + 2 * math.e), math.e / (math.e + 2)
NO_IMAGE = 2


@pytest.fixture
def inputs():
    region_mask = torch.arange(max(REGIONS)) < torch.tensor(REGIONS)[:, None]
    return torch.randn(3, 7, D), torch.randn(3, 7, C), torch.randn(3, max(REGIONS), F), region_mask


def make(bounded=True):
    return wide(ModalityAttentionFusion(D, F, C, P, bounded), 0.5)


@torch.no_grad()
@pytest.mark.parametrize("bounded", [True, False])
def test_the_formula_in_loops(inputs, bounded):
    fusion = make(bounded)
    words, characters, regions, _ = inputs
    found, weights = fusion(*inputs)
    for b in range(2):
        image = fusion.image_projection(regions[b, : REGIONS[b]].mean(0))
        for t in range(7):
            word, letters = fusion.word_projection(words[b, t]), fusion.character_projection(characters[b, t])
            a = fusion.weigh.weight @ torch.cat([word, letters, image]) + fusion.weigh.bias
            a = torch.sigmoid(a) if bounded else a
            alpha = a.exp() / a.exp().sum()
            expected = alpha[0] * word + alpha[1] * letters + alpha[2] * image
            torch.testing.assert_close(weights[b, t], alpha, atol=1e-6, rtol=1e-4)
            torch.testing.assert_close(found[b, t], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 7))


@torch.no_grad()
def test_the_sigmoid_bounds_the_weights(inputs):
    fusion = make()
    fusion.weigh.weight *= 1e3 / fusion.weigh.weight.abs().max()
    weights = fusion(*inputs)[1][:2]
    assert LEAST - 1e-6 <= weights.min() < LEAST + 1e-3
    assert MOST - 1e-3 < weights.max() <= MOST + 1e-6
    fusion.bounded = False
    weights = fusion(*inputs)[1][:2]
    assert weights.min() < 1e-6
    assert weights.max() > 1 - 1e-6


@torch.no_grad()
@pytest.mark.parametrize("bounded", [True, False])
def test_without_weights_it_is_the_mean(inputs, bounded):
    fusion = make(bounded)
    for parameter in fusion.weigh.parameters():
        parameter.zero_()
    words, characters, regions, _ = inputs
    found, _ = fusion(*inputs)
    image = fusion.image_projection(torch.stack([regions[0, :3].mean(0), regions[1, 0]]))[:, None]
    mean = (fusion.word_projection(words) + fusion.character_projection(characters))[:2] + image
    torch.testing.assert_close(found[:2], mean / 3, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_an_image_that_is_not_there_has_no_weight(inputs):
    fusion = make()
    words, characters, regions, region_mask = inputs
    _, weights = fusion(*inputs)
    assert (weights[2, :, 2] == 0).all()
    torch.testing.assert_close(weights[2].sum(-1), torch.ones(7))
    other = torch.where(region_mask[..., None], regions, 50.0)
    torch.testing.assert_close(fusion(words, characters, other, region_mask)[0], fusion(*inputs)[0])


@torch.no_grad()
def test_order_of_regions_means_nothing(inputs):
    fusion = make()
    words, characters, regions, region_mask = inputs
    moved, _ = fusion(words, characters, regions.flip(1), region_mask.flip(1))
    torch.testing.assert_close(moved, fusion(*inputs)[0], atol=1e-6, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("drop", [False, True])
def test_posts_without_image(drop):
    module, batch = build(ModalityAttention, drop_missing_image=drop), sample()
    assert module.no_image.requires_grad is not drop
    before = module.emissions(batch)
    module.no_image += 1
    assert torch.equal(module.emissions(batch), before) is drop
    words = module.encode(batch)
    parts = words[..., : module.width], words[..., module.width :]
    weights = module.fusion(*parts, *module.regions(batch))[1]
    assert (weights[NO_IMAGE, :, 2] == 0).all() == drop
    assert (weights[0, :, 2] > 0).all()


@torch.no_grad()
def test_characters_are_read_by_an_lstm_in_both_directions():
    module, batch = build(ModalityAttention, character_width=10), sample(0, 1)
    ids = batch_characters(batch)
    found = module.encode(batch)[..., module.width :]
    assert found.shape[-1] == 10
    other = {**batch, "words": [("X" + words[0][1:], *words[1:]) for words in batch["words"]]}
    assert batch_characters(other).shape == ids.shape
    changed = module.encode(other)[..., module.width :] != found
    assert changed[:, 0].any(-1).all()
    assert not changed[:, 1:].any()
    assert any(isinstance(part, nn.LSTM) for part in module.characters.modules())


@torch.no_grad()
def test_emissions_are_those_of_a_bilstm_on_the_fused_words():
    module, batch = build(ModalityAttention, hidden=7, projected_width=11), sample(0)
    words = module.encode(batch)
    fused, _ = module.fusion(words[..., : module.width], words[..., module.width :], *module.regions(batch))
    assert fused.shape[-1] == 11
    reference = nn.LSTM(11, 7, batch_first=True, bidirectional=True)
    forth, back = module.reader.forward_layers[0], module.reader.backward_layers[0]
    reference.load_state_dict(
        {**forth.state_dict(), **{f"{name}_reverse": value for name, value in back.state_dict().items()}}
    )
    expected = module.head(reference(fused)[0])
    assert close(module.emissions(batch), expected, batch["word_mask"])


@pytest.mark.parametrize("options", [{}, {"bounded": False}, {"drop_missing_image": True}])
def test_every_parameter_learns(options):
    module = build(ModalityAttention, **options).train()
    module.losses(sample())["tagging"].backward()
    assert [name for name in without_gradient(module) if not name.endswith("key.bias")] == []
