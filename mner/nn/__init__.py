"""Layers and losses without Lightning: auxiliary objectives, views of a batch, mixtures of label distributions."""

from mner.nn.objectives import (
    divergence,
    info_nce,
    reverse_gradient,
    straight_through,
    without_context,
    without_image,
)
from mner.nn.posteriors import decode_posteriors, log_marginals, mix, span_scores

__all__ = [
    "decode_posteriors",
    "divergence",
    "info_nce",
    "log_marginals",
    "mix",
    "reverse_gradient",
    "span_scores",
    "straight_through",
    "without_context",
    "without_image",
]
