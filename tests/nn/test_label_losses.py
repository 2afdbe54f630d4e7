"""Losses that are less sure of the gold tags, against enumeration of all tag sequences."""

from __future__ import annotations

import pytest
import torch

from mner.nn.label_losses import entropy, focal, smoothing
from tests.nn.test_objectives import LENGTHS, crf, path_probabilities, views  # noqa: F401  # fixtures


@pytest.fixture
def tags():
    return torch.randint(0, 3, (4, 4))


def paths_of(crf, emissions, row):  # noqa: F811
    return path_probabilities(crf, emissions[row, : LENGTHS[row]])


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_smoothing_is_the_expected_loss(crf, views, tags, epsilon):  # noqa: F811
    emissions, _, mask = views
    found = smoothing(crf, emissions, tags, mask, epsilon) - crf(emissions, tags, mask, "none")
    for row, length in enumerate(LENGTHS):
        if not length:
            assert found[row].abs() < 1e-12
            continue
        paths, p = paths_of(crf, emissions, row)
        kept = (paths == tags[row, :length]).double()
        q = (kept * (1 - epsilon) + epsilon / 3).prod(1)
        torch.testing.assert_close(q.sum(), torch.tensor(1.0).double())
        torch.testing.assert_close(found[row], -(q * p.log()).sum())


def test_entropy(crf, views):  # noqa: F811
    emissions, _, mask = views
    found = entropy(crf, emissions, mask)
    for row, length in enumerate(LENGTHS):
        expected = torch.tensor(0.0).double()
        if length:
            _, p = paths_of(crf, emissions, row)
            expected = -(p * p.log()).sum()
        torch.testing.assert_close(found[row], expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss(crf, views, tags, gamma):  # noqa: F811
    emissions, _, mask = views
    found = focal(crf, emissions, tags, mask, gamma)
    for row, length in enumerate(LENGTHS):
        expected = torch.tensor(0.0).double()
        for word in range(length):
            paths, p = paths_of(crf, emissions, row)
            gold = p[paths[:, word] == tags[row, word]].sum()
            expected = expected - (1 - gold) ** gamma * gold.log()
        torch.testing.assert_close(found[row], expected)


def test_they_learn_and_never_read_padding(crf, views, tags):  # noqa: F811
    emissions, _, mask = views
    losses = (
        lambda e: smoothing(crf, e, tags, mask, 0.2), lambda e: entropy(crf, e, mask),
        lambda e: focal(crf, e, tags, mask, 0.5),
    )  # fmt: skip
    for loss in losses:
        crf.zero_grad()
        given = emissions.clone().requires_grad_()
        loss(given).sum().backward()
        assert given.grad.isfinite().all()
        assert not given.grad[~mask].any()
        assert all(parameter.grad.abs().sum() > 0 for parameter in crf.parameters())
        broken = emissions.masked_fill(~mask[..., None], torch.nan)
        torch.testing.assert_close(loss(broken), loss(emissions))
        assert torch.autograd.gradcheck(loss, emissions[:].clone().requires_grad_())


def test_what_is_sure_has_no_loss_and_no_entropy(crf, tags):  # noqa: F811
    sure = 1e4 * torch.nn.functional.one_hot(tags, 3).double()
    mask = torch.ones_like(tags, dtype=torch.bool)
    given = sure.requires_grad_()
    for loss in (entropy(crf, given, mask), focal(crf, given, tags, mask, 0.5)):
        (slope,) = torch.autograd.grad(loss.sum(), given)
        assert slope.isfinite().all()
        torch.testing.assert_close(loss, torch.zeros_like(loss), atol=1e-6, rtol=0)
