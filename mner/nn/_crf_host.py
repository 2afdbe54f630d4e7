"""`mner.CRF`'s likelihood on the CPU: what `_crf_kernel` computes in scaled exp space, by numpy on torch's memory.

It is a hundred and more calls on small arrays, and numpy's cost a third of torch's. Maths and notation are
`_crf_kernel`'s: b batch; w words; l labels; n = w + 1 positions; k = l + 1 labels, the last of which is the boundary.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mner.nn import _crf_kernel as kernel

Array = NDArray[Any]
DEVICES = ("cpu",)  # whose memory numpy shares


def sweep(states: Array, step: Array, spread: float) -> Array:
    """Run both chains over `states` (2, n + 1, b, k), which hold the factors of each position, in place.

    Args:
        states: Chain 0 from the first position to the last, chain 1 from the last to the first. Place 0 is the
            boundary that both start from.
        step: exp(edges) and its transpose (2, k, k), entries at most 1.
        spread: Largest minus smallest edge.

    Returns:
        log Z (b,).
    """
    batch, labels = states.shape[2:]
    # A step multiplies the largest entry of a chain by exp(-spread) at the least and by k at the most.
    every = max(1, int(kernel.WIDEST / max(spread, math.log(labels))))
    moved, scale, logs = np.empty((2, batch, labels)), np.empty((2, batch, 1)), np.zeros(batch)
    matmul, multiply = np.matmul, np.multiply
    before, *after = states.swapaxes(0, 1)  # (2, b, k) each
    for position, state in enumerate(after, 1):
        matmul(before, step, out=moved)  # (2, b, k) @ (2, k, k)
        multiply(moved, state, out=state)
        if position % every == 0:
            np.maximum.reduce(state, -1, keepdims=True, out=scale)
            np.divide(state, scale, out=state)
            logs += np.log(scale[1, :, 0])
        before = state
    logs += np.log(before[1] @ step[0, -1])  # (b, k) @ (k,), the step from the boundary to the first position
    return logs


class Likelihood(torch.autograd.Function):
    """`_crf_kernel.LogLikelihood`, given the edges (k, k) too and their spread, `WIDEST` at the most.

    Emissions are float32 or float64.
    """

    @staticmethod
    def forward(
        ctx: Any,
        edges: Array,
        spread: float,
        emissions: Tensor,
        tags: Tensor,
        mask: Tensor,
        start: Tensor,
        end: Tensor,
        transitions: Tensor,
    ) -> Tensor:
        words, batch, labels = emissions.shape
        states = torch.empty(2, words + 2, batch, labels + 1, dtype=torch.float64)
        both, nodes, padding = states.numpy(), states[0, 1:], ~mask.numpy()
        factors = both[0, 1:]  # (n, b, k), the memory of `nodes`
        boundary, step = np.full(labels + 1, -np.inf), np.empty((2, labels + 1, labels + 1))
        boundary[-1] = 0.0
        # The largest node of a position and the largest edge are left out of log Z and of the score of `tags` alike.
        factors[:-1, :, :-1] = emissions.numpy()
        nodes[:-1] -= emissions.amax(-1, keepdim=True)
        factors[..., -1] = -np.inf
        factors[:-1][padding] = factors[-1] = boundary
        edges = edges - edges.max()

        path = np.full((words + 2, batch), labels)  # from boundary to boundary
        np.copyto(path[1:-1], tags.numpy(), where=mask.numpy())
        gold = path[1:] + np.arange(0, factors.size, labels + 1).reshape(words + 1, batch)  # (n, b), into all nodes
        pairs = path[:-1] * (labels + 1) + path[1:]  # (n, b), into all edges
        with np.errstate(all="ignore"):  # NaN in, NaN out, without a word
            # The chains make one more step, between two boundaries.
            score = factors.take(gold).sum(0) + edges.take(pairs).sum(0) + edges[-1, -1]  # (b,)
            nodes.exp_()
            both[1, 1:], both[:, 0] = factors[::-1], factors[-1]
            step[0] = np.exp(edges)
            step[1] = step[0].T
            likelihood = score - sweep(both, step, spread)
        ctx.save_for_backward(states)
        ctx.constants = gold, pairs, step[0]
        ctx.dtypes = start.dtype, end.dtype, transitions.dtype
        ctx.like = torch.empty_like(emissions)  # the emissions' layout where it is dense, so that none copies it again
        return torch.from_numpy(likelihood).to(emissions.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kernel.refuse_second_derivatives()
        (states,), (gold, pairs, step) = ctx.saved_tensors, ctx.constants
        both, weight = states.numpy(), gradient.double().numpy()  # (b,)
        labels = len(step)
        left = both[0, :-1].reshape(-1, labels)  # (n b, k), before the position
        right = both[1, :0:-1].reshape(-1, labels)  # (n b, k), from it on; a copy
        here = left @ step  # (n b, k), from the left up to the position, without its node
        with np.errstate(all="ignore"):
            total = (here * right) @ np.ones(labels)  # (n b,); the scales cancel
            right *= -(weight / total.reshape(gold.shape)).reshape(-1, 1)
            on_nodes, on_edges = np.multiply(here, right, out=here), step * (left.T @ right)  # minus expected counts
        rows = np.empty(gold.shape)
        rows[:] = weight
        on_nodes.reshape(-1)[gold] += rows
        on_edges += np.bincount(pairs.ravel(), rows.ravel(), labels * labels).reshape(labels, labels)
        on_emissions = torch.empty_like(ctx.like)
        on_emissions.numpy()[:] = on_nodes.reshape(*gold.shape, labels)[:-1, :, :-1]
        scores = on_edges[-1, :-1], on_edges[:-1, -1], on_edges[:-1, :-1]
        on_scores = (torch.from_numpy(part).to(dtype) for part, dtype in zip(scores, ctx.dtypes, strict=True))
        return None, None, on_emissions, None, None, *on_scores
