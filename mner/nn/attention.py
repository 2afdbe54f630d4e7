"""Attention that can be looked at: the convention, and the additive attention that VAM and CAM share."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from mner.nn.masking import masked_softmax


class Attention(nn.Module):
    """Base of every module whose `forward` returns `(output, weights)`, weights (b, queries, keys).

    The convention that attention maps are captured by: a forward hook on each module whose class says
    `returns_attention = True` sees the weights, whatever the strategy does with them. The keys are image regions; a
    module whose keys are words says so with `attends_to = "words"`. The weights of a query sum to 1 over its real keys
    and are 0 on padding.
    """

    returns_attention: ClassVar[bool] = True
    attends_to: str = "regions"


class AdditiveAttention(Attention):
    """Each query's weighted mean of the values, weighted by a one-layer network of query and key.

    ::

        score(q, k) = w_a · tanh(W_q query_q + W_k key_k + b)
        weights     = softmax over the real k
        output_q    = Σ_k weights(q, k) value_k

    This is the attention of Bahdanau et al. (2015) and of stacked attention networks (Yang et al. 2016).

    **Why not as printed.** Lu et al. (2018, here VAM) and Zhang et al. (2018, here CAM) join the two projections by a
    ⊕ that they, and the public ports of their models, take as concatenation. Then the query has no effect at all:
    with w_a = [w_1; w_2],

    ::

        w_a · tanh([W_q query_q; W_k key_k]) = w_1 · tanh(W_q query_q) + w_2 · tanh(W_k key_k)

    and the first term is the same for every key, so that the softmax over the keys cancels it. Each word of each post
    would weigh the regions of an image alike, and W_q would never get a gradient. In Yang et al., whose formula has the
    same shape, ⊕ is a sum; with the sum the weights do depend on the query. We use the sum.

    A bias added to the score would cancel in the same way, so there is none.

    Args:
        query_width: Width of the queries.
        key_width: Width of the keys.
        width: Width k in which query and key meet. Memory is b · queries · keys · k.

    >>> import torch
    >>> mask = torch.tensor([[True, True, False]])
    >>> output, weights = AdditiveAttention(8, 16, 4)(torch.randn(1, 5, 8), torch.randn(1, 3, 16), mask)
    >>> output.shape, weights.shape, weights[..., 2].abs().max().item()
    (torch.Size([1, 5, 16]), torch.Size([1, 5, 3]), 0.0)
    """

    def __init__(self, query_width: int, key_width: int, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(query_width, width)  # its bias is b
        self.key = nn.Linear(key_width, width, bias=False)
        self.score = nn.Linear(width, 1, bias=False)

    def forward(self, queries: Tensor, keys: Tensor, key_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Attend; the keys are the values too.

        Args:
            queries: (b, q, query_width).
            keys: (b, n, key_width).
            key_mask: (b, n) bool, true = real.

        Returns:
            output (b, q, key_width) and weights (b, q, n).
        """
        met = (self.query(queries)[:, :, None] + self.key(keys)[:, None]).tanh()  # (b, q, n, k)
        weights = masked_softmax(self.score(met).squeeze(-1), key_mask[:, None])  # (b, q, n)
        return weights @ keys, weights
