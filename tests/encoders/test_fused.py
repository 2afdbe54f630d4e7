"""Fused layers compute what the model does, where they are faster and nobody looks inside; else the model itself."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from mner.encoders.fused import LONGEST, FusedLayers, fused_layers
from mner.encoders.lora import Adapters
from mner.encoders.steps import STEPWISE
from mner.encoders.word_parts import WordVectors

from .tiny_models import encoder, padded

KINDS = [kind for kind in STEPWISE if kind != "visual_bert"]


def no_padding(ids, mask, segments):
    return ids.clamp(min=3), mask | True, segments


def little_padding(ids, mask, segments):
    """One piece of 20 rows."""
    whole = no_padding(ids[:1].expand(20, -1), mask[:1].expand(20, -1), segments[:1].expand(20, -1))
    mask = whole[1].clone()
    mask[3, -1] = False
    return whole[0].contiguous(), mask, whole[2].contiguous()


@pytest.fixture
def calls(monkeypatch):
    """How often the fused layers computed."""
    counted = []
    call = FusedLayers.__call__
    monkeypatch.setattr(FusedLayers, "__call__", lambda *given: counted.append(1) or call(*given))
    return counted


@pytest.mark.parametrize("inputs", [padded, lambda: no_padding(*padded()), lambda: little_padding(*padded())])
@pytest.mark.parametrize("kind", KINDS)
def test_states_are_the_models_own(kind, inputs, calls):
    text_encoder, (ids, mask, segments) = encoder(kind), inputs()
    with torch.no_grad():
        wanted = text_encoder(ids, mask, segments)
    text_encoder.fuse()
    assert text_encoder.fused is not None
    calls.clear()
    with torch.inference_mode():
        found = text_encoder(ids, mask, segments)
    assert calls
    assert found.shape == wanted.shape
    torch.testing.assert_close(found[mask], wanted[mask], atol=1e-5, rtol=1e-4)
    assert found.isfinite().all(), "padding is read by nobody, but it must not spoil sums"


@pytest.mark.parametrize("inputs", [padded, lambda: no_padding(*padded()), lambda: little_padding(*padded())])
@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_they_are_as_near_as_autocast_is(kind, inputs, calls):
    text_encoder, (ids, mask, segments) = encoder(kind), inputs()
    with torch.inference_mode():
        wanted = text_encoder(ids, mask, segments)[mask]
        with torch.autocast("cpu", torch.bfloat16):
            rounded = text_encoder(ids, mask, segments)[mask].float()
    text_encoder.fuse()
    calls.clear()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = text_encoder(ids, mask, segments)
    assert calls
    assert found.dtype == torch.float32
    assert (found[mask] - wanted).abs().mean() < 3 * (rounded - wanted).abs().mean() + 1e-6


def test_a_copy_in_bfloat16_follows_any_weight(calls):
    text_encoder, (ids, mask, segments) = encoder("bert"), padded()
    text_encoder.fuse()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        before = text_encoder(ids, mask, segments)
    with torch.no_grad():
        text_encoder.model.encoder.layer[1].output.LayerNorm.weight.mul_(3)
    calls.clear()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        after = text_encoder(ids, mask, segments)
    assert calls
    assert (after - before)[mask].abs().mean() > 0.1


@pytest.mark.parametrize("kind", ["albert", "deberta-v2", "mpnet", "modernbert", "visual_bert", "t5"])
def test_other_kinds_stay_as_they_are(kind):
    text_encoder = encoder(kind)
    text_encoder.fuse()
    assert text_encoder.fused is None


@pytest.mark.parametrize("changes", [{"hidden_act": "gelu_new"}, {"hidden_act": "silu"}, {"num_attention_heads": 1}])
def test_what_the_layers_cannot_do_is_left_to_the_model(changes):
    assert fused_layers(encoder("bert", **changes).model) is None


def test_relu():
    assert fused_layers(encoder("bert", hidden_act="relu").model) is not None


def test_layers_that_compute_something_else_are_found_out():
    """As another version of transformers, or somebody's own layer, might."""
    model = encoder("bert").model
    assert fused_layers(model) is not None
    layer = model.encoder.layer[1]
    forward = layer.forward
    layer.forward = lambda *given, **more: 2 * forward(*given, **more)
    assert fused_layers(model) is None


def test_only_in_inference_mode_for_short_rows_that_nobody_watches(calls):
    text_encoder, (ids, mask, segments) = encoder("bert", max_position_embeddings=LONGEST + 1), padded()
    text_encoder.fuse()
    calls.clear()

    def used(*inputs):
        calls.clear()
        text_encoder(*inputs)
        return bool(calls)

    with torch.no_grad():
        assert not used(ids, mask, segments)
    long = torch.full((1, LONGEST + 1), 5)
    with torch.inference_mode():
        assert used(ids, mask, segments)
        assert used(long[:, :-1], long[:, :-1] > 0, long[:, :-1] * 0)
        assert not used(long, long > 0, long * 0)
        with torch.autocast("cpu", torch.float16):
            assert not used(ids, mask, segments)
        hook = text_encoder.model.encoder.layer[0].attention.register_forward_hook(lambda *given: None)
        assert not used(ids, mask, segments)
        hook.remove()
        assert used(ids, mask, segments)
        text_encoder.train()
        assert not used(ids, mask, segments)
        text_encoder.eval()
        text_encoder.make_words(WordVectors(mix=True))
        assert not used(ids, mask, segments)


def test_adapters_are_computed_by_the_model():
    text_encoder = encoder("bert")
    text_encoder.adapt(Adapters(rank=2, layers=("query",)))
    text_encoder.fuse()
    assert text_encoder.fused is None


@pytest.mark.parametrize("change", ["in place", "loaded", "assigned", "moved"])
def test_other_weights_are_seen(change, calls):
    text_encoder, other, (ids, mask, segments) = encoder("bert"), encoder("bert"), padded()
    text_encoder.fuse()
    calls.clear()
    if change == "in place":
        with torch.no_grad():
            for one, new in zip(text_encoder.parameters(), other.parameters(), strict=True):
                one.copy_(new)
    elif change == "moved":
        text_encoder.double()
        other.double()
        other.load_state_dict(text_encoder.state_dict())
    else:
        text_encoder.load_state_dict(other.state_dict(), assign=change == "assigned")
    with torch.inference_mode():
        found = text_encoder(ids, mask, segments)
        wanted = other(ids, mask, segments)
    torch.testing.assert_close(found[mask], wanted[mask], atol=1e-5, rtol=1e-4)
    assert calls


def test_a_copy_is_whole_and_states_have_no_more_weights(calls):
    text_encoder, inputs = encoder("bert"), padded()
    names = list(text_encoder.state_dict())
    text_encoder.fuse()
    assert list(text_encoder.state_dict()) == names
    copied = deepcopy(text_encoder)
    calls.clear()
    with torch.no_grad():
        for parameter in text_encoder.parameters():
            parameter.zero_()
    with torch.inference_mode():
        found = copied(*inputs)
    assert calls
    assert found[inputs[1]].abs().max() > 0.1
