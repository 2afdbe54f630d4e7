"""Attention that can be looked at: the convention, additive attention (VAM, CAM), BERT's between two sequences."""

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


class CrossModalLayer(Attention):
    """One BERT layer whose queries come from one sequence and whose keys and values come from another.

    ::

        a = softmax over the real k of (W_q q)(W_k k)ᵀ / √(c / heads), for each head          (q, n)
        x = LayerNorm(q + dropout(W_o [a (W_v k)]_heads))                                     (q, d)
        y = LayerNorm(x + dropout(W_2 GELU(W_1 x)))                                           (q, d)

    With queries and memory the same it is BERT's own layer.

    Args:
        width: Of queries and output, d.
        heads: Number of heads; None for one for each 64 features, as in BERT, or the next lower number that divides c.
        dropout: On the attention weights and before both sums.
        attends_to: `"regions"` or `"words"`: what the memory stands for in attention maps. With any other word, such
            as `"all"`, there is no map.
        memory_width: Of the memory; None for d.
        attention_width: c, in which both meet; None for d.
        inner_width: Of the layer between W_1 and W_2; None for 4d.

    Raises:
        ValueError: If `heads` does not divide c.

    >>> import torch
    >>> layer = CrossModalLayer(8, heads=2, memory_width=6, attention_width=4)
    >>> output, weights = layer(torch.randn(1, 5, 8), torch.randn(1, 3, 6), torch.ones(1, 3) > 0)
    >>> output.shape, weights.shape
    (torch.Size([1, 5, 8]), torch.Size([1, 5, 3]))
    """

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        dropout: float = 0.1,
        attends_to: str = "regions",
        memory_width: int | None = None,
        attention_width: int | None = None,
        inner_width: int | None = None,
    ) -> None:
        super().__init__()
        memory_width, met = memory_width or width, attention_width or width
        inner_width = inner_width or 4 * width
        if heads is None:
            heads = next(count for count in range(max(1, met // 64), 0, -1) if met % count == 0)
        if heads < 1 or met % heads:
            raise ValueError(f"Expected `heads` to divide the width {met}, but got {heads}")
        self.heads = heads
        self.attends_to = attends_to
        self.query = nn.Linear(width, met)
        self.key = nn.Linear(memory_width, met)
        self.value = nn.Linear(memory_width, met)
        self.output = nn.Linear(met, width)
        self.attention_norm = nn.LayerNorm(width, eps=1e-12)  # BERT's
        self.inner = nn.Linear(width, inner_width)
        self.outer = nn.Linear(inner_width, width)
        self.output_norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, memory: Tensor, memory_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            queries: (b, q, d).
            memory: (b, n, memory_width).
            memory_mask: (b, n) bool, true = real.

        Returns:
            output (b, q, d) and weights (b, q, n), the mean over the heads.
        """
        query, key, value = (
            self._split(part)  # (b, heads, q or n, c / heads)
            for part in (self.query(queries), self.key(memory), self.value(memory))
        )
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5  # (b, heads, q, n)
        weights = masked_softmax(scores, memory_mask[:, None, None])
        mixed = (self.dropout(weights).to(value.dtype) @ value).transpose(1, 2).flatten(2)  # (b, q, c)
        seen = self.attention_norm(queries + self.dropout(self.output(mixed)))
        inner = nn.functional.gelu(self.inner(seen))
        return self.output_norm(seen + self.dropout(self.outer(inner))), weights.mean(1)

    def _split(self, states: Tensor) -> Tensor:
        """(b, n, c) -> (b, heads, n, c / heads)."""
        return states.view(*states.shape[:-1], self.heads, states.shape[-1] // self.heads).transpose(1, 2)
