"""Losses that are less sure of the gold tags than their likelihood is: smoothed labels, entropy, focus on what is hard.

They are exact over tag sequences, in float64 inside, and unconstrained like the loss. Notation: b posts, w words, l
labels.
"""

from __future__ import annotations

from torch import Tensor, nn, where

from mner.nn.crf import CRF
from mner.nn.posteriors import log_marginals


def smoothing(crf: CRF, emissions: Tensor, tags: Tensor, mask: Tensor, epsilon: float = 0.1) -> Tensor:
    """What label smoothing (Szegedy et al. 2016, section 7) adds to the negative log-likelihood of a CRF.

    With each word's gold label replaced by q_t = (1 - ε) gold + ε / l, independently of the others, the loss is the
    expected one, in which log Z does not change. What it adds is a difference of two expected scores::

        Σ_y Π_t q_t(y_t) · -log p(y)  =  -log p(gold) + score(gold) - E_q score
        E_q score = Σ_t q_t · e_t + start · q_1 + Σ_t q_t-1ᵀ T q_t + end · q_w

    Args:
        crf: With `batch_first`.
        emissions: e (b, w, l).
        tags: Gold (b, w), whatever at padding.
        mask: (b, w) bool, true = real.
        epsilon: ε.

    Returns:
        (b,) float64; negative where the gold tags have a low score.

    >>> import torch
    >>> crf, mask = CRF(2, batch_first=True), torch.ones(1, 3, dtype=torch.bool)
    >>> smoothing(crf, torch.zeros(1, 3, 2), torch.zeros(1, 3, dtype=torch.long), mask, epsilon=0.0).item()
    0.0
    """
    gold = nn.functional.one_hot(tags.masked_fill(~mask, 0), emissions.shape[-1]).double()  # (b, w, l)
    smooth = (1 - epsilon) * gold + epsilon / gold.shape[-1]
    return _expected_score(crf, emissions, gold, mask) - _expected_score(crf, emissions, smooth, mask)


def _expected_score(crf: CRF, emissions: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Mean score (b,) of tag sequences whose words have independent label distributions (b, w, l)."""
    start, end, step = (part.double() for part in (crf.start_transitions, crf.end_transitions, crf.transitions))
    labels = labels * mask[..., None]
    words = (labels * emissions.double().masked_fill(~mask[..., None], 0.0)).sum((1, 2))
    moves = ((labels[:, :-1] @ step) * labels[:, 1:]).sum((1, 2))
    last = (mask.sum(1) - 1).clamp(min=0)[:, None, None].expand(-1, 1, labels.shape[-1])  # (b, 1, l)
    return words + moves + labels[:, 0] @ start + labels.gather(1, last)[:, 0] @ end


def entropy(crf: CRF, emissions: Tensor, mask: Tensor) -> Tensor:
    """Entropy of the tag sequences of a CRF, by the forward recursion of Mann and McCallum (2007), in which it learns.

    ::

        p(i | j) = p(y_t-1 = i | y_t = j, the words up to t)
        H_t(j) = Σ_i p(i | j) (H_t-1(i) - log p(i | j)),     H = Σ_j p(y_w = j) (H_w(j) - log p(y_w = j))

    Args:
        crf: With `batch_first`.
        emissions: (b, w, l).
        mask: (b, w) bool, true = real; real words come first.

    Returns:
        (b,) float64, 0 for a post without words.
    """
    start, end, step = (part.double() for part in (crf.start_transitions, crf.end_transitions, crf.transitions))
    nodes = emissions.double().masked_fill(~mask[..., None], 0.0).transpose(0, 1)  # (w, b, l)
    scores = start + nodes[0]  # (b, l)
    left = scores * 0.0
    for node, here in zip(nodes[1:], mask.T[1:, :, None], strict=True):
        moves = scores[..., None] + step  # (b, from, to)
        origin = moves.log_softmax(1)
        left = where(here, (origin.exp() * (left[..., None] - origin)).sum(1), left)
        scores = where(here, moves.logsumexp(1) + node, scores)
    last = (scores + end).log_softmax(-1)
    return (last.exp() * (left - last)).sum(-1).masked_fill(~mask.any(1), 0.0)


def focal(crf: CRF, emissions: Tensor, tags: Tensor, mask: Tensor, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al. 2017) of the gold labels' marginals under a CRF: words that are easy count little.

    `Σ_t -(1 - p_t)^g log p_t`, p_t the probability of word t's gold label over all tag sequences. With g = 0 it is the
    pointwise objective for CRFs of Kakade et al. (2002).

    Args:
        crf: With `batch_first`.
        emissions: (b, w, l).
        tags: Gold (b, w), whatever at padding.
        mask: (b, w) bool, true = real.
        gamma: g, at least 0.

    Returns:
        (b,) float64, at least 0.
    """
    found = log_marginals(crf, emissions, mask)
    gold = found.gather(-1, tags.masked_fill(~mask, 0)[..., None])[..., 0]  # (b, w)
    hard = (-gold.expm1()).clamp(min=1e-12) ** gamma  # above 0, so that each power of it has a slope
    return (-hard * gold).masked_fill(~mask, 0.0).sum(1)
