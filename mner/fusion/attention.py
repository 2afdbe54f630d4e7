"""Attention that can be looked at: the convention, and the additive attention that VAM and CAM share."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from mner.fusion.masking import masked_softmax


class Attention(nn.Module):
    """Base of every module whose `forward` returns `(output, weights)`, weights (b, queries, keys).

    The convention that attention maps are captured by: a forward hook on each module whose class says
    `returns_attention = True` sees the weights, whatever the strategy does with them. Keys are image regions or words;
    the weights of a query sum to 1 over its real keys and are 0 on padding.
    """

    returns_attention: ClassVar[bool] = True


class AdditiveAttention(Attention):
    """Each query's weighted mean of the values, weighted by a one-layer network of query and key.

    ::

        score(q, k) = w_a · tanh(W_q query_q + W_k key_k + b)
        weights     = softmax over the real k
        output_q    = Σ_k weights(q, k) value_k

    This is Bahdanau et al. (2015) and the attention of Yang et al. (2016, stacked attention networks), from where the
    formulas of Lu et al. (2018) and Zhang et al. (2018) come. Those two print ⊕ between the query's and the key's
    projections and read it as concatenation. **Read so, the query has no effect**: with w_a = [w_1; w_2],

    ::

        w_a · [tanh(W_q query_q); tanh(W_k key_k)] = w_1 · tanh(W_q query_q) + w_2 · tanh(W_k key_k)

    and the first term is the same for every key, so that the softmax over the keys cancels it: each query looks at the
    same place. Yang et al. define ⊕ as the sum, with which weights do depend on the query; so it is here.

    A bias after w_a would cancel in the same way, so there is none.

    Args:
        query_width: Width of the queries.
        key_width: Width of the keys.
        width: Width k in which query and key meet. Memory is b · queries · keys · k.
    """

    def __init__(self, query_width: int, key_width: int, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(query_width, width)  # its bias is b
        self.key = nn.Linear(key_width, width, bias=False)
        self.score = nn.Linear(width, 1, bias=False)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            queries: (b, q, query_width).
            keys: (b, n, key_width), or (b, q, n, key_width) where each query has keys of its own.
            values: (b, n, d).
            key_mask: (b, n) bool, true = real.

        Returns:
            output (b, q, d) and weights (b, q, n).
        """
        if keys.dim() == 3:
            keys = keys[:, None]  # (b, 1, n, key_width)
        met = (self.query(queries)[:, :, None] + self.key(keys)).tanh()  # (b, q, n, k)
        weights = masked_softmax(self.score(met).squeeze(-1), key_mask[:, None])  # (b, q, n)
        return weights.to(values.dtype) @ values, weights
