"""BERT's layer between two sequences, against BERT's own and against its formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from mner.nn.attention import CrossModalLayer
from tests.fusion.samples import wide

W, R, D = 5, 4, 32  # words, regions, width
WORD_COUNTS = (5, 2, 3)
REGION_COUNTS = (2, 4, 1)


@pytest.fixture
def inputs():
    word_mask = torch.arange(W) < torch.tensor(WORD_COUNTS)[:, None]
    region_mask = torch.arange(R) < torch.tensor(REGION_COUNTS)[:, None]
    return torch.randn(3, W, D), word_mask, region_mask


def bert_layer(layer: CrossModalLayer) -> BertLayer:
    """BERT's own layer with the same weights."""
    config = BertConfig(hidden_size=D, num_attention_heads=layer.heads, intermediate_size=4 * D)
    config._attn_implementation = "eager"
    reference = BertLayer(config).eval()
    pairs = {
        "attention.self.query": layer.query,
        "attention.self.key": layer.key,
        "attention.self.value": layer.value,
        "attention.output.dense": layer.output,
        "attention.output.LayerNorm": layer.attention_norm,
        "intermediate.dense": layer.inner,
        "output.dense": layer.outer,
        "output.LayerNorm": layer.output_norm,
    }
    for name, module in pairs.items():
        reference.get_submodule(name).load_state_dict(module.state_dict())
    return reference


@torch.no_grad()
def test_layer_on_itself_is_berts_layer(inputs):
    words, word_mask, _ = inputs
    layer = wide(CrossModalLayer(D, heads=4))
    hidden = torch.zeros(3, 1, W, W).masked_fill(~word_mask[:, None, None], -1e9)
    expected = bert_layer(layer)(words, attention_mask=hidden)
    output, _ = layer(words, words, word_mask)
    torch.testing.assert_close(output, expected[0] if isinstance(expected, tuple) else expected, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("sizes", [{}, {"memory_width": 12, "attention_width": 24, "inner_width": 40}])
def test_queries_come_from_one_sequence_and_values_from_the_other(inputs, sizes):
    words, _, region_mask = inputs
    layer, memory = wide(CrossModalLayer(D, heads=4, **sizes)), torch.randn(3, R, sizes.get("memory_width", D))
    met = sizes.get("attention_width", D) // 4
    assert layer.inner.out_features == sizes.get("inner_width", 4 * D)
    output, weights = layer(words, memory, region_mask)
    for b, r in enumerate(REGION_COUNTS):
        for t in range(W):
            query, keys, values = layer.query(words[b, t]), layer.key(memory[b, :r]), layer.value(memory[b, :r])
            heads = [slice(met * head, met * head + met) for head in range(4)]
            shares = [(keys[:, head] @ query[head] / met**0.5).softmax(0) for head in heads]
            mixed = torch.cat([share @ values[:, head] for share, head in zip(shares, heads, strict=True)])
            seen = layer.attention_norm(words[b, t] + layer.output(mixed))
            expected = layer.output_norm(seen + layer.outer(nn.functional.gelu(layer.inner(seen))))
            torch.testing.assert_close(output[b, t], expected, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(weights[b, t, :r], torch.stack(shares).mean(0), atol=1e-5, rtol=1e-4)
            assert (weights[b, t, r:] == 0).all()


@pytest.mark.parametrize(("width", "heads"), [(768, 12), (1024, 16), (384, 6), (32, 1), (200, 2), (100, 1)])
def test_default_heads_are_64_wide_where_they_can_be(width, heads):
    assert CrossModalLayer(width).heads == heads


@pytest.mark.parametrize("heads", [5, 0, -2])
def test_heads_that_do_not_divide_the_width_are_refused(heads):
    with pytest.raises(ValueError, match=f"divide the width 32, but got {heads}"):
        CrossModalLayer(32, heads)
    with pytest.raises(ValueError, match="divide the width 24, but got 16"):
        CrossModalLayer(32, 16, attention_width=24)
