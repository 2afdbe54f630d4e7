"""RpBERT: the gate between two passes of one stream, against TransformerAttention and against the text alone."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch

from mner.fusion import RelationPropagation, TextOnly, TransformerAttention
from mner.nn import capture_attention
from mner.nn.masking import first_pieces
from mner.testing import check_fusion
from tests.fusion.samples import build, close, sample, without_gradient

NO_IMAGE = 2


def twin(cls, module):
    """Another strategy with the same weights, as far as it has them."""
    other = build(cls)
    spare = other.load_state_dict(module.state_dict(), strict=False)
    assert spare.missing_keys == []
    return other


def with_gate(module, logit):
    """The gate at sigmoid(logit) whatever the post."""
    with torch.no_grad():
        module.stream.relation.weight.zero_()
        module.stream.relation.bias.fill_(logit)
    return module


@pytest.fixture
def batch():
    return sample(needs={"relation"})


@torch.no_grad()
def test_soft_with_an_open_gate_is_transformer_attention(batch):
    module = with_gate(build(RelationPropagation), 1e3)
    both = sample(0, 1, 3, 4, 5)
    assert module.relation(both).tolist() == [1.0] * 5
    assert close(module.emissions(both), twin(TransformerAttention, module).emissions(both), both["word_mask"])
    half = with_gate(copy.deepcopy(module), 0.0)
    assert not close(half.emissions(both), module.emissions(both), both["word_mask"], 1e-3)


@torch.no_grad()
def test_none_is_transformer_attention_for_posts_with_an_image():
    module, batch = build(RelationPropagation, propagation="none"), sample(0, 1, 3, 4, 5)
    assert close(module.emissions(batch), twin(TransformerAttention, module).emissions(batch), batch["word_mask"])
    with pytest.raises(ValueError, match="tells no relation"):
        module.relation(batch)


@torch.no_grad()
def test_hard_is_one_of_both():
    batch = sample(0, 1, 3, 4, 5)
    module = build(RelationPropagation, propagation="hard")
    text, seen = (twin(cls, module).emissions(batch) for cls in (TextOnly, TransformerAttention))
    assert not close(text, seen, batch["word_mask"], 1e-2)
    assert close(with_gate(module, -0.1).emissions(batch), text, batch["word_mask"])
    assert close(with_gate(module, 0.1).emissions(batch), seen, batch["word_mask"])


@pytest.mark.parametrize("propagation", ["soft", "hard"])
@pytest.mark.parametrize("logit", [-1.0, 1.0])
def test_the_gate_learns_from_the_tags_open_or_closed(propagation, logit, batch):
    module = with_gate(build(RelationPropagation, propagation=propagation), logit)
    module.losses({**batch, "relation": torch.full((6,), torch.nan)})["tagging"].backward()
    assert module.stream.relation.weight.grad.abs().max() > 1e-4


def test_a_closed_hard_gate_learns_what_opening_it_would_change(batch):
    """In its first order, which is exact where the loss is linear in the words: here their sum."""
    module = with_gate(build(RelationPropagation, propagation="hard"), -0.5)
    post = sample(0)
    words = module.encode(post)
    words.sum().backward()
    opened = with_gate(copy.deepcopy(module), 0.5).encode(post).sum() - words.sum()
    r = torch.tensor(-0.5).sigmoid()
    torch.testing.assert_close(
        module.stream.relation.bias.grad[0], opened.detach() * r * (1 - r), atol=1e-4, rtol=1e-3
    )


@torch.no_grad()
@pytest.mark.parametrize("propagation", ["soft", "hard", "none"])
def test_a_post_without_image_is_read_as_text_alone(propagation, batch):
    module = build(RelationPropagation, propagation=propagation)
    text = twin(TextOnly, module).emissions(batch)
    alone = torch.zeros_like(batch["word_mask"])
    alone[NO_IMAGE] = batch["word_mask"][NO_IMAGE]
    assert close(module.emissions(batch), text, alone)
    assert not close(module.emissions(batch), text, batch["word_mask"] & ~alone, 1e-2)
    if propagation != "none":
        assert module.relation(batch)[NO_IMAGE] == 0
        assert (module.relation(batch)[[0, 1, 3, 4, 5]] > 0).all()


@torch.no_grad()
def test_slots_are_scaled_behind_their_projection(batch):
    """Against the encoder itself: slots of W V + b times r, then type and position."""
    module, post = build(RelationPropagation), sample(0)
    r = module.relation(post)
    stream, model = module.stream, module.text_encoder.model
    slots = r * (post["regions"] @ stream.projection.weight.T + stream.projection.bias)
    table = model.embeddings
    slots = slots + stream.type_embedding + stream.position_embedding
    t, n = post["token_ids"].shape[1], slots.shape[1]
    text = table.word_embeddings(post["token_ids"]) + table.token_type_embeddings(post["segment_ids"])
    joined = torch.cat([text + table.position_embeddings.weight[:t], slots], 1)
    hidden = table.LayerNorm(joined)
    states = model.encoder(hidden).last_hidden_state
    assert post["token_mask"].all()
    expected = first_pieces(states, post["word_starts"])
    torch.testing.assert_close(module.encode(post), expected, atol=1e-5, rtol=1e-4)
    assert n == 1
    assert 0.01 < r < 0.99


def test_both_passes_share_their_parameters():
    strategies = (RelationPropagation, TransformerAttention)
    count = {cls: sum(value.numel() for value in build(cls).parameters()) for cls in strategies}
    width = build(TextOnly).text_encoder.width
    assert count[RelationPropagation] == count[TransformerAttention] + width + 1


def test_relation_loss_counts_known_relations_of_posts_with_an_image(batch):
    module = build(RelationPropagation, relation_weight=0.5)
    assert batch["relation"].isnan().any()
    assert not batch["has_image"][NO_IMAGE]
    assert not batch["relation"][NO_IMAGE].isnan()
    known = [row for row in range(6) if row != NO_IMAGE and not batch["relation"][row].isnan()]
    r, y = module.relation(batch)[known], batch["relation"][known]
    expected = -(y * r.log() + (1 - y) * (1 - r).log()).mean()
    losses = module.losses(batch)
    assert list(losses) == ["tagging", "relation"]
    torch.testing.assert_close(losses["relation"], 0.5 * expected, atol=1e-5, rtol=1e-4)


def test_relation_loss_is_absent_or_0_without_relations(batch):
    module = build(RelationPropagation, relation_weight=0.05)
    assert module.needs == {"relation"}
    unknown = module.losses({**batch, "relation": torch.full((6,), torch.nan)})
    assert unknown["relation"] == 0
    del batch["relation"]
    assert list(module.losses(batch)) == ["tagging"]
    for options in ({"propagation": "none", "relation_weight": 0.05}, {"relation_weight": 0.0}):
        module = build(RelationPropagation, **options)
        assert "relation" not in getattr(module, "needs", ())
        assert list(module.losses(sample(needs={"relation"}))) == ["tagging"]


@pytest.mark.parametrize("propagation", ["soft", "hard", "none"])
def test_every_parameter_learns(propagation, batch):
    module = build(RelationPropagation, propagation=propagation).train()
    sum(module.losses(batch).values()).backward()
    keys = [name for name in without_gradient(module) if not name.endswith("key.bias")]  # cancels in the softmax
    assert keys == [], keys


@torch.no_grad()
@pytest.mark.parametrize("propagation", ["soft", "hard", "none"])
def test_maps_are_of_the_pass_that_is_tagged(propagation):
    module, batch = build(RelationPropagation, propagation=propagation), sample(0, 3)
    with capture_attention(module) as seen:
        module.emissions(batch)
    plain = SimpleNamespace(maps={})
    if propagation != "soft":
        other = twin(TransformerAttention, module)
        with capture_attention(other) as plain:
            other.emissions(batch)
        w = batch["word_mask"].shape[1]
        torch.testing.assert_close(seen.maps["stream"][:, :w], plain.maps["stream"], atol=1e-6, rtol=1e-4)
    assert (seen.maps["stream"].sum(-1) > 0).all()


class Labelled(RelationPropagation):
    """Gets relations from `check_fusion`."""

    needs = frozenset({"relation"})


@pytest.mark.slow
@pytest.mark.parametrize("propagation", ["soft", "hard", "none"])
def test_with_relations_it_holds_what_every_strategy_must(propagation):
    check_fusion(Labelled, propagation=propagation, relation_weight=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"propagation": "weak"}, "'soft', 'hard', 'none'.*, but got 'weak'"), ({"relation_weight": -1.0}, "got -1.0")],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(RelationPropagation, **options)
