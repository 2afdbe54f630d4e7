"""A tagger twice, for two threads that tag at once."""

from __future__ import annotations

from copy import copy, deepcopy
from typing import Any

from mner.tagger.placement import decoder_of
from mner.tagger.sharing import Sharing, Turns
from mner.tagger.tagger import Tagger

MOST = 4
"""Threads that tag at once, unless more are asked for: with 16 posts in a batch they have 64 in hand."""


def workers_for(tagger: Tagger) -> int:
    """How many threads had best tag at once: as many as torch has for one, or 1 where that does not help.

    It helps on a processor, with a model in PyTorch, unless a captioner or an encoder of features prepares its posts:
    threads take turns at that.
    """
    if tagger.engine != "torch" or tagger.sight.meta is not None or tagger.prepare.captioner is not None:
        return 1
    import torch

    return min(torch.get_num_threads(), MOST) if tagger.device == torch.device("cpu") else 1


def twin(tagger: Tagger) -> Tagger:
    """A tagger of the same weights, with layers of its own: what a layer keeps while it runs is not shared.

    Args:
        tagger: One with a model in PyTorch. What prepares its posts is shared.
    """
    from mner.encoders.text import TextEncoder  # a service of an exported model loads no torch

    other = copy(tagger)
    other.turns, other.sharing = Turns(), Sharing()
    shared: dict[int, Any] = {id(one): one for one in (*tagger.model.parameters(), *tagger.model.buffers())}
    for part in tagger.model.modules():
        if isinstance(part, TextEncoder) and part.fused is not None:
            shared[id(part.fused)] = part.fused  # keeps nothing while it runs
    other.model = deepcopy(tagger.model, shared)
    parts = tagger.tokenizer, tagger.device, tagger.names, tagger.precision
    other.decoder = other._drawn_by = decoder_of(other.model, *parts)
    return other
