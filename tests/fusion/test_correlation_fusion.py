"""MKGformer: both halves by hand, the towers against transformers and timm when nothing passes between them."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from transformers import AutoModel

from mner.fusion import CorrelationFusion
from mner.fusion.correlation_fusion import Correlation, added, prefix_guided
from mner.nn.masking import first_pieces
from tests.encoders.tiny_models import plain
from tests.fusion.samples import F, build, close, labels, sample, wide, without_gradient

NO_IMAGE, FOUR = 2, 3  # rows without image, and with four regions
D, HEADS = 8, 2
KINDS = ["bert", "roberta", "distilbert", "electra", "visual_bert"]


@pytest.fixture
def batch():
    return sample()


def made(kind="bert", layers=3, **options):
    """With a text encoder of three layers, whose last two are fused."""
    depth = {"n_layers": layers} if kind == "distilbert" else {"num_hidden_layers": layers}
    config = plain(kind, vocab_size=3000, max_position_embeddings=80, **depth)
    return wide(CorrelationFusion(labels(), config, region_width=F, fused_layers=2, **options), 0.3)


def shown(image_encoder="test_vit", **options):
    """With a vision transformer's own layers; its width and heads are those of the built-in text encoder."""
    module = CorrelationFusion(labels(), image_encoder=image_encoder, image_weights=None, **options)
    return wide(module, 0.1)


def images(batch):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(len(batch["words"]), 3, 160, 160, generator=generator)
    image[~batch["has_image"]] = 0.0
    rest = {name: value for name, value in batch.items() if name not in ("regions", "region_mask")}
    return {**rest, "image": image}


@torch.no_grad()
@pytest.mark.parametrize("scaled", [False, True])
def test_correlation_worked_out_by_hand(scaled):
    correlation = Correlation(width=4, hidden=4, scaled=scaled)
    correlation.output.weight.copy_(torch.eye(4) * 2)
    pieces = torch.tensor([[[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]])
    tokens = torch.tensor([[[2.0, 4.0, 0.0, 0.0], [0.0, 8.0, 0.0, 0.0], [9.0, 9.0, 9.0, 9.0]]])
    found = correlation(pieces, tokens, torch.tensor([[True, True, False]]))
    # Scores 2 and 0, halved if scaled: weights 0.881 or 0.731 of the first token, and equal ones of a piece of zeros.
    first = 0.7310586 if scaled else 0.8807971
    expected = [[4 * first, 8 * first + 16 * (1 - first), 0.0, 0.0], [2.0, 12.0, 0.0, 0.0]]
    torch.testing.assert_close(found, torch.tensor([expected]))
    assert not correlation(pieces, tokens, torch.zeros(1, 3, dtype=torch.bool)).any()


@pytest.fixture
def block():
    return wide(timm.models.vision_transformer.Block(D, HEADS, qkv_bias=True, init_values=1.0), 0.5)


@torch.no_grad()
def test_a_vision_layer_whose_text_is_masked_is_timms_own(block):
    tokens, text = torch.randn(2, 5, D), torch.randn(2, 3, D)
    nothing, real = torch.zeros(2, 3, dtype=torch.bool), torch.ones(2, 5, dtype=torch.bool)
    torch.testing.assert_close(prefix_guided(block, tokens, real, text, text, nothing), block(tokens))
    real[1, 3:] = False
    found = prefix_guided(block, tokens, real, text, text, nothing)
    torch.testing.assert_close(found[1, :3], block(tokens[1:, :3])[0])


@torch.no_grad()
def test_a_vision_layer_attends_to_the_text_by_hand(block):
    tokens, keys, values = torch.randn(1, 5, D), torch.randn(1, 3, D), torch.randn(1, 3, D)
    everything = {n: torch.ones(1, n, dtype=torch.bool) for n in (3, 5)}
    found = prefix_guided(block, tokens, everything[5], keys, values, everything[3])
    e = D // HEADS
    query, key, value = block.attn.qkv(block.norm1(tokens[0])).split(D, -1)
    key, value = torch.cat([keys[0], key]), torch.cat([values[0], value])
    heads = []
    for head in range(HEADS):
        columns = slice(head * e, (head + 1) * e)
        weights = (query[:, columns] @ key[:, columns].T / e**0.5).softmax(-1)
        heads.append(weights @ value[:, columns])
    middle = tokens[0] + block.ls1.gamma * block.attn.proj(torch.cat(heads, -1))
    expected = middle + block.ls2.gamma * block.mlp(block.norm2(middle))
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_without_w_f_or_without_image_it_is_the_plain_model(kind, batch):
    module = made(kind)
    model = module.text_encoder.model
    reference = AutoModel.from_config(model.config).eval()
    spare = reference.load_state_dict(model.state_dict(), strict=False)
    assert all("pooler" in name for name in spare.missing_keys)
    segments = {"token_type_ids": batch["segment_ids"]} if module.text_encoder.has_segments else {}
    states = reference(input_ids=batch["token_ids"], attention_mask=batch["token_mask"].long(), **segments)
    expected, mask = first_pieces(states.last_hidden_state, batch["word_starts"]), batch["word_mask"]
    words = module.encode(batch)
    assert close(words[[NO_IMAGE]], expected[[NO_IMAGE]], mask[[NO_IMAGE]])
    seen = (words - expected).abs().amax(-1)[mask & batch["has_image"][:, None]]
    assert seen.min() > 1e-4
    for correlation in module.correlations:
        correlation.output.weight.zero_()
    assert close(module.encode(batch), expected, mask)


@torch.no_grad()
def test_the_layers_in_their_order_by_hand(batch):
    """A post of its own: text layer 0, then vision layer and text layer twice, as their equations say."""
    module, post = made(), sample(FOUR)
    layers = module.text_encoder.model.encoder.layer
    h = module.text_encoder.model.embeddings(post["token_ids"], post["segment_ids"])
    v, everything = module.region_projection(post["regions"].float()), torch.ones(1, 1, dtype=torch.bool)
    below, h = h, layers[0](h, None)
    for number, (block, correlation) in enumerate(zip(module.vision_layers, module.correlations, strict=True), 1):
        guide = layers[number - 1].attention.self
        text = (guide.key(below), guide.value(below), everything.expand(h.shape[:2]))
        v = prefix_guided(block, v, everything.expand(v.shape[:2]), *text)
        c = layers[number].attention(h, None)[0]
        phi = (c @ v.transpose(1, 2)).softmax(-1) @ v
        inner = layers[number].intermediate.dense(c) + phi @ correlation.output.weight.T
        below, h = h, layers[number].output(torch.nn.functional.gelu(inner), c)
    expected = first_pieces(h, post["word_starts"])
    assert close(module.encode(post), expected, post["word_mask"])
    assert close(module.encode(batch)[[FOUR]][:, : expected.shape[1]], expected, post["word_mask"])


@torch.no_grad()
@pytest.mark.parametrize("own", [False, True])
def test_padded_text_moves_no_token_of_the_image(own, batch, monkeypatch):
    module = shown() if own else made()
    batch = images(batch) if own else batch
    seen = []

    def watched(*args):
        seen.append(prefix_guided(*args))
        return seen[-1]

    monkeypatch.setattr("mner.fusion.correlation_fusion.prefix_guided", watched)
    module.emissions(batch)
    first, seen[:] = list(seen), []
    padded = copy.deepcopy(batch)
    padded["token_ids"][~batch["token_mask"]] = 7
    assert not batch["token_mask"].all()
    module.emissions(padded)
    for one, other in zip(first, seen, strict=True):
        torch.testing.assert_close(one, other)


@torch.no_grad()
def test_the_order_of_regions_means_nothing_and_absent_ones_are_not_seen(batch):
    module = made()
    emissions, mask = module.emissions(batch), batch["word_mask"]
    turned = {**batch, "regions": batch["regions"].flip(1), "region_mask": batch["region_mask"].flip(1)}
    assert close(module.emissions(turned), emissions, mask)
    other = copy.deepcopy(batch)
    other["regions"][~batch["region_mask"]] = 50.0
    assert close(module.emissions(other), emissions, mask)


@torch.no_grad()
def test_hooks_are_gone_after_the_call_and_after_an_exception(batch):
    module = made()
    linear = [layer.intermediate.dense for layer in module.text_encoder.model.encoder.layer]
    module.emissions(batch)
    assert not any(each._forward_hooks for each in linear)
    with pytest.raises(ZeroDivisionError), added(linear[0], lambda _: 1 / 0):
        linear[0](torch.zeros(1, linear[0].in_features))
    assert not any(each._forward_hooks for each in linear)


# A vision transformer's own layers


@torch.no_grad()
def test_its_own_layers_without_text_are_the_vision_transformer(batch, monkeypatch):
    """With the text masked, the last token states are those of timm's own forward pass."""
    module, batch = shown(), images(batch)
    tokens = []

    def alone(block, states, mask, keys, values, text_mask):
        tokens.append(prefix_guided(block, states, mask, keys, values, torch.zeros_like(text_mask)))
        return tokens[-1]

    monkeypatch.setattr("mner.fusion.correlation_fusion.prefix_guided", alone)
    module.encode(batch)
    backbone = module.image_encoder.backbone
    expected = backbone.forward_features(batch["image"])
    real = batch["has_image"]
    torch.testing.assert_close(backbone.norm(tokens[-1])[real], expected[real], atol=1e-4, rtol=1e-4)
    assert len(module.vision_layers) == 0
    assert module.own_layers


@torch.no_grad()
def test_several_images_are_read_together_and_a_missing_one_not(batch):
    module, one = shown(), images(batch)
    twice = {**one, "image": torch.stack([one["image"], torch.randn_like(one["image"])], 1)}
    mask = torch.stack([batch["has_image"], torch.zeros_like(batch["has_image"])], 1)
    assert close(module.emissions({**twice, "image_mask": mask}), module.emissions(one), batch["word_mask"])
    mask[FOUR, 1] = True
    changed = (module.emissions({**twice, "image_mask": mask}) - module.emissions(one)).abs().amax((1, 2))
    assert changed[FOUR] > 1e-4
    assert changed[torch.arange(6) != FOUR].max() < 1e-5


def test_what_learns(batch):
    for module, inputs in (
        (made(), batch),
        (shown(freeze_image_encoder=False), images(batch)),
        (shown(freeze_image_encoder=True), images(batch)),
    ):
        module.losses(inputs)["tagging"].backward()
        assert without_gradient(module) == []
    assert not any(value.requires_grad for value in module.image_encoder.parameters())
    assert all(part in module.pretrained for part in (module.image_encoder, module.correlations, module.vision_layers))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fused_layers": 0}, "from 1 to 2, as many as text layers, but got 0"),
        ({"fused_layers": 3}, "from 1 to 2, as many as text layers, but got 3"),
        ({"text_encoder": plain("bert"), "image_encoder": "test_vit"}, "width 16 and heads 2.*has width 64, 2 heads"),
        ({"text_encoder": plain("mpnet"), "region_width": F}, "that can be run layer by layer.*mpnet"),
        ({"text_encoder": plain("albert"), "region_width": F}, "that can be run layer by layer.*albert"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    options = {"image_weights": None, **options}
    with pytest.raises(ValueError, match=message):
        CorrelationFusion(labels(), **({} if "image_encoder" in options else {"region_width": F}) | options)


def test_a_third_of_the_layers_are_fused():
    assert len(build(CorrelationFusion).correlations) == 1
    twelve = CorrelationFusion(labels(), plain("bert", num_hidden_layers=12), region_width=F)
    assert len(twelve.correlations) == len(twelve.vision_layers) == 4


@torch.no_grad()
def test_all_layers_may_be_fused(batch):
    module = made(layers=2)
    emissions, mask = module.emissions(batch), batch["word_mask"]
    assert emissions.isfinite().all()
    for correlation in module.correlations[1:]:
        correlation.output.weight.zero_()
    lowest = module.emissions(batch)
    module.correlations[0].output.weight.zero_()
    seen = mask & batch["has_image"][:, None]
    assert (lowest - module.emissions(batch)).abs().amax(-1)[seen].min() > 1e-5
