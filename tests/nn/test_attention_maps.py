"""Attention over regions, captured from every strategy as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import BertConfig, VisualBertConfig, VisualBertModel

from mner.fusion.base import FusionModule
from mner.fusion.co_attention import CoAttention
from mner.fusion.concatenation import ConcatenationWithoutCharacters
from mner.fusion.text_only import TextOnly
from mner.fusion.transformer_attention import TransformerAttention
from mner.fusion.unified_multimodal_transformer import UnifiedMultimodalTransformer
from mner.fusion.visual_attention import VisualAttention
from mner.labels import bio_labels
from mner.nn.attention_maps import capture_attention, region_map

W, R, F = 4, 4, 6  # as many words as regions: only the modules themselves can tell which they attend to
WORD_COUNTS, REGION_COUNTS = (4, 2), (3, 4)
LABELS = bio_labels(["PER", "LOC"])
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 40}
BERT = BertConfig(**SIZES, max_position_embeddings=40).to_dict()
VISUAL_BERT = VisualBertConfig(**SIZES, max_position_embeddings=40, visual_embedding_dim=F).to_dict()


class Looking(FusionModule):
    """A user's strategy: torch's own attention, over words and from words to regions, both without weights."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.reading = nn.MultiheadAttention(self.width, 4, batch_first=True)
        self.looking = nn.MultiheadAttention(self.width, 4, batch_first=True)

    def fuse(self, words, word_mask, regions, region_mask):
        read, _ = self.reading(words, words, words, key_padding_mask=~word_mask, need_weights=False)
        seen, _ = self.looking(words, regions, regions, ~region_mask, False)
        return read + seen


@pytest.fixture
def batch():
    word_mask = torch.arange(W) < torch.tensor(WORD_COUNTS)[:, None]
    token_mask = torch.arange(2 * W + 2) < 2 * torch.tensor(WORD_COUNTS)[:, None] + 2
    return {
        "token_ids": torch.randint(5, 40, token_mask.shape),
        "token_mask": token_mask,
        "segment_ids": torch.zeros(token_mask.shape, dtype=torch.long),
        "word_starts": (1 + 2 * torch.arange(W)) * word_mask,
        "word_mask": word_mask,
        "tags": torch.zeros(2, W, dtype=torch.long),
        "regions": torch.randn(2, R, F),
        "region_mask": torch.arange(R) < torch.tensor(REGION_COUNTS)[:, None],
        "has_image": torch.ones(2, dtype=torch.bool),
        "words": [("word",) * count for count in WORD_COUNTS],
        "id": ["0", "1"],
        "image_id": ["0", "1"],
    }


def build(strategy, text_encoder=BERT, **options):
    width = {} if strategy is TextOnly else {"region_width": F}
    module = strategy(LABELS, text_encoder=text_encoder, **width, **options)
    for name, parameter in module.named_parameters():
        if "norm" not in name.lower():
            nn.init.normal_(parameter, std=0.3)
    return module.eval()


EXPECTED = {
    VisualAttention: {"fusion.attention": 1},
    CoAttention: {"fusion.visual_attention": W},
    TransformerAttention: {"stream": W},
    UnifiedMultimodalTransformer: {"fusion.image_aware": W, "fusion.final": W},
    Looking: {"looking": W},
    ConcatenationWithoutCharacters: {},
    TextOnly: {},
}
every_strategy = pytest.mark.parametrize("strategy", EXPECTED, ids=lambda strategy: strategy.__name__)


@every_strategy
@torch.no_grad()
def test_maps_over_regions_and_nothing_else(strategy, batch):
    module = build(strategy)
    with capture_attention(module) as seen:
        module(batch)
    assert {name: weights.shape for name, weights in seen.maps.items()} == {
        name: (2, queries, R) for name, queries in EXPECTED[strategy].items()
    }
    for weights in seen.maps.values():
        assert (weights[0, :, 3:] == 0).all()  # padding
        assert weights.std() > 0.01
        total = weights.sum(-1)[batch["word_mask"][:, : weights.shape[1]]]
        if strategy is TransformerAttention:
            assert ((total > 0) & (total < 1)).all()  # the rest is on word pieces
        else:
            torch.testing.assert_close(total, torch.ones_like(total))


@every_strategy
@torch.no_grad()
def test_watching_changes_nothing(strategy, batch):
    module = build(strategy)
    before = module.emissions(batch)
    with capture_attention(module) as seen:
        watched = module.emissions(batch)
    torch.testing.assert_close(watched, before, atol=1e-4, rtol=1e-4)
    maps = dict(seen.maps)
    assert torch.equal(module.emissions(batch), before)
    assert seen.maps == maps  # no hook is left
    hooks = [hook for part in module.modules() for hook in (part._forward_hooks | part._forward_pre_hooks).values()]
    ours = [hook for hook in hooks if hook.__module__ == "mner.nn.attention_maps"]  # transformers leaves its own
    assert not ours


@torch.no_grad()
def test_single_stream_maps_are_those_of_transformers(batch):
    module = build(TransformerAttention, VISUAL_BERT)
    with capture_attention(module, last_layers=2) as seen:
        module(batch)
    reference = VisualBertModel(VisualBertConfig(**SIZES, max_position_embeddings=40, visual_embedding_dim=F)).eval()
    reference.load_state_dict(module.text_encoder.model.state_dict(), strict=False)
    for row, (w, r) in enumerate(zip(WORD_COUNTS, REGION_COUNTS, strict=True)):
        t = 2 * w + 2
        layers = reference(
            batch["token_ids"][row : row + 1, :t],
            visual_embeds=batch["regions"][row : row + 1, :r],
            output_attentions=True,
        ).attentions
        expected = (layers[1] + layers[2])[0].mean(0)[batch["word_starts"][row, :w], t:] / 2
        torch.testing.assert_close(seen.maps["stream"][row, :w, :r], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_maps_of_late_regions_are_those_of_the_layers_that_read_them(batch):
    """Weights of the last layers, worked out from their own projections; the first reads no region."""
    module = build(TransformerAttention, BERT, start_layer=1)
    stream, encoder = module.stream, module.text_encoder
    with capture_attention(module, last_layers=9) as seen:
        module(batch)
    for row, (w, r) in enumerate(zip(WORD_COUNTS, REGION_COUNTS, strict=True)):
        t = 2 * w + 2
        states, _ = encoder.embed(batch["token_ids"][row : row + 1, :t], None, batch["segment_ids"][row : row + 1, :t])
        states = encoder.layers[0](states, None)
        states = torch.cat([states, stream.norm(stream.projection(batch["regions"][row : row + 1, :r]))], 1)
        total = 0.0
        for layer in encoder.layers[1:]:
            own = layer.attention.self
            query, key = (
                part(states).view(t + r, own.num_attention_heads, -1).transpose(0, 1) for part in (own.query, own.key)
            )
            total = total + (query @ key.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(-1).mean(0)
            states = layer(states, None)
        expected = total[batch["word_starts"][row, :w], t:] / 2
        torch.testing.assert_close(seen.maps["stream"][row, :w, :r], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("text_encoder", "kernel"), [(BERT, "sdpa"), (VISUAL_BERT, "eager")])
def test_encoder_is_as_before_even_after_an_error(batch, text_encoder, kernel):
    module = build(TransformerAttention, text_encoder)
    config = module.text_encoder.model.config
    assert config._attn_implementation == kernel
    inside = []

    def stop(*_):
        inside.append((config._attn_implementation, config.output_attentions))
        raise RuntimeError("stop")

    module.text_encoder.model.register_forward_pre_hook(stop)
    with pytest.raises(RuntimeError, match="stop"), capture_attention(module):
        module(batch)
    assert inside == [("eager", True)]
    assert (config._attn_implementation, config.output_attentions) == (kernel, False)


@torch.no_grad()
def test_the_last_pass_is_kept(batch):
    module = build(CoAttention)
    with capture_attention(module) as seen:
        module(batch)
        first = seen.maps["fusion.visual_attention"]
        module({**batch, "regions": batch["regions"].flip(1)})
    assert not torch.equal(seen.maps["fusion.visual_attention"], first)


def test_maps_hold_no_graph_and_training_goes_on(batch):
    module = build(VisualAttention).train()
    with capture_attention(module) as seen:
        module.losses(batch)["tagging"].backward()
    assert not seen.maps["fusion.attention"].requires_grad
    assert module.fusion.attention.query.weight.grad.abs().max() > 0


@torch.no_grad()
def test_a_module_of_its_own_is_named_by_its_class(batch):
    attention = build(VisualAttention).fusion.attention
    with capture_attention(attention) as seen:
        attention(torch.randn(2, 1, 32), batch["regions"], batch["region_mask"])
    assert list(seen.maps) == ["AdditiveAttention"]


def test_a_number_of_layers_below_1_is_refused():
    with pytest.raises(ValueError, match="at least 1, but got 0"), capture_attention(nn.Linear(1, 1), last_layers=0):
        pass


# Heat maps


def test_heat_map_is_bicubic():
    weights = torch.rand(6).softmax(0)
    heat = region_map(weights, grid=(2, 3), size=(20, 30))
    assert heat.shape == (20, 30)
    image = Image.fromarray(weights.view(2, 3).numpy()).resize((30, 20), Image.Resampling.BICUBIC)
    # Pillow's kernel has a = -0.5, torch's -0.75: near, not equal
    np.testing.assert_allclose(heat, np.asarray(image).clip(min=0), atol=0.02)
    assert heat[:10, :10].mean() == pytest.approx(float(weights[0]), abs=0.02)


def test_heat_map_is_never_negative_and_in_the_right_corner():
    weights = torch.zeros(49)
    weights[6] = 1.0  # first row, last column
    heat = region_map(weights, grid=(7, 7), size=(70, 140))
    assert heat.min() == 0
    assert np.unravel_index(heat.argmax(), heat.shape)[0] < 10
    assert np.unravel_index(heat.argmax(), heat.shape)[1] >= 120


def test_weights_that_do_not_fill_the_grid_are_refused():
    with pytest.raises(ValueError, match=r"7 x 7 = 49 cells, but got shape \(2, 49\)"):
        region_map(torch.zeros(2, 49), grid=(7, 7), size=(10, 10))
