"""MAF: gate and matcher worked out by hand, auxiliary losses from their definitions, wrong images nowhere else."""

from __future__ import annotations

import math

import pytest
import torch

from mner.data.sample.batches import rearranged
from mner.fusion import MatchingAlignment
from mner.fusion.matching_alignment import MatchingAlignmentFusion
from tests.fusion.samples import F, build, close, sample, without_gradient

NO_IMAGE = 2


@pytest.fixture
def module():
    return build(MatchingAlignment)


@pytest.fixture
def batch():
    return sample()


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@torch.no_grad()
def test_the_fused_words_by_hand():
    """Width 1, one word, and a layer that returns the region's only number: everything is a scalar."""
    fusion = MatchingAlignmentFusion(width=1, region_width=1, heads=1, dropout=0.0)
    for part, weight, bias in (
        (fusion.projection, [[2.0]], [0.0]),
        (fusion.matcher, [[1.0, 0.5]], [-1.0]),
        (fusion.gate, [[0.3, 0.7]], [0.1]),
    ):
        part.weight.copy_(torch.tensor(weight))
        part.bias.copy_(torch.tensor(bias))
    fusion.layer.forward = lambda queries, memory, mask: (memory, None)
    one = torch.ones(1, 1, dtype=torch.bool)
    h, seen = 1.5, 2 * 0.8
    p = sigmoid(1.0 * h + 0.5 * seen - 1.0)
    gate = sigmoid(0.3 * h + 0.7 * p * seen + 0.1)
    fused = fusion(torch.tensor([[[h]]]), one, torch.tensor([[[0.8]]]), one)
    torch.testing.assert_close(fused, torch.tensor([[[h, gate * p * seen]]]))


@torch.no_grad()
def test_an_image_that_matches_not_at_all_is_no_image(module, batch):
    words, mask = module.encode(batch), batch["word_mask"]
    text = module.head(torch.cat([words, torch.zeros_like(words)], -1))
    alone = torch.zeros_like(mask)
    alone[NO_IMAGE] = mask[NO_IMAGE]
    assert close(module.emissions(batch), text, alone)
    assert not close(module.emissions(batch), text, mask & ~alone, 1e-2)
    module.fusion.matcher.bias.fill_(-1e4)
    assert close(module.emissions(batch), text, mask)


@torch.no_grad()
def test_the_matching_is_a_number_a_post(module, batch):
    matching = module.matching(batch)
    assert matching.shape == (6,)
    assert matching[NO_IMAGE] == 0
    assert ((matching > 0) & (matching < 1))[[0, 1, 3, 4, 5]].all()
    torch.testing.assert_close(module.matching(rearranged(batch, "regions")), matching)
    assert matching[[0, 1, 3, 4, 5]].std() > 1e-2
    alone = torch.cat([module.matching(sample(row)) for row in range(6)])
    torch.testing.assert_close(alone, matching, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_auxiliary_losses_are_those_of_the_formula(batch):
    module = build(MatchingAlignment, matching_weight=0.5, alignment_weight=0.25, temperature=0.2)
    parts = module.losses(batch)
    assert list(parts) == ["tagging", "matching", "alignment"]
    assert parts["tagging"] == pytest.approx(module.nll(module.emissions(batch), batch).item(), rel=1e-5)
    own = [module.matching(sample(row)).item() for row in (0, 1, 3, 4, 5)]
    wrong = []
    for row, other in ((0, 1), (1, 3), (3, 4), (4, 5), (5, 0)):
        post, image = sample(row), sample(other)
        pair = {**post, "regions": image["regions"], "region_mask": image["region_mask"]}
        wrong.append(module.matching(pair).item())
    crossed = [-math.log(p) for p in own] + [-math.log(1 - p) for p in wrong]
    assert parts["matching"].item() == pytest.approx(0.5 * sum(crossed) / 10, rel=1e-3)

    sides = []
    for row in (0, 1, 3, 4, 5):
        post = sample(row)
        text = module.fusion.text_side(module.encode(post)[0].mean(0))
        image = module.fusion.image_side(post["regions"][0].mean(0))
        sides.append((text / text.norm(), image / image.norm()))
    scores = torch.stack([torch.stack([text @ image for _, image in sides]) for text, _ in sides]) / 0.2
    both = -(scores.log_softmax(1).diagonal().mean() + scores.log_softmax(0).diagonal().mean()) / 2
    assert parts["alignment"].item() == pytest.approx(0.25 * both.item(), rel=1e-3)


@pytest.mark.parametrize("rows", [(0,), (1,), (NO_IMAGE,), (0, NO_IMAGE)])
def test_one_image_has_no_wrong_one(module, rows):
    parts = module.losses(sample(*rows))
    assert parts["matching"] == parts["alignment"] == 0
    sum(parts.values()).backward()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)
    assert [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None] == []


@torch.no_grad()
def test_no_post_is_tagged_beside_a_wrong_image(module, batch):
    """In training mode too: emissions of a post are the same whatever posts are beside it."""
    module.train()
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    together = module.losses(batch)["tagging"]
    words = batch["word_mask"].sum(1)
    each = torch.stack([module.losses(sample(row))["tagging"] for row in range(6)])
    assert together.item() == pytest.approx(((each * words).sum() / words.sum()).item(), rel=1e-3)


def test_every_parameter_learns(module, batch):
    sum(module.losses(batch).values()).backward()
    assert [name for name in without_gradient(module) if "key.bias" not in name] == []


def test_matching_pairs_are_drawn_together():
    """Steps on both auxiliary losses alone tell own images from wrong ones."""
    torch.manual_seed(0)
    module, batch = MatchingAlignment(build(MatchingAlignment).labels, region_width=F), sample()
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    module.eval()
    losses = []
    for _ in range(40):
        parts = module.losses(batch)
        losses.append((parts["matching"] + parts["alignment"]).item())
        optimizer.zero_grad()
        (parts["matching"] + parts["alignment"]).backward()
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("options", [{"matching_weight": -1.0}, {"alignment_weight": -0.1}, {"temperature": 0.0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="weights of at least 0 and `temperature` above 0, but got matching_weight="):
        build(MatchingAlignment, **options)
