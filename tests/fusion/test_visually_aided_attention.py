"""Arshad et al.: directional attention that sees the image, against the formula in loops."""

from __future__ import annotations

import copy

import pytest
import torch

from mner.fusion import VisuallyAidedAttention
from mner.fusion.visually_aided_attention import VisuallyAidedAttentionFusion, bounded
from tests.fusion.samples import build, close, sample, wide, without_gradient

D, F, K = 6, 9, 5
WORDS, REGIONS = (4, 1, 3), (3, 2, 1)


@pytest.fixture
def inputs():
    word_mask = torch.arange(max(WORDS)) < torch.tensor(WORDS)[:, None]
    region_mask = torch.arange(max(REGIONS)) < torch.tensor(REGIONS)[:, None]
    return torch.randn(3, max(WORDS), D), word_mask, torch.randn(3, max(REGIONS), F), region_mask


def make(both=False, reads=False):
    return wide(VisuallyAidedAttentionFusion(D, F, K, 12, both, reads), 0.6)


def directed(block, words, regions):
    """One post, without padding: the formula pair by pair."""
    out = []
    for i in range(len(words)):
        scores, values = [], []
        for j in range(i + 1, len(words)) if block.backward else range(i):
            pair = bounded(block.of_other.weight @ words[j] + block.of_self.weight @ words[i] + block.of_self.bias)
            if block.image:
                query = block.outer.weight @ torch.relu(block.inner(pair))
                seen = torch.stack([bounded(query + block.of_region(g)) for g in regions]).softmax(0)
                context = (seen * regions).sum(0)
                gate = torch.sigmoid(block.image_gate(torch.cat([context, pair])))
                pair = gate * pair + (1 - gate) * context
            scores.append(pair)
            values.append(words[j] + context if block.image and block.reads_image else words[j])
        read = (torch.stack(scores).softmax(0) * torch.stack(values)).sum(0) if scores else torch.zeros(K)
        kept = torch.sigmoid(block.fusion_gate(torch.cat([words[i], read])))
        out.append(kept * words[i] + (1 - kept) * read)
    return torch.stack(out)


@torch.no_grad()
@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("both", [False, True])
def test_the_formula_in_loops(inputs, both, reads):
    fusion = make(both, reads)
    words, _, regions, _ = inputs
    found = fusion(*inputs)
    for b, (w, r) in enumerate(zip(WORDS, REGIONS, strict=True)):
        h, g = torch.relu(fusion.words(words[b, :w])), torch.relu(fusion.regions(regions[b, :r]))
        parts = torch.cat([directed(fusion.ahead, h, g), directed(fusion.behind, h, g)], -1)
        torch.testing.assert_close(found[b, :w], torch.relu(fusion.output(parts)), atol=1e-5, rtol=1e-4)


def halves(fusion, inputs):
    words, word_mask, regions, region_mask = inputs
    given = (fusion.words(words).relu(), word_mask, fusion.regions(regions).relu(), region_mask)
    return fusion.ahead(*given), fusion.behind(*given)


@torch.no_grad()
def test_with_an_open_gate_the_image_has_no_effect(inputs):
    fusion = make()
    words, word_mask, regions, region_mask = inputs
    other = (words, word_mask, regions + 2, region_mask)
    assert (fusion(*other) - fusion(*inputs))[word_mask].abs().max() > 1e-3
    fusion.ahead.image_gate.bias.fill_(1e4)
    assert torch.equal(fusion(*other)[word_mask], fusion(*inputs)[word_mask])


@torch.no_grad()
def test_only_the_forward_half_sees_the_image_unless_both_do(inputs):
    words, word_mask, regions, region_mask = inputs
    for both in (False, True):
        fusion = make(both)
        one = halves(fusion, inputs)
        other = halves(fusion, (words, word_mask, regions + 2, region_mask))
        changed = [bool((a - b)[0].abs().max() > 1e-4) for a, b in zip(one, other, strict=True)]
        assert changed == [True, both]


@torch.no_grad()
@pytest.mark.parametrize("both", [False, True])
def test_the_first_two_words_do_not_see_the_image_unless_both_halves_do(both):
    fusion = make(both)
    given = (torch.randn(1, 5, D), torch.ones(1, 5, dtype=torch.bool), torch.randn(1, 3, F), torch.ones(1, 3).bool())
    other = (*given[:2], given[2] + 2, given[3])
    changed = (fusion(*other) - fusion(*given)).abs().amax(-1)[0] > 1e-5
    assert changed.tolist() == [both, both, True, True, True]


@torch.no_grad()
def test_what_all_pairs_see_alike_is_lost_unless_it_is_read():
    """One region: each pair sees it, whatever its query; with an open gate only its being read can tell."""
    given = (torch.randn(1, 4, D), torch.ones(1, 4, dtype=torch.bool), torch.randn(1, 1, F), torch.ones(1, 1).bool())
    other = (*given[:2], given[2] + 2, given[3])
    for reads in (False, True):
        fusion = make(both=True, reads=reads)
        for block in (fusion.ahead, fusion.behind):
            block.image_gate.weight.zero_()  # else the gate differs from pair to pair
        changed = (fusion(*other) - fusion(*given)).abs().amax(-1)[0] > 1e-5
        assert changed.tolist() == [reads] * 4


def test_each_half_reads_the_words_on_its_side():
    fusion = make(both=True)
    words = torch.randn(1, 5, D, requires_grad=True)
    given = (words, torch.ones(1, 5, dtype=torch.bool), torch.randn(1, 3, F), torch.ones(1, 3, dtype=torch.bool))
    ahead, behind = halves(fusion, given)
    for i in range(5):
        (gradient,) = torch.autograd.grad(ahead[0, i].sum(), words, retain_graph=True)
        assert (gradient[0].abs().sum(-1) > 0).tolist() == [j <= i for j in range(5)]
        (gradient,) = torch.autograd.grad(behind[0, i].sum(), words, retain_graph=True)
        assert (gradient[0].abs().sum(-1) > 0).tolist() == [j >= i for j in range(5)]


@torch.no_grad()
def test_the_first_and_the_last_word_have_nobody_to_read(inputs):
    fusion = make()
    h = fusion.words(inputs[0]).relu()
    ahead, behind = halves(fusion, inputs)
    for half, block, places in ((ahead, fusion.ahead, (0, 0, 0)), (behind, fusion.behind, (3, 0, 2))):
        for b, i in enumerate(places):
            kept = torch.sigmoid(block.fusion_gate(torch.cat([h[b, i], torch.zeros(K)])))
            torch.testing.assert_close(half[b, i], kept * h[b, i])


def test_order_of_regions_means_nothing_and_padding_gets_no_gradient(inputs):
    fusion = make(both=True)
    words, word_mask, regions, region_mask = inputs
    regions.requires_grad_()
    found = fusion(*inputs)
    moved = fusion(words, word_mask, regions.flip(1), region_mask.flip(1))
    torch.testing.assert_close(moved[word_mask], found[word_mask], atol=1e-5, rtol=1e-4)
    found[word_mask].sum().backward()
    reached = regions.grad.abs().sum(-1) > 0
    assert not (reached & ~region_mask).any()
    assert reached[0].all()


def test_training_computes_again_what_it_did_not_keep(inputs):
    """The same numbers and gradients as in evaluation mode."""
    fusion = wide(VisuallyAidedAttentionFusion(D, F, K, 12, True, dropout=0.0), 0.6)
    other = copy.deepcopy(fusion).train()
    one, two = fusion(*inputs), other(*inputs)
    torch.testing.assert_close(one, two)
    for module, found in ((fusion, one), (other, two)):
        found[inputs[1]].square().sum().backward()
        assert without_gradient(module) == []
    for first, second in zip(fusion.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad, atol=1e-5, rtol=1e-3)


def test_the_image_gate_starts_open():
    fresh = VisuallyAidedAttentionFusion(D, F)
    assert (fresh.ahead.image_gate.bias == 1).all()
    assert fresh.output.out_features == 600
    assert not fresh.behind.image


@torch.no_grad()
def test_a_post_alone_is_tagged_as_beside_others():
    module, batch = build(VisuallyAidedAttention, attention_width=8), sample()
    emissions = module.emissions(batch)
    for row in range(6):
        alone = sample(row)
        w = alone["word_mask"].shape[1]
        assert close(emissions[row : row + 1, :w], module.emissions(alone), alone["word_mask"])


@pytest.mark.parametrize("both", [False, True])
def test_every_parameter_learns(both):
    module = build(VisuallyAidedAttention, attention_width=8, both_directions=both).train()
    module.losses(sample())["tagging"].backward()
    assert [name for name in without_gradient(module) if not name.endswith("key.bias")] == []
