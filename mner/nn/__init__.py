"""Layers and losses without Lightning: the CRF, attention, means over real entries, objectives, label distributions."""

from mner.nn.attention import AdditiveAttention, Attention, CrossModalLayer
from mner.nn.attention_maps import AttentionMaps, capture_attention, region_map
from mner.nn.crf import CRF
from mner.nn.masking import first_pieces, masked_mean, masked_softmax
from mner.nn.objectives import (
    divergence,
    info_nce,
    only_context,
    reverse_gradient,
    soft_label_loss,
    straight_through,
    without_context,
    without_image,
    without_padding,
)
from mner.nn.posteriors import decode_posteriors, log_marginals, mix, span_scores
from mner.nn.recurrent import LSTM, BiLSTM

__all__ = [
    "CRF",
    "LSTM",
    "AdditiveAttention",
    "Attention",
    "AttentionMaps",
    "BiLSTM",
    "CrossModalLayer",
    "capture_attention",
    "decode_posteriors",
    "divergence",
    "first_pieces",
    "info_nce",
    "log_marginals",
    "masked_mean",
    "masked_softmax",
    "mix",
    "only_context",
    "region_map",
    "reverse_gradient",
    "soft_label_loss",
    "span_scores",
    "straight_through",
    "without_context",
    "without_image",
    "without_padding",
]
