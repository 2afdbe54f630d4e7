"""A mask that says nothing is left out, in evaluation, and only there."""

from __future__ import annotations

import pytest
import torch

from mner.encoders.steps import STEPWISE

from .tiny_models import encoder, padded

KINDS = [*STEPWISE, "albert", "deberta-v2", "mpnet", "modernbert", "t5", "bart"]


def masks_seen(text_encoder):
    """What the model gets as its mask, call by call."""
    seen = []
    text_encoder.model.register_forward_pre_hook(
        lambda _, args, options: seen.append(options["attention_mask"]), with_kwargs=True
    )
    return seen


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_states_are_the_same(kind):
    text_encoder, (ids, _, segments) = encoder(kind), padded()
    ids = ids.clamp(min=3)
    longer, mask = torch.cat([ids, torch.ones(3, 2, dtype=torch.long)], 1), torch.arange(11).expand(3, 11) < 9
    seen = masks_seen(text_encoder)
    alone = text_encoder(ids, mask[:, :9], segments)
    beside_padding = text_encoder(longer, mask, torch.cat([segments, torch.zeros(3, 2, dtype=torch.long)], 1))
    assert seen[0] is None
    assert seen[1].tolist() == mask.long().tolist()
    torch.testing.assert_close(alone, beside_padding[:, :9], atol=1e-5, rtol=1e-5)


def test_training_and_traced_graphs_keep_it():
    text_encoder, (ids, _, segments) = encoder("bert"), padded()
    real, seen = torch.ones_like(ids, dtype=torch.bool), masks_seen(text_encoder)
    text_encoder.train()(ids, real, segments)
    text_encoder.eval()
    torch.export.export(text_encoder, (ids, real, segments), strict=False)
    assert [mask is None for mask in seen] == [False, False]
