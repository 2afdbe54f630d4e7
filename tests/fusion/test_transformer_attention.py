"""TAM: one stream of word pieces and regions, the same as transformers' VisualBertModel on the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import (
    AlbertConfig,
    AutoModel,
    BertConfig,
    CamembertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
    VisualBertConfig,
    VisualBertModel,
    XLMRobertaConfig,
)

from mner.encoders.text import TextEncoder
from mner.fusion.transformer_attention import SUPPORTED, LateStream, SingleStream, TransformerAttention
from mner.labels import bio_labels
from mner.nn.masking import first_pieces
from mner.testing import check_fusion

F, V, PAD = 6, 40, 1
LABELS = bio_labels(["PER", "LOC"])
SIZES = {
    "vocab_size": V,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "pad_token_id": PAD,
}
CONFIGS = [
    VisualBertConfig(**SIZES, visual_embedding_dim=F),
    AlbertConfig(**SIZES, embedding_size=16),
    BertConfig(**SIZES),
    CamembertConfig(**SIZES, type_vocab_size=1),
    DistilBertConfig(
        vocab_size=V, dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=40, pad_token_id=PAD
    ),
    ElectraConfig(**SIZES, embedding_size=16),
    RobertaConfig(**SIZES, type_vocab_size=1),
    XLMRobertaConfig(**SIZES, type_vocab_size=1),
]
every_kind = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)


def wide(module: nn.Module) -> nn.Module:
    """Weights well away from their small starting values, so that attention is far from uniform."""
    for name, parameter in module.named_parameters():
        if "LayerNorm" not in name:
            nn.init.normal_(parameter, std=0.25)
    return module.eval()


def encoder_of(config) -> TextEncoder:
    return wide(TextEncoder(config.to_dict()))


def make_batch(lengths=(5, 3), regions=(3, 1), has_image=None):
    """Posts with two pieces a word between special ones; padding of words and of regions is noise."""
    b, w, r = len(lengths), max(lengths), max(regions)
    t = 2 * w + 2
    counts = torch.tensor(lengths)[:, None]
    word_mask, token_mask = torch.arange(w) < counts, torch.arange(t) < 2 * counts + 2
    image = torch.tensor(has_image or [True] * b)
    return {
        "token_ids": torch.where(token_mask, torch.randint(5, V, (b, t)), PAD),
        "token_mask": token_mask,
        "segment_ids": (torch.arange(t).expand(b, t) > counts).long(),
        "word_starts": (1 + 2 * torch.arange(w)) * word_mask,
        "word_mask": word_mask,
        "tags": torch.randint(0, len(LABELS), (b, w)) * word_mask,
        "regions": torch.randn(b, r, F),
        "region_mask": (torch.arange(r) < torch.tensor(regions)[:, None]) & image[:, None],
        "has_image": image,
        "words": [("word",) * length for length in lengths],
        "id": [str(row) for row in range(b)],
        "image_id": [str(row) for row in range(b)],
    }


def one_of(batch, row):
    """One post on its own, without any padding."""
    w, r = int(batch["word_mask"][row].sum()), max(1, int(batch["region_mask"][row].sum()))
    t = int(batch["token_mask"][row].sum())
    sizes = {"token": t, "segment": t, "word_starts": w, "word_mask": w, "tags": w, "region": r}
    alone = {}
    for key, value in batch.items():
        size = next((size for name, size in sizes.items() if key.startswith(name)), None)
        alone[key] = value[row : row + 1] if size is None else value[row : row + 1, :size]
    return alone


def read(stream, encoder, batch, **changes):
    keys = ("token_ids", "token_mask", "segment_ids", "word_starts", "regions", "region_mask")
    return stream(encoder.model, **{key: changes.get(key, batch[key]) for key in keys})


def test_every_supported_kind_is_tested():
    assert sorted(config.model_type for config in CONFIGS) == sorted(SUPPORTED)


# Against transformers' own VisualBertModel


def reference(model, batch, row):
    """States of a post's words, by transformers, on the post alone."""
    alone = one_of(batch, row)
    states = model(
        input_ids=alone["token_ids"],
        token_type_ids=alone["segment_ids"],
        visual_embeds=alone["regions"],
        visual_token_type_ids=torch.ones(alone["regions"].shape[:2], dtype=torch.long),
    ).last_hidden_state
    return states[0, alone["word_starts"][0]]


@torch.no_grad()
def test_visual_bert_agrees_with_transformers():
    encoder, batch = encoder_of(CONFIGS[0]), make_batch()
    model = VisualBertModel(CONFIGS[0]).eval()
    model.load_state_dict(encoder.model.state_dict(), strict=False)
    words = read(SingleStream(encoder.model, F).eval(), encoder, batch)
    for row, length in enumerate((5, 3)):
        torch.testing.assert_close(words[row, :length], reference(model, batch, row), atol=1e-5, rtol=0)


@torch.no_grad()
def test_bert_with_the_weights_of_a_visual_bert_agrees_with_transformers():
    model, batch = wide(VisualBertModel(CONFIGS[0])), make_batch()
    encoder = TextEncoder(BertConfig(**SIZES).to_dict()).eval()
    theirs = model.state_dict()
    encoder.model.load_state_dict({key: theirs[key] for key in encoder.model.state_dict()})
    stream = SingleStream(encoder.model, F).eval()
    stream.projection.load_state_dict(model.embeddings.visual_projection.state_dict())
    stream.type_embedding.copy_(model.embeddings.visual_token_type_embeddings.weight[1])
    stream.position_embedding.copy_(model.embeddings.visual_position_embeddings.weight[0])
    words = read(stream, encoder, batch)
    for row, length in enumerate((5, 3)):
        torch.testing.assert_close(words[row, :length], reference(model, batch, row), atol=1e-5, rtol=0)


@torch.no_grad()
def test_fresh_projection_where_regions_have_another_width():
    encoder, batch = encoder_of(CONFIGS[0]), make_batch()
    stream = SingleStream(encoder.model, F + 3).eval()
    wider = torch.randn(2, 3, F + 3)
    assert stream.projection.weight.shape == (F, F + 3)
    through = read(SingleStream(encoder.model, F).eval(), encoder, batch, regions=stream.projection(wider))
    torch.testing.assert_close(read(stream, encoder, batch, regions=wider), through)


# Every kind of encoder


@every_kind
@torch.no_grad()
def test_without_regions_it_is_the_text_encoder(config):
    encoder, batch = encoder_of(config), make_batch()
    words = read(wide(SingleStream(encoder.model, F)), encoder, batch, region_mask=torch.zeros(2, 3, dtype=torch.bool))
    states = encoder(batch["token_ids"], batch["token_mask"], batch["segment_ids"])
    for row, length in enumerate((5, 3)):
        expected = states[row, batch["word_starts"][row, :length]]
        torch.testing.assert_close(words[row, :length], expected, atol=1e-5, rtol=0)


@every_kind
@torch.no_grad()
def test_regions_matter_and_their_order_does_not(config):
    encoder, batch = encoder_of(config), make_batch()
    stream = wide(SingleStream(encoder.model, F))
    words = read(stream, encoder, batch)
    order = torch.tensor([2, 0, 1])
    moved = read(stream, encoder, batch, regions=batch["regions"][:, order], region_mask=batch["region_mask"][:, order])
    torch.testing.assert_close(moved[batch["word_mask"]], words[batch["word_mask"]], atol=1e-5, rtol=0)
    other = read(stream, encoder, batch, regions=batch["regions"].flip(0))
    assert (other - words)[batch["word_mask"]].abs().max() > 1e-2


@every_kind
@torch.no_grad()
def test_a_post_alone_is_read_as_in_a_batch(config):
    encoder, batch = encoder_of(config), make_batch()
    stream = wide(SingleStream(encoder.model, F))
    words = read(stream, encoder, batch)
    for row, length in enumerate((5, 3)):
        alone = read(stream, encoder, one_of(batch, row))
        torch.testing.assert_close(words[row, :length], alone[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "config",
    [
        MPNetConfig(**SIZES),
        DebertaV2Config(**SIZES),
        ModernBertConfig(**SIZES, cls_token_id=2, sep_token_id=3),
    ],
    ids=lambda config: config.model_type,
)
def test_encoders_in_which_a_regions_place_would_count_are_refused(config):
    with pytest.raises(ValueError, match=rf"bert, .*but got '{config.model_type}'"):
        SingleStream(AutoModel.from_config(config), F)


def test_bypassing_visual_bert_is_refused():
    config = VisualBertConfig(**SIZES, visual_embedding_dim=F, bypass_transformer=True)
    with pytest.raises(ValueError, match="bypass_transformer"):
        SingleStream(VisualBertModel(config), F)


# The regions' embedding in encoders without one


@pytest.mark.parametrize(("number", "type_row", "position_row"), [(2, 1, 0), (6, 0, PAD + 1), (4, None, 0)])
def test_regions_start_as_second_segment_and_first_position(number, type_row, position_row):
    encoder = encoder_of(CONFIGS[number])
    tables = encoder.model.embeddings
    stream = SingleStream(encoder.model, F)
    assert torch.equal(stream.position_embedding, tables.position_embeddings.weight[position_row])
    expected = torch.zeros(32) if type_row is None else tables.token_type_embeddings.weight[type_row]
    assert torch.equal(stream.type_embedding, expected)


def test_tables_of_the_text_get_no_gradient_from_regions():
    encoder, batch = encoder_of(CONFIGS[2]), make_batch()
    stream = SingleStream(encoder.model, F)
    words = read(stream, encoder, batch, segment_ids=torch.zeros_like(batch["segment_ids"]))
    words.square().sum().backward()
    types = encoder.model.embeddings.token_type_embeddings.weight
    assert types.grad[1].abs().max() < 1e-4 * types.grad[0].abs().max()
    assert stream.type_embedding.grad.abs().max() > 1e-2 * types.grad[0].abs().max()


# As a strategy


@pytest.fixture(params=[0, 2], ids=["visual_bert", "bert"])
def module(request):
    config = CONFIGS[request.param].to_dict()
    return wide(TransformerAttention(LABELS, text_encoder=config, region_width=F, dropout=0.0))


def test_every_parameter_learns(module):
    losses = module.train().losses(make_batch(has_image=[True, False]))
    assert list(losses) == ["tagging"]
    losses["tagging"].backward()
    for name, parameter in module.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@torch.no_grad()
def test_one_post_is_tagged_as_in_a_batch(module):
    batch = make_batch(lengths=(5, 3, 4), regions=(3, 1, 2), has_image=[True, True, False])
    emissions = module.emissions(batch)
    for row, length in enumerate((5, 3, 4)):
        torch.testing.assert_close(emissions[row, :length], module.emissions(one_of(batch, row))[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_post_without_image_shows_the_learned_vector(module):
    batch = make_batch(has_image=[True, False])
    shown = {**batch, "regions": batch["regions"].clone(), "region_mask": batch["region_mask"].clone()}
    shown["regions"][1, 0], shown["region_mask"][1, 0] = module.no_image, True
    torch.testing.assert_close(module.emissions(batch), module.emissions(shown))


@torch.no_grad()
def test_bfloat16_stays_close(module):
    batch = make_batch()
    full = module.emissions(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = module.emissions(batch)
    mask = batch["word_mask"]
    assert (half.float() - full)[mask].abs().max() < 0.1 * full[mask].abs().max()


def test_model_of_another_width_than_the_encoder():
    module = TransformerAttention(LABELS, text_encoder=CONFIGS[0].to_dict(), region_width=F, hidden_size=20)
    batch = make_batch()
    assert module.encode(batch).shape == (2, 5, 20)
    assert module.emissions(batch).shape == (2, 5, len(LABELS))


def test_image_encoder_runs_once_a_batch():
    module = TransformerAttention(
        LABELS, text_encoder=CONFIGS[2].to_dict(), image_encoder="test_resnet", image_weights=None
    )
    calls = []
    module.image_encoder.register_forward_hook(lambda *_: calls.append(1))
    batch = {key: value for key, value in make_batch().items() if key not in ("regions", "region_mask")}
    module.losses({**batch, "image": torch.randn(2, 3, 64, 64)})["tagging"].backward()
    assert len(calls) == 1
    assert module.stream.projection.weight.grad.abs().max() > 0


# From a layer on: the tagger of Prompt-Me-Up

LATE = [config for config in CONFIGS if config.model_type not in ("visual_bert", "albert")]
every_late_kind = pytest.mark.parametrize("config", LATE, ids=lambda config: config.model_type)


@every_late_kind
@torch.no_grad()
def test_late_regions_are_read_by_the_last_layer_alone(config):
    """Against transformers: its own call for the text, and one layer of it over text and regions of a post alone."""
    encoder, batch = encoder_of(config), make_batch()
    stream = wide(LateStream(encoder.model, F, start_layer=1))
    words = read(stream, encoder, batch)
    for row, (length, count) in enumerate(((5, 3), (3, 1))):
        alone = one_of(batch, row)
        assert alone["regions"].shape[1] == count
        segments = {"token_type_ids": alone["segment_ids"]} if encoder.has_segments else {}
        first = encoder.model(alone["token_ids"], output_hidden_states=True, **segments).hidden_states[1]
        states = torch.cat([first, stream.norm(stream.projection(alone["regions"]))], 1)
        expected = encoder.layers[1](states, None)[0, alone["word_starts"][0]]
        torch.testing.assert_close(words[row, :length], expected, atol=1e-5, rtol=1e-4)


@every_late_kind
@torch.no_grad()
def test_without_late_regions_it_is_the_text_encoder(config):
    encoder, batch = encoder_of(config), make_batch()
    stream = wide(LateStream(encoder.model, F, start_layer=1))
    words = read(stream, encoder, batch, region_mask=torch.zeros(2, 3, dtype=torch.bool))
    states = encoder(batch["token_ids"], batch["token_mask"], batch["segment_ids"])
    mask = batch["word_mask"]
    torch.testing.assert_close(words[mask], first_pieces(states, batch["word_starts"])[mask], atol=1e-5, rtol=1e-4)


@every_late_kind
@torch.no_grad()
def test_late_regions_matter_and_their_order_does_not(config):
    encoder, batch = encoder_of(config), make_batch()
    stream = wide(LateStream(encoder.model, F, start_layer=1))
    words, order, mask = read(stream, encoder, batch), torch.tensor([2, 0, 1]), batch["word_mask"]
    moved = read(stream, encoder, batch, regions=batch["regions"][:, order], region_mask=batch["region_mask"][:, order])
    torch.testing.assert_close(moved[mask], words[mask], atol=1e-5, rtol=0)
    assert (read(stream, encoder, batch, regions=batch["regions"].flip(0)) - words)[mask].abs().max() > 1e-2


@pytest.mark.parametrize(
    ("config", "layer", "said"),
    [
        (CONFIGS[0], 1, "got a VisualBERT"),
        (CONFIGS[1], 1, "can be run layer by layer"),
        (CONFIGS[2], 2, r"`start_layer` of 1 … 1 for 2 layers, but got 2"),
        (CONFIGS[2], -1, r"`start_layer` of 1 … 1 for 2 layers, but got -1"),
    ],
)
def test_late_regions_need_layers_that_can_take_them(config, layer, said):
    with pytest.raises(ValueError, match=said):
        TransformerAttention(LABELS, text_encoder=config.to_dict(), region_width=F, start_layer=layer)


def test_late_regions_as_a_strategy():
    options = {"text_encoder": CONFIGS[2].to_dict(), "region_width": F, "dropout": 0.0, "start_layer": 1}
    module = wide(TransformerAttention(LABELS, **options))
    assert isinstance(module.stream, LateStream)
    test_every_parameter_learns(module)
    test_one_post_is_tagged_as_in_a_batch(module.eval())
    test_a_post_without_image_shows_the_learned_vector(module)


@pytest.mark.slow
def test_late_regions_hold_what_every_strategy_must():
    check_fusion(TransformerAttention, start_layer=1)
