"""Callbacks of losses: what they add to the loss, under either reduction, and what refuses them."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch

from mner.fusion import RetrievalExperts, TextOnly
from mner.nn.label_losses import entropy, focal
from mner.training import ConfidencePenalty, FocalLoss, LabelSmoothing
from tests.fusion.samples import build, sample


@pytest.mark.parametrize("reduction", ["token_mean", "sentence_mean"])
def test_what_they_add(reduction):
    module, batch = build(TextOnly, crf_reduction=reduction), sample()
    mask, tags = batch["word_mask"], batch["tags"]
    emissions = module.emissions(batch)
    count = mask.sum() if reduction == "token_mean" else len(mask)
    losses = {
        LabelSmoothing(0.0): 0.0,
        ConfidencePenalty(0.5): -0.5 * entropy(module.crf, emissions, mask).sum() / count,
        FocalLoss(1.0, 3.0): 3 * focal(module.crf, emissions, tags, mask, 1.0).sum() / count,
    }
    plain = module._losses(batch)["tagging"]
    for technique, expected in losses.items():
        technique.on_fit_start(None, module)
        parts = module._losses(batch)
        assert parts[technique.name].item() == pytest.approx(float(expected), rel=1e-5)
        torch.testing.assert_close(parts["tagging"], plain)
        technique.on_fit_end(None, module)
        assert module.extra_losses == {}
    # All labels equally likely: the mean loss of random tags, by definition of it.
    technique = LabelSmoothing(2 / 3)
    drawn = torch.rand(2000, *tags.shape) < 2 / 3
    others = torch.randint(0, len(module.labels), drawn.shape)
    with torch.no_grad():
        mean = sum(module.nll(emissions, {**batch, "tags": torch.where(here, other, tags)})
                   for here, other in zip(drawn, others, strict=True)) / len(drawn)  # fmt: skip
    assert (plain + technique.loss(module, batch, emissions)).item() == pytest.approx(mean.item(), rel=0.02)


def test_who_is_refused():
    module = build(RetrievalExperts)
    for technique in (LabelSmoothing(), ConfidencePenalty(), FocalLoss()):
        with pytest.raises(ValueError, match="decodes a mixture of label distributions"):
            technique.on_fit_start(None, module)
        with pytest.raises(TypeError, match=r"Expected a mner\.fusion\.FusionModule"):
            technique.on_fit_start(None, pl.LightningModule())
        technique.on_exception(None, pl.LightningModule(), RuntimeError())
    for made in (
        lambda: LabelSmoothing(1.0), lambda: LabelSmoothing(-0.1), lambda: ConfidencePenalty(-1),
        lambda: FocalLoss(gamma=-1), lambda: FocalLoss(weight=float("nan")),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="Expected `"):
            made()
