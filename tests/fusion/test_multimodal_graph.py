"""UMGF: messages and layers, against the formulas in loops and torch's own attention."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import layer_norm, relu

from mner.fusion import MultimodalGraph
from mner.fusion.multimodal_graph import GatedMessages, MultimodalGraphFusion
from tests.fusion.samples import build, close, sample, wide, without_gradient

D, F = 8, 9
WORDS, OBJECTS = (4, 1, 3), (3, 2, 0)
NO_IMAGE = 2
SMALL = {"graph_layers": 2, "graph_hidden": 16, "graph_dropout": 0.0}


@pytest.fixture
def inputs():
    word_mask = torch.arange(max(WORDS)) < torch.tensor(WORDS)[:, None]
    object_mask = torch.arange(max(OBJECTS)) < torch.tensor(OBJECTS)[:, None]
    return torch.randn(3, max(WORDS), D), word_mask, torch.randn(3, max(OBJECTS), F), object_mask


@pytest.fixture
def fusion():
    return wide(MultimodalGraphFusion(D, F, graph_width=4, hidden=7, heads=2, layers=3), 0.5)


@pytest.fixture
def module():
    return build(MultimodalGraph, **SMALL)


@torch.no_grad()
def test_messages_worked_out_by_hand():
    messages = GatedMessages(1)
    messages.receiver.weight.fill_(2.0)
    messages.receiver.bias.fill_(-1.0)
    messages.sender.weight.fill_(1.0)
    receivers, senders = torch.tensor([[[0.0], [0.5]]]), torch.tensor([[[1.0], [3.0], [100.0]]])
    found = messages(receivers, senders, torch.tensor([[True, True, False]]))
    # Gates sigmoid(2 x - 1 + o): of the first word sigmoid(0) and sigmoid(2), of the second sigmoid(1) and sigmoid(3).
    expected = [0.5 * 1 + 0.8807971 * 3, 0.7310586 * 1 + 0.9525741 * 3]
    torch.testing.assert_close(found.flatten(), torch.tensor(expected))


@torch.no_grad()
def test_messages_add_up_and_gates_do_not_compete():
    messages = wide(GatedMessages(D))
    receivers, sender = torch.randn(1, 2, D), torch.randn(1, 1, D)
    once = messages(receivers, sender, torch.ones(1, 1, dtype=torch.bool))
    thrice = messages(receivers, sender.expand(1, 3, D), torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(thrice, 3 * once)
    assert not messages(receivers, sender, torch.zeros(1, 1, dtype=torch.bool)).any()
    gates = once / sender
    assert ((gates > 0) & (gates < 1)).all()


def attended(nodes, rows):
    """Residual and torch's own attention with the same weights."""
    part = nodes.attention
    reference = torch.nn.MultiheadAttention(rows.shape[-1], part.heads).eval()
    reference.in_proj_weight.copy_(torch.cat([part.query.weight, part.key.weight, part.value.weight]))
    reference.in_proj_bias.copy_(torch.cat([part.query.bias, part.key.bias, part.value.bias]))
    reference.out_proj.load_state_dict(part.output.state_dict())
    return nodes.attention_norm(rows + reference(rows, rows, rows)[0])


def received(nodes, rows, others):
    """As the released code has it: one Linear on receiver and sender side by side."""
    joined = torch.cat([nodes.messages.receiver.weight, nodes.messages.sender.weight], 1)
    updated = []
    for row in rows:
        message = torch.zeros_like(row)
        for other in others:
            message += torch.sigmoid(joined @ torch.cat([row, other]) + nodes.messages.receiver.bias) * other
        row = layer_norm(row + message, row.shape, nodes.message_norm.weight, nodes.message_norm.bias)
        widen, _, narrow = nodes.feed_forward
        fed = narrow.weight @ relu(widen.weight @ row + widen.bias) + narrow.bias
        updated.append(nodes.feed_forward_norm(row + fed))
    return torch.stack(updated)


@torch.no_grad()
def test_the_formula_in_loops(fusion, inputs):
    words, _, regions, _ = inputs
    found = fusion(*inputs)
    for b, (w, r) in enumerate(zip(WORDS, OBJECTS, strict=True)):
        x = words[b, :w] @ fusion.words.weight.T + fusion.words.bias
        first, _, _, second, _, _ = fusion.objects
        o = relu(relu(regions[b, :r] @ first.weight.T + first.bias) @ second.weight.T + second.bias)
        for number, (of_words, of_objects) in enumerate(zip(fusion.word_layers, fusion.object_layers, strict=True)):
            x, o = attended(of_words, x), attended(of_objects, o) if r else o
            last = number == len(fusion.word_layers) - 1
            x, o = received(of_words, x, o), received(of_objects, o, x) if r and not last else o
        torch.testing.assert_close(found[b, :w], torch.cat([words[b, :w], x], -1), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_without_objects_it_is_the_text_alone(fusion, inputs):
    words, word_mask, regions, object_mask = inputs
    alone = fusion(words, word_mask, regions, torch.zeros_like(object_mask))
    other = fusion(words, word_mask, torch.full_like(regions, 50.0), torch.zeros_like(object_mask))
    torch.testing.assert_close(alone, other)
    torch.testing.assert_close(fusion(*inputs)[NO_IMAGE], alone[NO_IMAGE])
    assert not torch.allclose(fusion(*inputs)[0], alone[0], atol=1e-3)


@torch.no_grad()
def test_the_order_of_objects_means_nothing(fusion, inputs):
    words, word_mask, regions, object_mask = inputs
    torch.testing.assert_close(fusion(words, word_mask, regions.flip(1), object_mask.flip(1)), fusion(*inputs))


@torch.no_grad()
def test_neighbours_and_padding_change_nothing_in_training_too(module):
    module.train()
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    module.text_encoder.eval()
    batch = sample()
    together = module.emissions(batch)
    for row, words in enumerate(batch["words"]):
        alone = module.emissions(sample(row))
        torch.testing.assert_close(together[row, : len(words)], alone[0], atol=1e-5, rtol=1e-4)


def test_every_parameter_learns(module):
    module.losses(sample())["tagging"].backward()
    assert without_gradient(module) == []
    assert not module.fusion.object_layers[-1].receives
    assert module.fusion in module.pretrained  # at the encoders' rate


@torch.no_grad()
def test_words_stand_beside_their_nodes(module):
    batch = sample()
    words, word_mask = module.encode(batch), batch["word_mask"]
    fused = module.fuse(words, word_mask, *module.regions(batch))
    assert fused.shape[-1] == module.fused_width == module.head.in_features == 2 * module.width
    assert close(fused[..., : module.width], words, word_mask)
    other = copy.deepcopy(batch)
    other["regions"][~batch["region_mask"]] = 50.0
    assert close(module.emissions(other), module.emissions(batch), word_mask)


def test_a_width_of_its_own():
    module = build(MultimodalGraph, graph_width=24, **SMALL)
    assert module.fused_width == module.width + 24
    assert module.emissions(sample()).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"graph_layers": 0}, "of at least 1, but got 0"), ({"graph_width": 20}, "`heads` to divide the width 20, but")],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(MultimodalGraph, **options)
