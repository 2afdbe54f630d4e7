"""The arithmetic of `mner.CRF`: a closed chain swept from both ends at once. The maths is in the class's docstring.

b batch; w words; l labels; n = w + 1 positions; k = l + 1 labels, the last of which is the boundary `#`. Sums are
float64; Viterbi, which only compares, is float32 where the emissions have no more. In torch, for any device; on the CPU
`_crf_host` and `_crf_arrays` do in numpy what is common, and this is for wide ranges and large batches.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

WIDEST = 150.0  # nats between the largest and the smallest edge up to which scaled exp space is exact
NO_FLOAT64 = ("mps",)  # devices whose work is done on the CPU


def close_nodes(emissions: Tensor, mask: Tensor) -> Tensor:
    """Scores of the labels at each position (n, b, k): `#` alone is possible at padding and behind the last word.

    What stands at padding is never read: emissions (w, b, l), mask (w, b) bool.
    """
    words, batch, labels = emissions.shape
    nodes = emissions.new_full((words + 1, batch, labels + 1), -math.inf, dtype=torch.float64)  # (n, b, k)
    nodes[:-1, :, :-1] = emissions
    nodes[:-1].masked_fill_(~mask[..., None], -math.inf)
    nodes[:-1, :, -1].masked_fill_(~mask, 0.0)
    nodes[-1, :, -1].zero_()
    return nodes


def close_edges(start: Tensor, end: Tensor, transitions: Tensor) -> Tensor:
    """Scores of the transitions (k, k): out of `#` a sequence starts (l,), into `#` it ends (l,), and `#` `#` is 0."""
    edges = transitions.new_zeros(len(start) + 1, len(start) + 1, dtype=torch.float64)
    edges[:-1, :-1], edges[-1, :-1], edges[:-1, -1] = transitions, start, end
    return edges


def edge_spread(edges: Tensor) -> Tensor:
    """Largest minus smallest edge (); inf or NaN where an edge is."""
    low, high = edges.aminmax()
    return high - low


def scaled_chains(nodes: Tensor, edges: Tensor, spread: float) -> tuple[Tensor, Tensor]:
    """Both sweeps in scaled exp space, two kernels a step. Overwrites the nodes.

    Chain 0 runs from the first position to the last, chain 1 from the last to the first over transposed edges.

    Returns:
        log Z (b,) and `states` (n + 1, 2, b, k): both chains, with the node of each position they have passed.
        `states[0]` is the boundary that both start from.
    """
    positions, batch, labels = nodes.shape
    top, shift = nodes.amax(-1, keepdim=True), edges.max()  # (n, b, 1), ()
    step = torch.stack([edges, edges.T]).sub_(shift).exp_()  # (2, k, k), entries at most 1
    nodes = nodes.sub_(top).exp_()  # (n, b, k), entries at most 1
    states = nodes.new_empty(positions + 1, 2, batch, labels)  # what a step multiplies by lies where its result goes
    states[1:, 0], states[1:, 1] = nodes, nodes.flip(0)
    states[0, ..., :-1], states[0, ..., -1] = 0.0, 1.0
    # A step multiplies the largest entry of a chain by exp(-spread) at the least and by k at the most.
    every = max(1, int(WIDEST / max(spread, math.log(labels))))
    scales = nodes.new_empty(positions // every, 2, batch, 1)
    moved = torch.empty_like(states[0])  # (2, b, k)
    state, scale = states.unbind(0), iter(scales.unbind(0))
    for position in range(1, positions + 1):
        torch.matmul(state[position - 1], step, out=moved)  # (2, b, k) @ (2, k, k)
        torch.mul(moved, state[position], out=state[position])
        if position % every == 0:
            divisor = next(scale)  # (2, b, 1)
            torch.amax(state[position], -1, keepdim=True, out=divisor)
            torch.div(state[position], divisor, out=state[position])
    total = states[-1, 1] @ step[0, -1]  # (b, k) @ (k,), the step from the boundary to the first position
    logs = top.sum((0, 2)) + scales[:, 1].log().sum((0, 2)) + shift * (positions + 1)  # (b,), what was divided out
    return total.log() + logs, states


def scaled_counts(edges: Tensor, weight: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """Expected counts out of `scaled_chains`, each row times its weight (b,); the scales cancel at each position.

    Returns:
        Of labels at each position (n, b, k), and of transitions over all rows and positions (k, k).
    """
    step = (edges - edges.max()).exp_()  # (k, k)
    left, right = states[:-1, 0], states[1:, 1].flip(0)  # (n, b, k) before the position, and from it on
    here = left @ step  # (n, b, k), from the left up to the position, without its node
    right *= weight[:, None] / (here * right).sum(-1, keepdim=True)
    pairs = left.flatten(0, 1).T @ right.flatten(0, 1)  # (k, n b) @ (n b, k)
    return here.mul_(right), step.mul_(pairs)


def log_chains(nodes: Tensor, edges: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both sweeps in log space: right for any range, -inf included, and some times slower.

    Returns:
        log Z (b,), `incoming` (n, 2, b, k) and `states` (n + 1, 2, b, k): the logarithms of both chains, without and
        with the node of each position they have passed. `states[0]` is the boundary that both start from.
    """
    both = torch.stack([nodes, nodes.flip(0)], 1)  # (n, 2, b, k)
    step = torch.stack([edges, edges.T])[:, None]  # (2, 1, k, k)
    incoming = torch.empty_like(both)
    states = nodes.new_full((len(both) + 1, *both.shape[1:]), -math.inf)  # (n + 1, 2, b, k)
    states[0, ..., -1].zero_()
    for position, node in enumerate(both):
        incoming[position] = (states[position, ..., None] + step).logsumexp(-2)  # over the label before
        states[position + 1] = incoming[position] + node
    return (incoming[0, 0] + states[-1, 1]).logsumexp(-1), incoming, states


def log_marginals(incoming: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """Out of `log_chains`: log p of each label at each position (n, b, k), and log Z as each position has it (n, b)."""
    joint = incoming[:, 0] + states[1:, 1].flip(0)  # (n, b, k)
    log_z = joint.logsumexp(-1)  # (n, b)
    return joint - log_z[..., None], log_z


def log_counts(edges: Tensor, weight: Tensor, incoming: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """What `scaled_counts` returns, out of `log_chains`."""
    marginals, log_z = log_marginals(incoming, states)
    pairs = torch.zeros_like(edges)
    for left, right, total in zip(states[:-1, 0], states[1:, 1].flip(0), log_z, strict=True):  # (b, k), (b, k), (b,)
        posterior = (left[:, :, None] + edges + right[:, None] - total[:, None, None]).exp_()  # (b, k, k)
        pairs += (posterior * weight[:, None, None]).sum(0)
    return marginals.exp_() * weight[:, None], pairs


def refuse_second_derivatives() -> None:
    """Called in a backward pass; `once_differentiable` would hand out constants there, without a word."""
    if torch.is_grad_enabled():
        raise RuntimeError("The likelihood of a CRF can be differentiated once only, but got create_graph=True")


class LogLikelihood(torch.autograd.Function):
    """log p(tags) of each row (b,), its gradient being gold counts minus expected counts.

    Inputs: emissions (w, b, l), tags (w, b) int64, mask (w, b) bool, start (l,), end (l,), transitions (l, l), and the
    spread of the edges, which may be given a little too large.
    """

    @staticmethod
    def forward(
        ctx: Any,
        emissions: Tensor,
        tags: Tensor,
        mask: Tensor,
        start: Tensor,
        end: Tensor,
        transitions: Tensor,
        spread: float,
    ) -> Tensor:
        nodes, edges = close_nodes(emissions, mask), close_edges(start, end, transitions)
        boundary = len(edges) - 1
        path = functional.pad(tags.masked_fill(~mask, boundary), (0, 0, 1, 1), value=boundary)  # (n + 1, b)
        gold, pairs = path[1:], torch.add(path[1:], path[:-1], alpha=len(edges))  # (n, b), the latter into flat edges
        score = nodes.gather(-1, gold[..., None]).sum((0, 2)) + edges.take(pairs).sum(0)  # (b,)
        ctx.scaled = spread <= WIDEST  # false for NaN
        log_z, *chains = scaled_chains(nodes, edges, spread) if ctx.scaled else log_chains(nodes, edges)
        ctx.save_for_backward(edges, gold, pairs, *chains)
        ctx.dtypes = emissions.dtype, start.dtype, end.dtype, transitions.dtype
        return (score - log_z).to(torch.promote_types(emissions.dtype, torch.float32))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        edges, gold, pairs, *chains = ctx.saved_tensors
        weight = gradient.double()  # (b,)
        on_nodes, on_edges = (scaled_counts if ctx.scaled else log_counts)(edges, weight, *chains)
        rows = weight.expand(gold.shape)  # (n, b)
        on_nodes.neg_().scatter_add_(-1, gold[..., None], rows[..., None])  # (n, b, k)
        on_edges.neg_().view(-1).index_add_(0, pairs.flatten(), rows.flatten())  # (k, k)
        emissions, start, end, transitions = ctx.dtypes
        return (
            on_nodes[:-1, :, :-1].to(emissions),
            None,
            None,
            on_edges[-1, :-1].to(start),
            on_edges[:-1, -1].to(end),
            on_edges[:-1, :-1].to(transitions),
            None,
        )


@torch.no_grad()
def best_scores(emissions: Tensor, edges: Tensor) -> Tensor:
    """Score of the best path up to each label of each word (w, l, b), as `_crf_arrays.best_scores`; in torch."""
    words, batch, labels = emissions.shape
    best = edges.new_empty(words, labels, batch)  # what a step adds lies where its result goes
    best.copy_(emissions.transpose(1, 2))
    best -= best.amax(1, keepdim=True)
    best[:1] += edges[-1, :-1, None]
    moves = edges[:-1, :-1, None].expand(-1, -1, batch)  # (l before, l, b)
    path, reach = edges.new_empty(moves.shape), edges.new_empty(labels, batch)
    score = best.unbind(0)
    for word in range(1, words):
        torch.add(score[word - 1][:, None], moves, out=path)
        torch.amax(path, 0, out=reach)
        torch.add(reach, score[word], out=score[word])
    return best


def to_host(*tensors: Tensor) -> list[np.ndarray[Any, Any]]:
    """The tensors, all of one dtype, as arrays, fetched from the device in one transfer."""
    packed = torch.cat([tensor.flatten() for tensor in tensors]).cpu().numpy()
    ends = np.cumsum([tensor.numel() for tensor in tensors])[:-1]
    return [part.reshape(tensor.shape) for part, tensor in zip(np.split(packed, ends), tensors, strict=True)]
