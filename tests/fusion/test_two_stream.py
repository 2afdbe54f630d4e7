"""ViLBERT: the order of its layers, against a run by hand; what of it reads what, and what learns."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import gelu, scaled_dot_product_attention

from mner.fusion import TextOnly, TwoStream
from mner.fusion.two_stream import PlacedRegions
from mner.nn.masking import first_pieces
from mner.testing import check_fusion
from mner.training.optimisation import adamw
from tests.fusion.samples import F, build, close, sample, wide, without_gradient

NO_IMAGE = 2
SMALL = {"at": [0, 1], "visual_width": 24, "heads": 4}
DEEP = {"model_type": "bert", "vocab_size": 4000, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 4}


@pytest.fixture
def module():
    return build(TwoStream, **SMALL)


@pytest.fixture
def batch():
    return sample(needs={"boxes"})


def attended(layer, queries, memory, memory_mask):
    """A layer in torch's own words."""
    query, key, value = (
        part.unflatten(-1, (layer.heads, -1)).transpose(1, 2)
        for part in (layer.query(queries), layer.key(memory), layer.value(memory))
    )
    mixed = scaled_dot_product_attention(query, key, value, attn_mask=memory_mask[:, None, None])
    seen = layer.attention_norm(queries + layer.output(mixed.transpose(1, 2).flatten(2)))
    return layer.output_norm(seen + layer.outer(gelu(layer.inner(seen))))


@torch.no_grad()
def test_the_order_of_layers_is_the_papers(batch):
    """Text 0, text 1, co-attention 0, text 2, visual 0, visual 0', co-attention 1, text 3."""
    module = build(TwoStream, text_encoder=DEEP, visual_layers=2, visual_width=24, heads=4)
    wide(module.text_encoder, 0.1)
    assert module.stream.at == [2, 3]
    regions, region_mask = module.raw_regions(batch)
    objects, mask = module.stream.placed(regions, module.boxes(batch, region_mask), region_mask)
    pieces = batch["token_mask"]
    assert not mask.all()
    assert not pieces.all()
    first, last = module.stream.co_attention
    text, layer_mask = module.text_encoder.embed(batch)
    layers = module.text_encoder.layers
    text = layers[1](layers[0](text, layer_mask), layer_mask)
    text, objects = attended(first.text, text, objects, mask), attended(first.visual, objects, text, pieces)
    text = layers[2](text, layer_mask)
    nothing, between = module.stream.visual
    assert len(nothing) == 0
    for layer in between:
        objects = attended(layer, objects, objects, mask)
    text = layers[3](attended(last.text, text, objects, mask), layer_mask)
    assert len(between) == 2
    assert last.visual is None
    assert close(module.encode(batch), first_pieces(text, batch["word_starts"]), batch["word_mask"])


@torch.no_grad()
def test_the_mean_region_comes_first_and_a_place_is_five_numbers():
    placed = wide(PlacedRegions(F, 6))
    regions, mask = torch.randn(1, 3, F), torch.tensor([[True, True, False]])
    boxes = torch.tensor([[[0.0, 0.5, 0.5, 1.0], [0.25, 0.0, 1.0, 0.5], [0.3, 0.3, 0.9, 0.9]]])
    states, with_mean = placed(regions, boxes, mask)
    assert with_mean.tolist() == [[True, True, True, False]]
    mean = regions[0, :2].mean(0)
    for row, (content, place) in enumerate(
        [
            (mean, [0.0, 0.0, 1.0, 1.0, 1.0]),
            (regions[0, 0], [0.0, 0.5, 0.5, 1.0, 0.25]),
            (regions[0, 1], [0.25, 0.0, 1.0, 0.5, 0.375]),
        ]
    ):
        expected = placed.norm(placed.content(content) + placed.place(torch.tensor(place)))
        torch.testing.assert_close(states[0, row], expected)


@torch.no_grad()
def test_without_co_attention_it_is_the_text_encoder_alone(batch):
    module = build(TwoStream, at=[])
    text = TextOnly(module.labels).eval()
    text.load_state_dict({name: module.state_dict()[name] for name in text.state_dict()})
    assert torch.equal(module.emissions(batch), text.emissions(batch))
    learning = {name for name, value in module.named_parameters() if value.requires_grad}
    assert learning == {name for name, _ in text.named_parameters()}


@torch.no_grad()
def test_nothing_that_text_brings_is_lost_where_text_attends_to_nothing(module, batch):
    for layer in module.stream.co_attention:
        layer.text.output.weight.zero_()
    seen = module.emissions(batch)
    assert close(module.emissions({**batch, "regions": -batch["regions"]}), seen, batch["word_mask"], atol=0)


@torch.no_grad()
def test_a_masked_region_is_not_seen_and_its_box_neither(module, batch):
    hidden = ~batch["region_mask"]
    assert hidden.any()
    other = copy.deepcopy(batch)
    other["regions"][hidden], other["region_boxes"][hidden] = 50.0, 0.0
    hidden[NO_IMAGE] = False  # its one region has its own box
    other["region_boxes"][hidden] = 0.7
    assert close(module.emissions(other), module.emissions(batch), batch["word_mask"])


@torch.no_grad()
def test_padded_pieces_are_not_seen_by_regions(module, batch):
    """Through its text layers alone a padded piece would not show: regions read text too, and text reads them."""
    other = {**batch, "token_ids": batch["token_ids"].masked_fill(~batch["token_mask"], 7)}
    assert not torch.equal(other["token_ids"], batch["token_ids"])
    assert close(module.emissions(other), module.emissions(batch), batch["word_mask"])


@torch.no_grad()
@pytest.mark.parametrize("options", [SMALL, {}])
def test_places_count_and_their_order_does_not(options, batch):
    module = build(TwoStream, **options)
    emissions, mask = module.emissions(batch), batch["word_mask"]
    turned = {name: batch[name].flip(1) for name in ("regions", "region_mask", "region_boxes")}
    assert close(module.emissions({**batch, **turned}), emissions, mask)
    shifted = {**batch, "region_boxes": batch["region_boxes"] + 0.2 * batch["region_mask"][..., None]}
    seen = mask & batch["has_image"][:, None]
    difference = (module.emissions(shifted) - emissions).abs()
    assert difference[seen].max() > 1e-4
    assert difference[mask & ~seen].max() < 1e-5
    torn = {**batch, "regions": batch["regions"].flip(1), "region_mask": batch["region_mask"].flip(1)}
    torn["region_boxes"] = batch["region_boxes"].flip(1).flip(-1).contiguous()
    assert not close(module.emissions(torn), emissions, mask)


def test_every_parameter_learns_and_what_lies_within_the_encoder_at_its_rate(batch):
    module = TwoStream(build(TextOnly).labels, region_width=F, **SMALL)
    sum(module.losses(batch).values()).backward()
    assert without_gradient(module) == []
    optimizer = adamw(module, 1e-5, 1e-3, 0.0)
    rates = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert {rates[parameter] for parameter in module.stream.parameters()} == {1e-5}
    assert {rates[parameter] for parameter in module.text_encoder.parameters()} == {1e-5}


@pytest.mark.slow
def test_with_layers_of_both_streams_it_holds_what_every_strategy_must():
    check_fusion(TwoStream, **SMALL)
    check_fusion(TwoStream, **{**SMALL, "visual_layers": 0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at": [1, 0]}, r"rise within the encoder's layers 0 to 1, but got \[1, 0\]"),
        ({"at": [0, 0]}, r"but got \[0, 0\]"),
        ({"at": [2]}, r"but got \[2\]"),
        ({"at": [-1]}, r"but got \[-1\]"),
        ({"visual_layers": -1}, "`visual_layers` of at least 0, but got -1"),
        ({"visual_width": 10, "heads": 4}, "`heads` to divide the width 10, but got 4"),
        ({"text_encoder": {"model_type": "albert", "hidden_size": 64}}, "layer by layer.*AlbertModel"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(TwoStream, **options)
