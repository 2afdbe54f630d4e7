"""A prefix is what attention with longer keys, values and mask computes by hand; and it is gone afterwards."""

from __future__ import annotations

import pytest
import torch
from transformers.models.modernbert.modeling_modernbert import apply_rotary_pos_emb

from mner.encoders.prefix import PREFIXED, prefixed

from .tiny_models import PREFIX_MASK as MASK
from .tiny_models import built, clean, encoder, padded, random_prefix

TEXT = [kind for kind in PREFIXED if kind not in ("vit", "clip_vision_model")]
both = pytest.mark.parametrize("attention", ["sdpa", "eager"])
every = pytest.mark.parametrize("kind", list(PREFIXED))


@both
@every
def test_a_masked_prefix_changes_nothing_and_a_real_one_does(kind, attention):
    model, run = built(kind, attention)
    plain_states = run()
    with prefixed(model, *random_prefix(), torch.zeros_like(MASK)):
        masked = run()
    torch.testing.assert_close(masked, plain_states, atol=1e-5, rtol=0)
    with prefixed(model, *random_prefix(), MASK):
        seen = run()
    assert ((seen - plain_states).abs().amax((1, 2)) > 1e-2).all(), "each post has a prefix"
    assert clean(model)
    assert model.config._attn_implementation == attention
    assert torch.equal(run(), plain_states)


def projected(kind, module, states, position_embeddings):
    """Queries, keys, values (heads, t, 8) of one post's states (t, 16), and what follows attention."""
    names = {"distilbert": ("q_lin", "k_lin", "v_lin"), "vit": ("q_proj", "k_proj", "v_proj")}
    names["clip_vision_model"] = names["vit"]
    if kind == "modernbert":
        parts = module.Wqkv(states).chunk(3, -1)
    else:
        parts = [getattr(module, name)(states) for name in names.get(kind, ("query", "key", "value"))]
    query, key, value = (part.view(-1, 2, 8).transpose(0, 1) for part in parts)
    if position_embeddings is not None:
        query, key = (part[0] for part in apply_rotary_pos_emb(query[None], key[None], *position_embeddings))
    after = {"distilbert": "out_lin", "vit": "o_proj", "clip_vision_model": "out_proj", "modernbert": "Wo"}
    return query, key, value, getattr(module, after[kind]) if kind in after else torch.nn.Identity()


@both
@every
def test_equal_to_attention_by_hand(kind, attention):
    model, run = built(kind, attention)
    modules = [part for part in model.modules() if type(part).__name__ == PREFIXED[kind]]
    seen = []
    for module in modules:
        module.register_forward_hook(
            lambda module, args, kwargs, output: seen.append((args, kwargs, output[0])), with_kwargs=True
        )
    keys, values = random_prefix()
    with prefixed(model, keys, values, MASK), torch.no_grad():
        run()
    lengths = [9, 5, 2] if kind in TEXT else [5, 5, 5]
    assert len(seen) == 2
    for number, (args, kwargs, output) in enumerate(seen):
        for post, length in enumerate(lengths):
            rotation = kwargs.get("position_embeddings")
            if rotation is not None:
                rotation = [part[:, :length] for part in rotation]
            states = (args[0] if args else kwargs["hidden_states"])[post, :length]
            query, key, value, after = projected(kind, modules[number], states, rotation)
            real = MASK[post]
            key = torch.cat([keys[number, post][:, real], key], 1)
            value = torch.cat([values[number, post][:, real], value], 1)
            scores = query @ key.transpose(1, 2) / 8**0.5
            if kind == "modernbert" and number == 1:  # a window of 2 to each side; the prefix is seen from everywhere
                far = (torch.arange(length)[:, None] - torch.arange(length)).abs() > 2
                scores[:, :, int(real.sum()) :].masked_fill_(far, float("-inf"))
            attended = (scores.softmax(-1) @ value).transpose(0, 1).reshape(length, 16)
            torch.testing.assert_close(output[post, :length], after(attended), atol=1e-5, rtol=1e-5)


@both
@every
def test_gradients_reach_the_real_part_of_the_prefix_only(kind, attention):
    model, run = built(kind, attention)
    keys, values = random_prefix()
    with prefixed(model.train(), keys, values, MASK):
        states = run()
    states.square().sum().backward()  # after the block
    for tensor in (keys, values):
        size = tensor.grad.abs().sum((2, 4))  # (layers, b, p)
        assert (size[:, MASK] > 0).all()
        assert (size[:, ~MASK] == 0).all()
    used = [parameter.grad is not None for parameter in model.parameters()]
    assert sum(used) > len(used) // 2


@both
@every
def test_dropout_of_attention_in_training(kind, attention):
    model, run = built(kind, attention)
    model.train()
    prefix = random_prefix()

    def twice(rate):
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        for part in model.modules():
            if type(part).__name__ == PREFIXED[kind]:
                if isinstance(getattr(part, "dropout", None), torch.nn.Dropout):
                    part.dropout.p = rate
                elif kind == "clip_vision_model":
                    part.dropout = rate
                else:
                    part.attention_dropout = rate
        with prefixed(model, *prefix, MASK), torch.no_grad():
            return run(), run()

    quiet = twice(0.0)
    torch.testing.assert_close(*quiet)
    one, other = twice(0.5)
    assert not torch.allclose(one, other, atol=1e-3)
    model.eval()
    torch.testing.assert_close(twice(0.5)[0], quiet[0])


@pytest.mark.parametrize("kind", list(PREFIXED))
@pytest.mark.parametrize("form", ["list", "dictionary"])
def test_some_layers_only(kind, form):
    model, run = built(kind)
    (_, keys), (_, values) = random_prefix()
    given = ([None, keys], [None, values]) if form == "list" else ({1: keys}, {1: values})
    first = []
    handle = next(part for part in model.modules() if type(part).__name__ == PREFIXED[kind])
    handle = handle.register_forward_hook(lambda module, inputs, output: first.append(output[0]))
    plain_states = run()
    with prefixed(model, *given, MASK):
        assert not torch.allclose(run(), plain_states, atol=1e-3)
    handle.remove()
    torch.testing.assert_close(first[0], first[1], atol=1e-5, rtol=0)
    two = torch.stack([torch.zeros_like(keys), keys]), torch.stack([torch.zeros_like(values), values])
    with prefixed(model, *given, MASK):
        some = run()
    with prefixed(model, *two, MASK):
        assert not torch.allclose(run(), some, atol=1e-3), "zeros are a prefix too"


def test_blocks_for_different_layers_can_be_nested():
    text_encoder, inputs = encoder("roberta"), padded()
    keys, values = random_prefix()
    with text_encoder.prefixed(keys, values, MASK):
        together = text_encoder(*inputs)
    with text_encoder.prefixed([keys[0], None], [values[0], None], MASK):
        with text_encoder.prefixed({1: keys[1]}, {1: values[1]}, MASK):
            nested = text_encoder(*inputs)
        text_encoder(*inputs)
    assert torch.equal(nested, together)
    assert clean(text_encoder.model)
    assert text_encoder.model.config._attn_implementation == "sdpa"
    with text_encoder.prefixed(keys, values, MASK):
        with (
            pytest.raises(RuntimeError, match="has one already"),
            text_encoder.prefixed({1: keys[1]}, {1: values[1]}, MASK),
        ):
            pass  # pragma: no cover
        assert torch.equal(text_encoder(*inputs), together), "the outer block goes on"


@both
def test_layer_by_layer_with_a_prefix_in_one_step(attention):
    text_encoder, inputs = encoder("bert", attention), padded()
    keys, values = random_prefix()
    with text_encoder.prefixed({1: keys[1]}, {1: values[1]}, MASK):
        whole = text_encoder(*inputs)
    states, mask = text_encoder.embed(*inputs)
    states = text_encoder.layers[0](states, mask)
    with text_encoder.prefixed({1: keys[1]}, {1: values[1]}, MASK):
        states = text_encoder.layers[1](states, mask)
    torch.testing.assert_close(states, whole, atol=1e-5, rtol=0)


@both
@every
def test_autocast(kind, attention):
    model, run = built(kind, attention)
    keys, values = random_prefix()
    with prefixed(model, keys, values, MASK):
        exact = run()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = run()
            rough.float().square().sum().backward()
    assert keys.grad.isfinite().all()
    assert keys.grad.dtype == torch.float32
    similarity = torch.cosine_similarity(rough.float().flatten(1), exact.flatten(1))
    assert (similarity > 0.95).all()


def test_maps_of_an_eager_model_have_the_prefix_first():
    text_encoder, (ids, mask, _) = encoder("bert", "eager"), padded()
    with text_encoder.prefixed(*random_prefix(), MASK):
        maps = text_encoder.model(input_ids=ids, attention_mask=mask.long(), output_attentions=True).attentions
    assert len(maps) == 2
    for weights in maps:
        assert weights.shape == (3, 2, 9, 4 + 9)
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 9))
        shown = torch.cat([MASK, mask], 1)[:, None, None].expand_as(weights)
        assert (weights[~shown] == 0).all()
        assert (weights[shown] > 0).all()
