"""Layers and losses without Lightning."""

from mner.nn.attention import AdditiveAttention, Attention
from mner.nn.attention_maps import AttentionMaps, capture_attention, region_map
from mner.nn.crf import CRF
from mner.nn.masking import first_pieces, masked_mean, masked_softmax

__all__ = [
    "CRF",
    "AdditiveAttention",
    "Attention",
    "AttentionMaps",
    "capture_attention",
    "first_pieces",
    "masked_mean",
    "masked_softmax",
    "region_map",
]
