"""Label distributions p (b, w, l) in place of label scores: from a CRF, mixed, decoded, and what spans are worth.

Mixtures of experts, ensembles and nearest neighbours mix *probabilities*, which a CRF's transitions cannot decode: its
transitions are in them already. So words are taken as independent, as Π_t p_t(y_t) has it, and the best sequence that
BIO allows is found by Viterbi with all transitions 0.

Notation: b posts, w words, l labels, k distributions. Posteriors need not sum to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from mner.labels import Span
from mner.nn.crf import CRF

FLOOR = 1e-30
"""Least probability that has a logarithm here, so that what BIO forbids stays worse than what a model rules out."""


def log_marginals(crf: CRF, emissions: Tensor, mask: Tensor) -> Tensor:
    """Log probability of each label at each word, all tag sequences considered, BIO or not; it can be differentiated.

    ::

        f_t(j) = e_t(j) + log Σ_i exp(f_t-1(i) + T(i, j))       from the left, out of `start`
        g_t(i) = e_t(i) + log Σ_j exp(T(i, j) + g_t+1(j))       from the right, out of `end`
        log p_t(j) = f_t(j) + g_t(j) - e_t(j) - log Z

    `CRF.marginals(..., constrained=False)` has the same numbers without a gradient, faster.

    Args:
        crf: With `batch_first`.
        emissions: (b, w, l), finite.
        mask: (b, w) bool, true up to each post's length.

    Returns:
        (b, w, l) float64; what stands at padding means nothing.

    >>> crf = CRF(3, batch_first=True)
    >>> sums = log_marginals(crf, torch.zeros(1, 4, 3), torch.ones(1, 4, dtype=torch.bool)).exp().sum(-1)
    >>> torch.testing.assert_close(sums, torch.ones_like(sums))
    """
    scores = emissions.double().masked_fill(~mask[..., None], 0.0).transpose(0, 1)  # (w, b, l)
    edges = [part.double() for part in (crf.start_transitions, crf.end_transitions, crf.transitions)]
    start, end, step = (part.to(scores.device) for part in edges)
    nodes = torch.stack([scores, scores.flip(0)], 1)  # (w, 2, b, l), both directions in one sweep
    real = torch.stack([mask.T, mask.T.flip(0)], 1)[..., None]  # (w, 2, b, 1)
    moves = torch.stack([step, step.T])[:, None]  # (2, 1, l, l)
    incoming = [torch.stack([start, end])[:, None].expand_as(nodes[0])]  # each (2, b, l), before its node
    for node, here in zip(nodes[:-1].unbind(0), real[:-1].unbind(0), strict=True):
        moved = ((incoming[-1] + node)[..., None] + moves).logsumexp(-2)
        incoming.append(torch.where(here, moved, incoming[-1]))
    left, right = torch.stack(incoming).unbind(1)  # (w, b, l)
    return (left + scores + right.flip(0)).log_softmax(-1).transpose(0, 1)


def mix(posteriors: Sequence[Tensor], weights: Tensor | Sequence[float]) -> Tensor:
    """The mixture Σ_k weight_k p_k of label distributions.

    Args:
        posteriors: k tensors (b, w, l).
        weights: k numbers that sum to 1; or a tensor (k,), (b, k) for a weight a post, (b, w, k) for one a word.

    Returns:
        (b, w, l).

    Raises:
        ValueError: If there are not k weights, or numbers that are negative or do not sum to 1.

    >>> mix([torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])], [0.25, 0.75])
    tensor([[[0.2500, 0.7500]]])
    """
    if not isinstance(weights, Tensor):
        if min(weights, default=0.0) < 0 or abs(sum(weights) - 1.0) > 1e-4:
            raise ValueError(f"Expected argument `weights` to sum to 1 and none to be negative, got {list(weights)}")
        weights = torch.tensor(weights, device=posteriors[0].device)
    if weights.shape[-1] != len(posteriors):
        raise ValueError(
            f"Expected argument `weights` to have {len(posteriors)} entries in its last dimension, one for each of the "
            f"distributions, but got shape {tuple(weights.shape)}"
        )
    if weights.dim() == 2:
        weights = weights[:, None]  # (b, 1, k)
    parts = [weights[..., k, None] * posterior for k, posterior in enumerate(posteriors)]  # (b, w, l) each
    return torch.stack(parts).sum(0)


def log_posteriors(posteriors: Tensor) -> Tensor:
    """Logarithms of probabilities, in float32 at least and not below log 1e-30."""
    wide = posteriors.to(torch.promote_types(posteriors.dtype, torch.float32))
    return wide.clamp(min=FLOOR).log()


@lru_cache(maxsize=32)
def posterior_crf(labels: tuple[str, ...], constrain: bool = True) -> CRF:
    """A CRF without transitions: over log posteriors it is Π_t p_t(y_t), with BIO as its only memory.

    The same object for the same labels, without gradient; not to be changed.

    >>> log_p = log_posteriors(torch.tensor([[[0.1, 0.3, 0.6], [0.2, 0.2, 0.6]]]))
    >>> posterior_crf(("O", "B-PER", "I-PER")).decode(log_p)
    [[1, 2]]
    """
    # Made for good: not in a state of inference or on the caller's device, nor at the cost of its random numbers.
    with torch.inference_mode(False), torch.device("cpu"), torch.random.fork_rng(devices=[]):
        crf = CRF(len(labels), batch_first=True, labels=labels, constrain=constrain)
        crf.requires_grad_(False)
        for parameter in crf.parameters():
            parameter.zero_()
    return crf


def decode_posteriors(
    posteriors: Tensor, mask: Tensor | None, labels: Sequence[str], constrain: bool = True
) -> list[list[int]]:
    """The sequence of labels with the largest Π_t p_t(y_t) among those that BIO allows.

    Args:
        posteriors: (b, w, l).
        mask: (b, w), true = real; None if all words are.
        labels: Names of the labels.
        constrain: False for the largest p_t at each word alone.

    Returns:
        Label indices of each post, as many as it has words.

    >>> p = torch.tensor([[[0.1, 0.3, 0.6], [0.2, 0.2, 0.6]]])
    >>> decode_posteriors(p, None, ["O", "B-PER", "I-PER"])
    [[1, 2]]
    """
    paths: list[list[int]] = posterior_crf(tuple(labels), constrain).decode(log_posteriors(posteriors), mask)
    return paths


def span_scores(
    posteriors: Tensor,
    mask: Tensor | None,
    labels: Sequence[str],
    spans: Sequence[Sequence[Span]],
    constrain: bool = True,
) -> list[list[float]]:
    """Probability of each entity as a whole under Π_t p_t(y_t), renormalised over what BIO allows.

    Words being independent, a long entity gets less than under the CRF whose marginals these may be.

    Args:
        posteriors: (b, w, l).
        mask: (b, w), true = real; None if all words are.
        labels: Names of the labels.
        spans: The entities of each post.
        constrain: As for `decode_posteriors`.

    Raises:
        ValueError: If a span is not within its post or of an unknown type.

    >>> p = torch.tensor([[[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]])
    >>> span_scores(p, None, ["O", "B-PER", "I-PER"], [[Span(0, 1, "PER")]])
    [[0.5]]
    """
    crf = posterior_crf(tuple(labels), constrain)
    scores: list[list[float]] = crf.span_probabilities(log_posteriors(posteriors), mask, spans)
    return scores
