"""Decoding of a linear-chain CRF and scores of its entities in numpy: `CRF` on the CPU, and taggers without torch.

As in `_crf_kernel`: b batch; w words; l labels; n = w + 1 positions; k = l + 1 labels, the last of which is the
boundary `#`. Each step is a few calls on small arrays, which cost a third of torch's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mner.labels import Span, allowed_transitions

Array = NDArray[Any]
SMALL = 2**14  # elements of one step of Viterbi from which on torch beats numpy


class ArrayCRF:
    """A trained `mner.CRF` for decoding alone, without torch.

    Args:
        weights: Its state dict, as arrays.
        labels: Names of the labels.
        constrain: Whether BIO constraints hold.

    Raises:
        ValueError: If the weights are not those of a CRF with these labels.

    >>> names = ["start_transitions", "end_transitions", "transitions"]
    >>> crf = ArrayCRF(dict(zip(names, [np.zeros(3), np.zeros(3), np.zeros((3, 3))])), ["O", "B-PER", "I-PER"])
    >>> crf.decode(np.array([[[0.0, 0.0, 9.0], [0.0, 0.0, 9.0]]]), np.ones((1, 2), bool))
    [[1, 2]]
    """

    def __init__(self, weights: Mapping[str, Array], labels: Sequence[str], constrain: bool = True) -> None:
        of = len(labels)
        shapes = {"start_transitions": (of,), "end_transitions": (of,), "transitions": (of, of)}
        found = {name: np.shape(value) for name, value in weights.items()}
        if found != shapes:
            raise ValueError(f"Expected weights of a CRF with {of} labels, {shapes}, but got {found}")
        self.labels = tuple(labels)
        self.edges = close_edges(*(weights[name] for name in shapes))  # (k, k)
        if constrain:
            self.edges[forbidden_edges(labels)] = -np.inf

    def decode(self, emissions: Array, mask: Array) -> list[list[int]]:
        """The most likely tags of each row, as long as the row: emissions (b, w, l), mask (b, w) a prefix."""
        wide = np.promote_types(emissions.dtype, np.float32)
        return viterbi(emissions.swapaxes(0, 1), mask.T, self.edges.astype(wide))

    def span_probabilities(
        self, emissions: Array, mask: Array, spans: Sequence[Sequence[Span]], temperature: float = 1.0
    ) -> list[list[float]]:
        """Probability of each entity of each row as a whole; see `CRF.span_probabilities`."""
        given = emissions.swapaxes(0, 1), mask.T, self.edges, self.labels
        return span_probabilities(*given, spans, temperature)


def close_edges(start: Array, end: Array, transitions: Array) -> Array:
    """Scores of the transitions (k, k): out of `#` a sequence starts (l,), into `#` it ends (l,), and `#` `#` is 0."""
    edges = np.zeros((len(start) + 1, len(start) + 1))
    edges[:-1, :-1], edges[-1, :-1], edges[:-1, -1] = transitions, start, end
    return edges


def forbidden_edges(labels: Sequence[str]) -> NDArray[np.bool_]:
    """Which transitions (k, k) IOB2 forbids."""
    start, follow = allowed_transitions(labels)
    return ~np.array([*([*row, True] for row in follow), [*start, True]])


def viterbi(emissions: Array, mask: Array, edges: Array) -> list[list[int]]:
    """The best path of each row: emissions (w, b, l), mask (w, b), edges (k, k) of the type that sums are made in."""
    return trace(best_scores(emissions, edges), edges, mask.sum(0))


def best_scores(emissions: Array, edges: Array) -> Array:
    """Score of the best path up to each label of each word (w, l, b); with the batch last, inner loops are long.

    In the type of the edges. The largest emission of each word is subtracted, so that scores stay small and exact.
    Whatever stands at padding is carried on, behind the row's words.
    """
    words, batch, labels = emissions.shape
    best = np.empty((words, labels, batch), edges.dtype)  # what a step adds lies where its result goes
    if not words:
        return best
    best[:] = emissions.transpose(0, 2, 1)
    moves = np.repeat(edges[:-1, :-1, None], batch, 2)  # (l before, l, b)
    paths, reached = np.empty_like(moves), np.empty((labels, batch), edges.dtype)
    add, largest = np.add, np.maximum.reduce
    with np.errstate(all="ignore"):
        best -= best.max(1, keepdims=True)
        best[:1] += edges[-1, :-1, None]
        before = best[0]
        for here in best[1:]:
            add(before[:, None], moves, out=paths)
            largest(paths, 0, out=reached)
            before = add(reached, here, out=here)
    return best


def trace(best: Array, edges: Array, lengths: Array) -> list[list[int]]:
    """The best path of each row without its padding, the arg-max taken along the path only.

    Args:
        best: (w, l, b) from `best_scores`.
        edges: (k, k).
        lengths: (b,) numbers of words.
    """
    words, labels, batch = best.shape
    scores = np.empty((words, batch, labels + 1), dtype=best.dtype)  # (w, b, k)
    scores[..., :-1] = best.transpose(0, 2, 1)
    scores[..., -1] = -np.inf
    sure = np.full(labels + 1, -np.inf, best.dtype)  # `#` is impossible at words, and sure at padding
    sure[-1] = np.inf
    scores[np.arange(words)[:, None] >= lengths] = sure
    into = np.ascontiguousarray(edges.T)  # (k after, k)
    path = np.empty((words + 1, batch), dtype=np.int64)
    path[-1] = labels  # backwards from the boundary
    for word in range(words - 1, -1, -1):
        choice = into.take(path[word + 1], 0)  # (b, k)
        choice += scores[word]
        choice.argmax(-1, out=path[word])
    return [row[:length] for row, length in zip(path.T.tolist(), lengths.astype(int).tolist(), strict=True)]


# Probabilities


def span_probabilities(
    emissions: Array,
    mask: Array,
    edges: Array,
    labels: Sequence[str],
    spans: Sequence[Sequence[Span]],
    temperature: float = 1.0,
) -> list[list[float]]:
    """As `CRF.span_probabilities`: emissions (w, b, l), mask (w, b), edges (k, k) with constraints."""
    rows = [row for row, some in enumerate(spans) if some]  # what a row without entities has is not asked for
    lengths, found = mask.sum(0).tolist(), [[0.0] * len(some) for some in spans]
    if rows:
        edges = edges / temperature
        marginals = log_marginals(close_nodes(emissions[:, rows], mask[:, rows]) / temperature, edges)
        for place, row in enumerate(rows):
            own = [part[:, place] for part in marginals]
            found[row] = [span_probability(span, row, lengths[row], labels, edges, *own) for span in spans[row]]
    return found


def close_nodes(emissions: Array, mask: Array) -> Array:
    """Scores of the labels at each position (n, b, k): `#` alone is possible at padding and behind the last word."""
    words, batch, labels = emissions.shape
    nodes = np.full((words + 1, batch, labels + 1), -np.inf)
    np.copyto(nodes[:-1, :, :-1], emissions, where=mask[..., None])
    np.copyto(nodes[:-1, :, -1], 0.0, where=~mask)
    nodes[-1, :, -1] = 0.0
    return nodes


def log_marginals(nodes: Array, edges: Array) -> tuple[Array, Array, Array]:
    """Log p of each label at each position (n, b, k), and the chain from the right with the node there and without.

    Both chains run in one step, in log space: right for any range, -inf included.
    """
    both = np.stack([nodes, nodes[::-1]], 1)  # (n, 2, b, k)
    step = np.stack([edges.T, edges])[:, None]  # (2, 1, k, k), what is summed over last
    incoming = np.empty_like(both)
    states = np.full((len(both) + 1, *both.shape[1:]), -np.inf)  # (n + 1, 2, b, k)
    states[0, ..., -1] = 0.0
    with np.errstate(all="ignore"):
        for position, node in enumerate(both):
            log_sum(states[position, :, :, None] + step, incoming[position])
            np.add(incoming[position], node, out=states[position + 1])
        with_node, without = states[:0:-1, 1], incoming[::-1, 1]
        joint = incoming[:, 0] + with_node
        log_z = np.empty(joint.shape[:-1])
        log_sum(joint.copy(), log_z)
        return joint - log_z[..., None], with_node, without


def log_sum(values: Array, out: Array) -> None:
    """The logarithm of the sum of exponentials over the last dimension, into `out`. Overwrites the values."""
    top = values.max(-1, keepdims=True)
    top[top == -np.inf] = 0.0
    values -= top
    np.exp(values, out=values)
    np.add.reduce(values, -1, out=out)
    np.log(out, out=out)
    out += top[..., 0]


def span_probability(
    span: Span, row: int, words: int, labels: Sequence[str], edges: Array, log_p: Array, g: Array, g_: Array
) -> float:
    """Probability of one entity.

    Args:
        span: The entity.
        row: Number of its row, for messages.
        words: Words of the row.
        labels: Names of the labels.
        edges: (k, k).
        log_p: Log p of each label, out of `log_marginals` of this row (n, k).
        g: The chain from the right, with the node of its position (n, k).
        g_: The same without (n, k).

    Raises:
        ValueError: If the span is not within its row or of an unknown type.
    """
    begin, inside = (_index(prefix, span, labels) for prefix in "BI")
    if not 0 <= span.start < span.end <= words:
        raise ValueError(f"Expected a span within the {words} words of row {row}, but got {span}")
    label, log = begin, float(log_p[span.start, begin])
    for word in range(span.start + 1, span.end + 1):
        if log == -math.inf:
            return 0.0
        follows = float(edges[label, inside] + g[word, inside] - g_[word - 1, label])
        if word < span.end:
            label, log = inside, log + follows
    return -math.exp(log) * math.expm1(min(follows, 0.0))


def _index(prefix: str, span: Span, labels: Sequence[str]) -> int:
    label = f"{prefix}-{span.type}"
    if label not in labels:
        raise ValueError(f"Expected the type of a span to be among the labels {tuple(labels)}, but got {span}")
    return labels.index(label)
