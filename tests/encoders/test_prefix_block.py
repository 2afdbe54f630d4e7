"""What a block with a prefix refuses, and that nothing of it stays behind."""

from __future__ import annotations

import re

import pytest
import torch
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel

from mner.encoders.prefix import PREFIXED, prefixed

from .tiny_models import PREFIX_MASK as MASK
from .tiny_models import built, clean, encoder, padded, random_prefix

REFUSED = ["mpnet", "deberta-v2", "visual_bert", "albert", "t5"]
every = pytest.mark.parametrize("kind", list(PREFIXED))


@pytest.mark.parametrize("kind", REFUSED)
def test_others_are_refused_by_name(kind):
    text_encoder = encoder(kind)
    with (
        pytest.raises(ValueError, match=re.escape(", ".join(PREFIXED)) + rf".*'{kind}'"),
        text_encoder.prefixed(*random_prefix(), MASK),
    ):
        pass  # pragma: no cover


def test_what_is_no_encoder_is_refused():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    clip = CLIPModel(CLIPConfig(text_config={**sizes, "vocab_size": 9}, vision_config={**sizes, "image_size": 8}))
    decoder = BertModel(BertConfig(**sizes, is_decoder=True))
    for model, message in ((clip, "its `vision_model`"), (decoder, "is a decoder"), (torch.nn.Linear(1, 1), "Linear")):
        with pytest.raises(ValueError, match=message), prefixed(model, *random_prefix(), MASK):
            pass  # pragma: no cover


def test_a_prefix_that_nothing_took_is_an_error():
    model, run = built("bert")
    with pytest.raises(RuntimeError, match="no layer of it took one"), prefixed(model, *random_prefix(), MASK):
        pass
    assert clean(model)
    with pytest.raises(RuntimeError, match="no layer"), prefixed(encoder("bert").model, *random_prefix(), MASK):
        run()  # another model


def test_modules_that_are_not_found_are_an_error():
    model, _ = built("bert")
    del model.encoder.layer[1]
    with pytest.raises(RuntimeError, match="Expected 2 modules BertSelfAttention"):
        with prefixed(model, *random_prefix(), MASK):
            pass  # pragma: no cover


@every
def test_all_is_gone_after_an_exception(kind):
    model, run = built(kind)
    plain_states = run()

    def dies(*_):
        raise KeyError("inside a layer")

    last = [part for part in model.modules() if isinstance(part, torch.nn.LayerNorm)][-2]
    handle = last.register_forward_pre_hook(dies)
    with pytest.raises(KeyError, match="inside a layer"), prefixed(model, *random_prefix(), MASK):
        run()
    handle.remove()
    assert clean(model)
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(run(), plain_states)
    with pytest.raises(ZeroDivisionError), prefixed(model, *random_prefix(), MASK):
        raise ZeroDivisionError  # not the error that nothing took it
    assert clean(model)


def test_shapes_that_do_not_fit_are_refused():
    model, run = built("bert")
    keys, values = random_prefix()
    for given, message in (
        ((keys[:1], values[:1], MASK), "keys of 2 layers .* but got 1"),
        (({2: keys[0]}, {2: values[0]}, MASK), "the layers 0 to 1, but got .2."),
        (({}, {}, MASK), "one or more of the layers"),
        (([None, None], [None, None], MASK), "one or more of the layers"),
        (({0: keys[0]}, {1: values[1]}, MASK), "of the same layers"),
        ((keys, values[..., :5], MASK), r"values .* = \(3, 2, 4, 8\) in layer 0.*\(3, 2, 4, 5\)"),
        ((keys[:, :, :1], values, MASK), "keys"),
        ((keys, values, MASK[:, :2]), r"\(3, 2, 2, 8\)"),
        ((keys, values, MASK.float()), "of bool"),
        ((keys, values, MASK[0]), r"mask \(b, p\)"),
    ):
        with pytest.raises(ValueError, match=message), prefixed(model, *given):
            pass  # pragma: no cover
    assert clean(model)
    with pytest.raises(ValueError, match="size 2, but the model got 3"), prefixed(model, *random_prefix(2), MASK[:2]):
        run()
    assert clean(model)


def test_gradient_checkpointing_is_refused_in_training_only():
    model, run = built("bert")
    model.gradient_checkpointing_enable()
    with prefixed(model, *random_prefix(), MASK):
        run()
    with pytest.raises(RuntimeError, match="gradient_checkpointing_disable"):
        with prefixed(model.train(), *random_prefix(), MASK):
            pass  # pragma: no cover


def test_the_state_dict_and_the_configuration_stay_as_they_are():
    text_encoder = encoder("bert")
    before, config = list(text_encoder.state_dict()), text_encoder.config
    with text_encoder.prefixed(*random_prefix(), MASK):
        assert list(text_encoder.state_dict()) == before
        assert text_encoder.config == config
        text_encoder(*padded())
    assert text_encoder.config == config
