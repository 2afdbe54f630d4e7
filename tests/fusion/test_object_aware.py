"""AGBAN: bilinear attention, gate and reversed classifier, against the formulas in loops."""

from __future__ import annotations

import copy

import pytest
import torch

from mner.fusion import ObjectAware
from mner.fusion.object_aware import ObjectAwareFusion, reversal_scale
from tests.fusion.samples import build, close, sample, wide, without_gradient

D, F = 6, 9
WORDS, OBJECTS = (4, 1, 3), (3, 2, 0)
NO_IMAGE = 2


@pytest.fixture
def inputs():
    word_mask = torch.arange(max(WORDS)) < torch.tensor(WORDS)[:, None]
    object_mask = torch.arange(max(OBJECTS)) < torch.tensor(OBJECTS)[:, None]
    return torch.randn(3, max(WORDS), D), word_mask, torch.randn(3, max(OBJECTS), F), object_mask


@pytest.fixture(params=[True, False], ids=["joint", "each"])
def fusion(request):
    return wide(ObjectAwareFusion(D, F, rank=2, joint=request.param), 0.5)


@torch.no_grad()
def test_the_formula_in_loops(fusion, inputs):
    words, _, regions, _ = inputs
    found, attention = fusion(*inputs), fusion.attention
    for b, (w, r) in enumerate(zip(WORDS, OBJECTS, strict=True)):
        objects = [fusion.objects(regions[b, i]) for i in range(r)]
        scores = torch.zeros(w, r)
        for j in range(w):
            for i in range(r):
                word = torch.relu(attention.words.weight @ words[b, j] + attention.words.bias)
                seen = torch.relu(attention.objects.weight @ objects[i] + attention.objects.bias)
                scores[j, i] = (attention.score * word * seen).sum()
        exp = scores.exp()
        weights = exp / (exp.sum() if attention.joint else exp.sum(1, keepdim=True))
        for j in range(w):
            context = torch.zeros(D)
            for i in range(r):
                context += weights[j, i] * torch.relu(attention.values.weight @ objects[i] + attention.values.bias)
            gate = torch.sigmoid(fusion.gate.weight @ torch.cat([words[b, j], context]) + fusion.gate.bias)
            expected = fusion.norm(words[b, j] + gate * context)
            torch.testing.assert_close(found[b, j], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_objects_are_a_perceptron_with_layer_normalisation(fusion):
    region = torch.randn(F)
    first, norm, _, second, norm_2, _, third = fusion.objects
    hidden = first.weight @ region + first.bias
    hidden = torch.relu((hidden - hidden.mean()) / (hidden.var(correction=0) + norm.eps).sqrt())
    hidden = second.weight @ hidden + second.bias
    hidden = torch.relu((hidden - hidden.mean()) / (hidden.var(correction=0) + norm_2.eps).sqrt())
    assert (first.out_features, second.out_features, third.out_features) == (512, 256, D)
    torch.testing.assert_close(fusion.objects(region), third.weight @ hidden + third.bias, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_attention_has_a_mass_of_1_a_post_or_a_word(fusion, inputs):
    words, word_mask, regions, region_mask = inputs
    _, weights = fusion.attention(words, word_mask, fusion.objects(regions), region_mask)
    assert (weights >= 0).all()
    assert (weights[~(word_mask[:, :, None] & region_mask[:, None])] == 0).all()
    if fusion.attention.joint:
        torch.testing.assert_close(weights.sum((1, 2)), torch.tensor([1.0, 1.0, 0.0]))
        assert not fusion.attention.returns_attention
    else:
        expected = (word_mask & region_mask.any(1, keepdim=True)).float()
        torch.testing.assert_close(weights.sum(2), expected)
        assert fusion.attention.returns_attention


@torch.no_grad()
def test_without_objects_it_is_the_text_path(fusion, inputs):
    words, word_mask, regions, region_mask = inputs
    assert torch.equal(fusion(*inputs)[2], fusion.norm(words[2]))
    none = fusion(words, word_mask, regions, torch.zeros_like(region_mask))
    assert torch.equal(none, fusion.norm(words))
    fusion.gate.bias.fill_(-1e4)
    torch.testing.assert_close(fusion(*inputs)[word_mask], fusion.norm(words)[word_mask])


@torch.no_grad()
def test_order_of_objects_means_nothing(fusion, inputs):
    words, word_mask, regions, region_mask = inputs
    moved = fusion(words, word_mask, regions.flip(1), region_mask.flip(1))
    torch.testing.assert_close(moved[word_mask], fusion(*inputs)[word_mask], atol=1e-5, rtol=1e-4)


def plain_loss(fusion, words, word_mask, regions, region_mask):
    """The classifier's loss without any reversal, written out."""
    of_words, of_objects = [], []
    for b in range(len(words)):
        if region_mask[b].any():
            of_words += [fusion.modality(words[b, j]) for j in range(int(word_mask[b].sum()))]
            of_objects += [fusion.modality(fusion.objects(regions[b, i])) for i in range(int(region_mask[b].sum()))]
    p, q = torch.cat(of_words).sigmoid(), torch.cat(of_objects).sigmoid()
    return -(1 - p).log().mean() - q.log().mean()


def gradients(fusion, loss, words):
    parts = [words, fusion.objects[0].weight, fusion.modality[0].weight]
    return torch.autograd.grad(loss, parts)


def test_the_gradient_comes_back_negated_and_scaled_but_not_at_the_classifier(fusion, inputs):
    words, *rest = inputs
    words.requires_grad_()
    loss = fusion.modality_loss(words, *rest, scale=0.3)
    plain = plain_loss(fusion, words, *rest)
    torch.testing.assert_close(loss, plain, atol=1e-5, rtol=1e-4)
    at_words, at_objects, at_classifier = gradients(fusion, loss, words)
    plain_words, plain_objects, plain_classifier = gradients(fusion, plain, words)
    assert min(part.abs().max() for part in (plain_words, plain_objects, plain_classifier)) > 1e-4
    torch.testing.assert_close(at_words, -0.3 * plain_words, atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(at_objects, -0.3 * plain_objects, atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(at_classifier, plain_classifier, atol=1e-6, rtol=1e-3)


def test_padding_and_posts_without_objects_are_not_classified(fusion, inputs):
    words, word_mask, regions, region_mask = inputs
    loss = fusion.modality_loss(*inputs)
    spoilt = torch.where((word_mask & region_mask.any(1, keepdim=True))[..., None], words, 50.0)
    others = regions.masked_fill(~region_mask[..., None], -50.0)
    torch.testing.assert_close(fusion.modality_loss(spoilt, word_mask, others, region_mask), loss)
    assert fusion.modality_loss(words, word_mask, regions, torch.zeros_like(region_mask)) == 0


def test_the_scale_rises_from_0_to_1():
    scales = [reversal_scale(step / 20) for step in range(21)]
    assert scales[0] == 0
    assert scales == sorted(scales)
    assert 0.9999 < scales[-1] < 1
    assert reversal_scale(0.1) == pytest.approx((1 - 2.718281828459045**-1) / (1 + 2.718281828459045**-1))


class At(ObjectAware):
    """In the midst of its training."""

    progress = 0.0


def test_no_adversarial_gradient_at_the_start_of_training():
    batch = sample()
    for progress in (0.0, 0.5):
        module = build(At)
        module.progress = progress
        module.losses(batch)["adversarial"].backward()
        assert module.fusion.modality[0].weight.grad.abs().max() > 0
        embedding = module.text_encoder.model.get_input_embeddings().weight.grad
        assert (embedding.abs().max() > 0) == (progress > 0)
        assert (module.fusion.objects[0].weight.grad.abs().max() > 0) == (progress > 0)


@torch.no_grad()
def test_losses_are_named_and_weighed():
    batch, module = sample(), build(ObjectAware, adversarial_weight=0.25)
    losses = module.losses(batch)
    assert list(losses) == ["tagging", "adversarial"]
    modality = module.fusion.modality_loss(module.encode(batch), batch["word_mask"], *module.regions(batch))
    torch.testing.assert_close(losses["adversarial"], 0.25 * modality)
    torch.testing.assert_close(losses["tagging"], module.nll(module.emissions(batch), batch))
    assert module.losses(sample(images="missing"))["adversarial"] == 0
    assert all(part.isfinite() for part in module.losses(sample(NO_IMAGE)).values())


@torch.no_grad()
@pytest.mark.parametrize("joint", [True, False])
def test_a_post_without_image_is_the_text_path(joint):
    batch, module = sample(), build(ObjectAware, joint_softmax=joint)
    text = module.head(module.fusion.norm(module.encode(batch)))
    alone = torch.zeros_like(batch["word_mask"])
    alone[NO_IMAGE] = batch["word_mask"][NO_IMAGE]
    assert close(module.emissions(batch), text, alone)
    assert not close(module.emissions(batch), text, batch["word_mask"] & ~alone, 1e-2)


@pytest.mark.parametrize("joint", [True, False])
def test_every_parameter_learns(joint):
    module = copy.deepcopy(build(ObjectAware, joint_softmax=joint)).train()
    sum(module.losses(sample()).values()).backward()
    assert [name for name in without_gradient(module) if not name.endswith("key.bias")] == []


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="at least 0, but got -1"):
        build(ObjectAware, adversarial_weight=-1)
