"""RIVA: the scaled visual context against torch's own LSTM, the relation, and a language loss that cannot peek."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mner.fusion import RelationInference
from mner.fusion.relation_inference import LanguageModel, RelationInferenceFusion
from mner.nn.recurrent import BiLSTM
from mner.testing import check_fusion
from tests.fusion.samples import build, sample, wide, without_gradient

D, F, K = 6, 9, 5
WORDS, REGIONS = (4, 1, 3), (3, 2, 1)
NO_IMAGE = 2


@pytest.fixture
def inputs():
    word_mask = torch.arange(max(WORDS)) < torch.tensor(WORDS)[:, None]
    region_mask = torch.arange(max(REGIONS)) < torch.tensor(REGIONS)[:, None]
    return torch.randn(3, max(WORDS), D), word_mask, torch.randn(3, max(REGIONS), F), region_mask


@pytest.fixture
def fusion():
    return wide(RelationInferenceFusion(D, F, K), 0.5)


def torchs(reader: BiLSTM, states, counts):
    """The same weights in torch's own bidirectional LSTM, on packed sequences."""
    forth, back = reader.forward_layers[0], reader.backward_layers[0]
    reference = nn.LSTM(forth.input_size, forth.hidden_size, batch_first=True, bidirectional=True)
    theirs = {**forth.state_dict(), **{f"{name}_reverse": value for name, value in back.state_dict().items()}}
    reference.load_state_dict(theirs)
    packed = pack_padded_sequence(states, torch.tensor(counts), batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(reference(packed)[0], batch_first=True)[0]


@torch.no_grad()
def test_without_a_relation_it_is_a_bilstm_on_the_words(fusion, inputs):
    words = inputs[0]
    fusion.relation[2].weight.zero_()
    fusion.relation[2].bias.fill_(-1e4)
    expected = torchs(fusion.reader, torch.cat([words, torch.zeros_like(words)], -1), WORDS)
    found, score = fusion(*inputs)
    assert (score.sigmoid() == 0).all()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_the_formula_in_loops(fusion, inputs):
    words, _, regions, _ = inputs
    found, score = fusion(*inputs)
    contexts = torch.zeros(3, max(WORDS), D)
    first, _, last = fusion.relation
    query, key, vote = fusion.attention.query, fusion.attention.key, fusion.attention.score
    for b, (w, r) in enumerate(zip(WORDS, REGIONS, strict=True)):
        both = torch.cat([words[b, :w].mean(0), regions[b, :r].mean(0)])
        s = (last.weight @ torch.tanh(first.weight @ both + first.bias) + last.bias)[0]
        torch.testing.assert_close(score[b], s, atol=1e-5, rtol=1e-4)
        for t in range(w):
            parts = [vote(torch.tanh(query(words[b, t]) + key(regions[b, i])))[0] for i in range(r)]
            seen = torch.stack(parts).softmax(0) @ regions[b, :r]
            # The same r for each word of a post.
            contexts[b, t] = torch.sigmoid(s) * fusion.context_projection(seen)
    expected = torchs(fusion.reader, torch.cat([words, contexts], -1), WORDS)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert score.shape == (3,)
    assert score.std() > 0.1


@torch.no_grad()
def test_order_of_regions_means_nothing(fusion, inputs):
    words, word_mask, regions, region_mask = inputs
    moved, score = fusion(words, word_mask, regions.flip(1), region_mask.flip(1))
    torch.testing.assert_close(moved, fusion(*inputs)[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(score, fusion(*inputs)[1], atol=1e-5, rtol=1e-4)


def test_language_model_never_sees_what_it_predicts():
    reader, language = wide(BiLSTM(2 * D, K), 0.5), wide(LanguageModel(4, D, K), 0.5)
    embedded, mask = torch.randn(1, 5, 4, requires_grad=True), torch.ones(1, 5, dtype=torch.bool)
    following, previous = language(embedded, mask, reader)
    for t in range(5):
        (gradient,) = torch.autograd.grad(following[0, t].sum(), embedded, retain_graph=True)
        read = gradient[0].abs().sum(-1) > 0
        assert read.tolist() == [j <= t for j in range(5)]
        (gradient,) = torch.autograd.grad(previous[0, t].sum(), embedded, retain_graph=True)
        read = gradient[0].abs().sum(-1) > 0
        assert read.tolist() == [j >= t for j in range(5)]


@torch.no_grad()
def test_language_loss_is_the_mean_over_neighbours():
    reader, language = wide(BiLSTM(2 * D, K), 0.5), wide(LanguageModel(4, D, K), 0.5)
    table, ids = torch.randn(7, 4), torch.tensor([[3, 1, 6], [2, 5, 0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    following, previous = language(table[ids], mask, reader)
    parts = []
    for b, t in ((0, 0), (0, 1), (1, 0)):
        parts.append(-(table @ following[b, t]).log_softmax(0)[ids[b, t + 1]])
        parts.append(-(table @ previous[b, t + 1]).log_softmax(0)[ids[b, t]])
    found = language.loss(table, ids, mask, reader)
    torch.testing.assert_close(found, torch.stack(parts).mean(), atol=1e-5, rtol=1e-4)
    assert language.loss(table, ids[:, :1], mask[:, :1], reader) == 0


def test_relation_loss_counts_known_relations_of_posts_with_an_image():
    module, batch = build(RelationInference, relation_weight=0.5), sample(needs={"relation"})
    assert module.needs == {"relation"}
    relation = batch["relation"]
    known = [row for row in range(6) if row != NO_IMAGE and not relation[row].isnan()]
    assert len(known) == 4
    r = module.fusion(module.encode(batch), batch["word_mask"], *module.regions(batch))[1].sigmoid()[known]
    expected = -(relation[known] * r.log() + (1 - relation[known]) * (1 - r).log()).mean()
    losses = module.losses(batch)
    torch.testing.assert_close(losses["relation"], 0.5 * expected, atol=1e-5, rtol=1e-4)
    spoilt = {**batch, "relation": relation.index_fill(0, torch.tensor(NO_IMAGE), 0.9)}
    torch.testing.assert_close(module.losses(spoilt)["relation"], losses["relation"])
    unknown = {**batch, "relation": torch.full_like(relation, torch.nan)}
    assert module.losses(unknown)["relation"] == 0


@torch.no_grad()
def test_parts_that_nobody_asks_for_are_absent():
    module, batch = build(RelationInference), sample(needs={"relation"})
    assert "relation" not in getattr(module, "needs", ())
    losses = module.losses(batch)
    assert list(losses) == ["tagging"]
    torch.testing.assert_close(losses["tagging"], module.nll(module.emissions(batch), batch))
    del batch["relation"]
    assert list(build(RelationInference, relation_weight=0.5).losses(batch)) == ["tagging"]
    assert list(build(RelationInference, language_weight=0.1).losses(batch)) == ["tagging", "language"]


@torch.no_grad()
def test_language_loss_reads_first_pieces_of_words():
    module, batch = build(RelationInference, language_weight=0.3), sample()
    ids = torch.stack([row[starts] for row, starts in zip(batch["token_ids"], batch["word_starts"], strict=True)])
    table = module.text_encoder.model.get_input_embeddings().weight
    expected = module.language.loss(table, ids, batch["word_mask"], module.fusion.reader)
    torch.testing.assert_close(module.losses(batch)["language"], 0.3 * expected)
    assert module.losses(sample(1))["language"] == 0  # a post of one word


def test_every_parameter_learns():
    module = build(RelationInference, relation_weight=0.1, language_weight=0.1).train()
    sum(module.losses(sample(needs={"relation"})).values()).backward()
    assert [name for name in without_gradient(module) if not name.endswith("key.bias")] == []


class Labelled(RelationInference):
    """Gets relations from `check_fusion`."""

    needs = frozenset({"relation"})


@pytest.mark.slow
def test_with_all_losses_it_holds_what_every_strategy_must():
    check_fusion(Labelled, relation_weight=0.1, language_weight=0.1, hidden=12)


@pytest.mark.parametrize("name", ["relation_weight", "language_weight"])
def test_negative_weights_are_refused(name):
    with pytest.raises(ValueError, match="at least 0, but got"):
        build(RelationInference, **{name: -0.1})
