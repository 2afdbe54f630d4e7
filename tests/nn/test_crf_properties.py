"""The CRF against enumeration on random small problems, and against torchcrf where that is defined."""

import itertools

import numpy as np
import pytest
import torch
import torchcrf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mner.labels import allowed_transitions
from mner.nn.crf import CRF

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
SCALES = [0.0, 1.0, 30.0, 1000.0]  # of the emissions; the last is what half-precision training can come to


@st.composite
def problems(draw: st.DrawFn) -> tuple[CRF, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A CRF, emissions, tags, mask: rows of any length, 0 too; rubbish where the mask is false."""
    constrain = draw(st.booleans())
    num_tags = len(LABELS) if constrain else draw(st.integers(1, 4))
    lengths = draw(st.lists(st.integers(0, 3 if constrain else 4), min_size=1, max_size=3))
    width = max(lengths) + draw(st.integers(0, 2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    crf = CRF(num_tags, batch_first=True, labels=LABELS if constrain else None).double()
    scale, own = draw(st.sampled_from(SCALES)), draw(st.sampled_from([0.0, 1.0, 200.0]))
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter.copy_(own * torch.randn(parameter.shape, generator=generator))
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    emissions = scale * torch.randn(len(lengths), width, num_tags, generator=generator, dtype=torch.float64)
    rubbish = draw(st.sampled_from([0.0, float("nan"), float("inf"), -float("inf")]))
    emissions = emissions.masked_fill(~mask[..., None], rubbish)
    tags = torch.randint(num_tags, mask.shape, generator=generator).masked_fill(~mask, draw(st.sampled_from([0, -100])))
    return crf, emissions, tags, mask


def all_paths(crf: CRF, emissions: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Every path over emissions (w, l), (paths, w), and its score in float64."""
    nodes, edges = emissions.numpy(), crf.transitions.detach().numpy()
    paths = np.array(list(itertools.product(range(crf.num_tags), repeat=len(nodes))), dtype=int)
    scores = crf.start_transitions.detach().numpy()[paths[:, 0]] + crf.end_transitions.detach().numpy()[paths[:, -1]]
    scores = scores + nodes[np.arange(len(nodes)), paths].sum(1) + edges[paths[:, :-1], paths[:, 1:]].sum(1)
    return paths, scores


def log_sum(scores: np.ndarray) -> float:
    return float(scores.max() + np.log(np.exp(scores - scores.max()).sum()))


@settings(max_examples=60, deadline=None)
@given(problem=problems())
def test_all_equals_enumeration(problem):
    crf, emissions, tags, mask = problem
    loss = crf(emissions, tags, mask, reduction="none")
    best = crf.decode(emissions, mask)
    marginals = crf.marginals(emissions, mask)
    assert marginals.isfinite().all()
    for row, length in enumerate(mask.sum(1).tolist()):
        assert len(best[row]) == length
        if not length:
            assert loss[row] == 0
            continue
        paths, scores = all_paths(crf, emissions[row, :length])
        (gold,) = np.flatnonzero((paths == tags[row, :length].numpy()).all(1))
        expected = scores[gold] - log_sum(scores)
        assert loss[row].item() == pytest.approx(expected, rel=1e-9, abs=1e-9 * max(1.0, np.abs(scores).max()))
        if crf.labels is not None:
            start, follow = allowed_transitions(LABELS)
            good = [start[p[0]] and all(follow[a][b] for a, b in itertools.pairwise(p)) for p in paths.tolist()]
            paths, scores = paths[good], scores[good]
        (found,) = np.flatnonzero((paths == best[row]).all(1))
        # decode compares in float64 here; of paths that are equal any may be given.
        assert scores[found] >= scores.max() - 1e-9 * max(1.0, np.abs(scores).max())
        weights = np.exp(scores - log_sum(scores))
        for word in range(length):
            share = np.bincount(paths[:, word], weights, crf.num_tags)
            np.testing.assert_allclose(marginals[row, word].numpy(), share, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(problem=problems(), reduction=st.sampled_from(["none", "sum", "mean", "token_mean"]))
def test_all_equals_torchcrf_where_it_is_defined(problem, reduction):
    """torchcrf knows no rows without words, no constraints, and nothing but numbers at padding."""
    crf, emissions, tags, mask = problem
    assume(crf.labels is None and mask.shape[1] > 0 and bool(mask[:, 0].all()))
    emissions, tags = emissions.masked_fill(~mask[..., None], 0.0), tags.clamp(min=0)
    other = torchcrf.CRF(crf.num_tags, batch_first=True).double()
    other.load_state_dict(crf.state_dict())
    leaf, other_leaf = (emissions.clone().requires_grad_() for _ in range(2))
    found, expected = crf(leaf, tags, mask, reduction), other(other_leaf, tags, mask, reduction)
    size = max(1.0, float(emissions.abs().max()), float(crf.transitions.detach().abs().max()))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * size)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(leaf.grad, other_leaf.grad, rtol=1e-6, atol=1e-9 * size)
    if mask.shape[1] > 1:  # torchcrf gives none where there is one word
        torch.testing.assert_close(crf.transitions.grad, other.transitions.grad, rtol=1e-6, atol=1e-9 * size)
    for row, (one, two) in enumerate(zip(crf.decode(emissions, mask), other.decode(emissions, mask), strict=True)):
        if one != two:  # equal scores: either is right
            paths, scores = all_paths(crf, emissions[row, : len(one)])
            values = [scores[(paths == path).all(1)][0] for path in (one, two)]
            assert values[0] == pytest.approx(values[1], abs=1e-9 * size)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4))
def test_masks_are_prefixes_or_refused(rows):
    mask = torch.tensor(rows)
    crf = CRF(len(LABELS), batch_first=True, labels=LABELS)
    emissions, tags = torch.zeros(*mask.shape, len(LABELS)), torch.zeros(mask.shape, dtype=torch.long)
    uses = [
        lambda: crf(emissions, tags, mask),
        lambda: crf.decode(emissions, mask),
        lambda: crf.marginals(emissions, mask),
        lambda: crf.span_probabilities(emissions, mask, [[] for _ in rows]),
    ]
    holes = any(not before and after for row in rows for before, after in itertools.pairwise(row))
    for use in uses:
        if holes:
            with pytest.raises(ValueError, match="to be a prefix"):
                use()
        else:
            use()
