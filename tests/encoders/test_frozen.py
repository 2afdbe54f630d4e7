"""Lower layers that do not learn: what is kept of them is what they compute."""

from __future__ import annotations

import copy
import io

import pytest
import torch

from mner.encoders.lora import Adapters
from mner.encoders.steps import STEPWISE
from mner.encoders.text import TextEncoder

from .tiny_models import encoder, padded

ROOM = 2**20


def frozen(kind="bert", limit=ROOM, layers=1):
    """A text encoder in training whose lower layer does not learn, and one with the same weights that keeps nothing."""
    text_encoder = encoder(kind, "eager").train()
    text_encoder.freeze(layers, limit)
    other = copy.deepcopy(text_encoder)
    other.frozen.limit = 0
    return text_encoder, other


def results(text_encoder, inputs, seed=1):
    """States at real pieces and gradients of one step."""
    text_encoder.zero_grad()
    torch.manual_seed(seed)  # dropout of the layers that learn
    states = text_encoder(*inputs)[inputs[1]]
    states.square().sum().backward()
    return [states.detach(), *(p.grad.clone() for p in text_encoder.parameters() if p.grad is not None)]


def same(one, other):
    assert len(one) == len(other) > 5
    for mine, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


@pytest.fixture
def runs(monkeypatch):
    """How many rows the frozen layers were run for, call by call."""
    from mner.encoders.frozen import FrozenLayers

    found, run = [], FrozenLayers._run

    def counted(self, model, token_ids, *rest):
        found.append(len(token_ids))
        return run(self, model, token_ids, *rest)

    monkeypatch.setattr(FrozenLayers, "_run", counted)
    return found


@pytest.mark.parametrize("kind", STEPWISE)
def test_kept_states_are_those_of_the_model(kind, runs):
    text_encoder, other = frozen(kind)
    inputs = padded()
    for _ in range(2):  # computed, then kept
        same(results(text_encoder, inputs), results(other, inputs))
    assert runs == [len(inputs[0])]
    learnt = {name for name, p in text_encoder.named_parameters() if p.requires_grad}
    assert learnt
    assert not any("embeddings" in name or "layer.0." in name for name in learnt)


def test_rows_are_known_in_other_batches(runs):
    text_encoder, other = frozen()
    ids, mask, segments = padded()
    results(text_encoder, (ids, mask, segments))
    wider = [torch.nn.functional.pad(part.flip(0), (0, 3)) for part in (ids, mask, segments)]
    states = results(text_encoder, wider)[0]
    assert runs == [len(ids)]
    torch.testing.assert_close(states, results(other, wider)[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("changed", ["piece", "segment", "mask"])
def test_other_rows_are_computed(changed, runs):
    text_encoder, other = frozen()
    ids, mask, segments = padded()
    results(text_encoder, (ids, mask, segments))
    if changed == "piece":
        ids = ids.clone()
        ids[0, 1] = 7 if ids[0, 1] != 7 else 8
    elif changed == "segment":
        segments = segments.clone()
        segments[0, 1] = 1 - segments[0, 1]
    else:
        mask = mask.clone()
        mask[0, 1] = False  # a hole, as where a context is left out
    same(results(text_encoder, (ids, mask, segments)), results(other, (ids, mask, segments)))
    assert runs == [len(ids), 1]


def test_no_more_is_kept_than_there_is_room_for(runs):
    text_encoder, other = frozen(limit=1000)
    inputs = padded()
    for _ in range(3):
        same(results(text_encoder, inputs), results(other, inputs))
    assert 0 < text_encoder.frozen.bytes <= 1000
    kept = len(text_encoder.frozen._known)
    assert 0 < kept < len(inputs[0])
    assert runs == [len(inputs[0]), len(inputs[0]) - kept, len(inputs[0]) - kept]


def test_other_weights_let_go_of_what_is_kept(runs):
    text_encoder, other = frozen()
    inputs = padded()
    results(text_encoder, inputs)
    for one in (text_encoder, other):
        state = {name: value + 0.1 for name, value in one.state_dict().items()}
        one.load_state_dict(state)
    same(results(text_encoder, inputs), results(other, inputs))
    assert len(runs) == 2


def test_where_somebody_looks_below_the_layers_are_run(runs):
    text_encoder, other = frozen()
    inputs = padded()
    with torch.no_grad():
        torch.testing.assert_close(text_encoder.eval()(*inputs), other.eval()(*inputs), atol=0, rtol=0)
    text_encoder.train()
    hook = text_encoder.model.get_input_embeddings().register_forward_hook(lambda *_: None)
    text_encoder(*inputs)
    hook.remove()
    heads = text_encoder.model.config.num_attention_heads
    prefix = torch.randn(2, len(inputs[0]), heads, 3, text_encoder.width // heads)
    with text_encoder.prefixed(prefix, prefix, torch.ones(len(inputs[0]), 3, dtype=torch.bool)):
        text_encoder(*inputs)
    assert runs == []
    text_encoder(*inputs)
    assert runs == [len(inputs[0])]


def test_frozen_layers_have_no_dropout():
    text_encoder, _ = frozen(limit=0, layers=2)
    inputs = padded()
    torch.testing.assert_close(text_encoder(*inputs), text_encoder(*inputs), atol=0, rtol=0)


def test_copies_keep_nothing():
    text_encoder, _ = frozen()
    text_encoder(*padded())
    assert text_encoder.frozen._known
    assert not copy.deepcopy(text_encoder).frozen._known
    file = io.BytesIO()
    torch.save(text_encoder, file)
    size = file.tell()
    text_encoder.frozen._known.clear()
    file = io.BytesIO()
    torch.save(text_encoder, file)
    assert file.tell() == size


def test_what_cannot_be():
    with pytest.raises(ValueError, match="from 0 to 2, the encoder's layers, but got 3"):
        encoder("bert", "eager").freeze(3)
    with pytest.raises(ValueError, match="`freeze_cache` of 0 or more bytes, but got -1"):
        encoder("bert", "eager").freeze(1, -1)
    with pytest.raises(ValueError, match="layer by layer"):
        encoder("mpnet", "eager").freeze(1)
    text_encoder = TextEncoder("tiny")
    text_encoder.freeze(1)
    with pytest.raises(ValueError, match="leave `freeze_layers` out"):
        text_encoder.adapt(Adapters())
