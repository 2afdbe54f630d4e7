"""OCSGA: names of objects, and the guided attention against torch's own multi-head attention."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mner.encoders.characters import characters_to_ids
from mner.fusion import GuidingObjects
from mner.fusion.guiding_objects import GuidingObjectsFusion, HeadAttention, NameEncoder
from mner.nn.attention import CrossModalLayer
from tests.fusion.samples import build, close, sample, wide, without_gradient

D = 8
WORDS, OBJECTS = (4, 1, 3), (3, 2, 0)
NAMES = {"object_names"}


@pytest.fixture
def inputs():
    word_mask = torch.arange(max(WORDS)) < torch.tensor(WORDS)[:, None]
    object_mask = torch.arange(max(OBJECTS)) < torch.tensor(OBJECTS)[:, None]
    return torch.randn(3, max(WORDS), D), word_mask, torch.randn(3, max(OBJECTS), D), object_mask


def torchs(attention: HeadAttention) -> nn.MultiheadAttention:
    """The same weights in torch's own module."""
    reference = nn.MultiheadAttention(D, attention.heads, batch_first=True).eval()
    parts = (attention.query, attention.key, attention.value)
    reference.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
    reference.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    reference.out_proj.load_state_dict(attention.output.state_dict())
    return reference


@torch.no_grad()
@pytest.mark.parametrize("residual", [False, True])
def test_the_formula_with_torchs_attention(inputs, residual):
    fusion = wide(GuidingObjectsFusion(D, heads=2, residual=residual))
    words, word_mask, objects, object_mask = inputs
    found = fusion(*inputs)
    first, second = torchs(fusion.object_attention), torchs(fusion.guided_attention)
    for b, (w, o) in enumerate(zip(WORDS, OBJECTS, strict=True)):
        h, y = words[b : b + 1, :w], objects[b : b + 1, :o]
        if not o:
            assert torch.equal(found[b, :w], fusion.norm(h)[0])
            continue
        x, _ = fusion.text_layers[0](h, h, word_mask[b : b + 1, :w])
        y = fusion.object_norm(y + first(y, y, y)[0])
        seen, weights = second(x, y, y)
        z = fusion.guided_norm(seen + x if residual else seen)
        inner = fusion.outer(torch.relu(fusion.inner(z)))
        z = fusion.output_norm(inner + z if residual else inner)
        torch.testing.assert_close(found[b : b + 1, :w], fusion.norm(h + z), atol=1e-5, rtol=1e-4)
        mine = fusion.guided_attention(x, y, object_mask[b : b + 1, :o])[1]
        torch.testing.assert_close(mine, weights, atol=1e-6, rtol=1e-4)
    assert fusion.inner.out_features == 4 * D
    assert isinstance(fusion.text_layers[0], CrossModalLayer)


@torch.no_grad()
def test_order_of_objects_means_nothing():
    module, batch = build(GuidingObjects), sample(needs=NAMES)
    batch["object_names"] = [["dog", "old car", "", "tree"], ["cat"], [], ["a", "b"], ["x"], ["tree", "dog"]]
    turned = {**batch, "object_names": [names[::-1] for names in batch["object_names"]]}
    assert close(module.emissions(turned), module.emissions(batch), batch["word_mask"])
    other = {**batch, "object_names": [*batch["object_names"][1:], ["dog"]]}
    assert not close(module.emissions(other), module.emissions(batch), batch["word_mask"], 1e-2)


@torch.no_grad()
def test_no_object_is_the_text_path():
    module, batch = build(GuidingObjects), sample(needs=NAMES)
    text = module.head(module.fusion.norm(module.encode(batch)))
    without = [{**batch, "object_names": [names] * 6} for names in ([], ["", " "])]
    without.append({key: value for key, value in batch.items() if key != "object_names"})
    for bare in without:
        assert torch.equal(module.emissions(bare), text)
    some = {**batch, "object_names": [["dog"], [], [], [], [], []]}
    alone = batch["word_mask"].clone()
    alone[0] = False
    assert close(module.emissions(some), text, alone)
    assert not close(module.emissions(some), text, batch["word_mask"] & ~alone, 1e-2)


@torch.no_grad()
def test_only_the_first_objects_are_used():
    module, batch = build(GuidingObjects, max_objects=2), sample(0, needs=NAMES)
    few, many = ({**batch, "object_names": [names]} for names in (["dog", "cat"], ["", "dog", "cat", "tree"]))
    assert torch.equal(module.emissions(few), module.emissions(many))


@torch.no_grad()
def test_names_are_all_that_is_seen_of_an_image():
    """From a detector's store, or from texts: the same names give the same."""
    module = build(GuidingObjects)
    detected = sample(needs=NAMES)
    texts = {key: value for key, value in detected.items() if not key.startswith("region")}
    texts["object_names"] = [[name for name in names if name] for names in detected["object_names"]]
    assert close(module.emissions(detected), module.emissions(texts), detected["word_mask"])


@torch.no_grad()
def test_a_name_is_the_mean_of_its_words_characters():
    encoder = wide(NameEncoder(D))
    vectors, mask = encoder([["Old  Car", "dog"], ["", "\u4e16\u754c \U0001f600"]])
    assert mask.tolist() == [[True, True], [False, True]]
    words = encoder.characters(characters_to_ids([["old", "car", "dog"]]))[0]
    torch.testing.assert_close(vectors[0, 0], encoder.projection((words[0] + words[1]) / 2), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(vectors[0, 1], encoder.projection(words[2]), atol=1e-5, rtol=1e-4)
    assert vectors.isfinite().all()
    assert encoder([[], []])[1].tolist() == [[False], [False]]


def test_every_parameter_learns():
    module = build(GuidingObjects).train()
    module.losses(sample(needs=NAMES))["tagging"].backward()
    assert [name for name in without_gradient(module) if not name.endswith("key.bias")] == []


@pytest.mark.parametrize(
    ("options", "message"), [({"max_objects": 0}, "at least 1, but got 0"), ({"heads": 7}, "divide the width .*got 7")]
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(GuidingObjects, **options)
    if "heads" in options:
        with pytest.raises(ValueError, match=message):
            HeadAttention(64, **options)
