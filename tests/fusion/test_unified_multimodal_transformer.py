"""UMT: cross-modal layers, gate, span detection and conversion matrix, against formulas."""

from __future__ import annotations

import pytest
import torch
import torchcrf
from torch import nn

from mner.fusion.unified_multimodal_transformer import (
    SpanConversion,
    UnifiedMultimodalFusion,
    UnifiedMultimodalTransformer,
    span_kinds,
)
from mner.labels import bio_labels

W, R, D, F = 5, 4, 32, 7  # words, regions, width, region width
WORD_COUNTS = (5, 2, 3)
REGION_COUNTS = (2, 4, 1)
LABELS = bio_labels(["PER", "LOC", "ORG"])


def wide(module: nn.Module) -> nn.Module:
    """Weights well away from 0, so that attention is far from uniform and gates from a half."""
    for name, parameter in module.named_parameters():
        if "norm" not in name.lower():
            nn.init.normal_(parameter, std=0.3)
    return module.eval()


@pytest.fixture
def inputs():
    word_mask = torch.arange(W) < torch.tensor(WORD_COUNTS)[:, None]
    region_mask = torch.arange(R) < torch.tensor(REGION_COUNTS)[:, None]
    return torch.randn(3, W, D), word_mask, torch.randn(3, R, F), region_mask


@pytest.fixture
def batch(inputs):
    _, word_mask, regions, region_mask = inputs
    starts = torch.arange(1, W + 1)
    token_mask = torch.arange(W + 2) < torch.tensor(WORD_COUNTS)[:, None] + 2
    return {
        "token_ids": torch.randint(5, 40, token_mask.shape),
        "token_mask": token_mask,
        "segment_ids": torch.zeros(token_mask.shape, dtype=torch.long),
        "word_starts": starts * word_mask,
        "word_mask": word_mask,
        "tags": torch.randint(0, len(LABELS), word_mask.shape) * word_mask,
        "regions": regions,
        "region_mask": region_mask,
        "has_image": torch.ones(3, dtype=torch.bool),
        "words": [("word",) * count for count in WORD_COUNTS],
        "id": ["0", "1", "2"],
        "image_id": ["0", "1", "2"],
    }


@pytest.fixture
def build(bert_folder):
    def build_(**options):
        return wide(UnifiedMultimodalTransformer(LABELS, text_encoder=bert_folder, region_width=F, **options))

    return build_


# The fusion


@torch.no_grad()
def test_a_closed_gate_leaves_the_word_aware_path_alone(inputs):
    fusion = wide(UnifiedMultimodalFusion(D, F))
    before = fusion(*inputs)
    assert before[..., D:].abs().max() > 0.1
    fusion.gate.bias.fill_(-1e4)
    closed = fusion(*inputs)
    assert torch.equal(closed[..., :D], before[..., :D])
    assert (closed[..., D:] == 0).all()
    wide(fusion.image_aware), wide(fusion.image_projection)  # what made A
    assert torch.equal(fusion(*inputs), closed)


@torch.no_grad()
def test_the_gate_weighs_what_words_see_directly(inputs):
    fusion = wide(UnifiedMultimodalFusion(D, F))
    words, word_mask, regions, region_mask = inputs
    words, _ = fusion.word_layer(words, words, word_mask)
    seen, _ = fusion.image_aware(words, fusion.image_projection(regions), region_mask)
    aware, _ = fusion.word_aware(fusion.region_projection(regions), words, word_mask)
    final, _ = fusion.final(words, aware, region_mask)
    gate = torch.sigmoid(fusion.gate(torch.cat([final, seen], -1)))
    assert gate.std() > 0.1
    torch.testing.assert_close(fusion(*inputs), torch.cat([final, gate * seen], -1))


@torch.no_grad()
def test_order_of_regions_means_nothing(inputs):
    fusion = wide(UnifiedMultimodalFusion(D, F))
    words, word_mask, regions, region_mask = inputs
    order = torch.tensor([3, 1, 0, 2])
    moved = fusion(words, word_mask, regions[:, order], region_mask[:, order])
    torch.testing.assert_close(moved[word_mask], fusion(*inputs)[word_mask], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_padding_changes_nothing(inputs):
    fusion = wide(UnifiedMultimodalFusion(D, F))
    words, word_mask, regions, region_mask = inputs
    fused, states = fusion(*inputs), fusion.span_states(words, word_mask)
    for b, (w, r) in enumerate(zip(WORD_COUNTS, REGION_COUNTS, strict=True)):
        post = words[b : b + 1, :w], word_mask[b : b + 1, :w]
        alone = fusion(*post, regions[b : b + 1, :r], region_mask[b : b + 1, :r])
        torch.testing.assert_close(fused[b, :w], alone[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(states[b, :w], fusion.span_states(*post)[0], atol=1e-5, rtol=1e-4)


# The conversion matrix


@pytest.mark.parametrize("learnable", [False, True])
def test_conversion_gives_each_type_an_equal_share(learnable):
    labels = ["O", "I-LOC", "B-LOC", "B-PER", "I-PER"]  # any order
    expected = torch.tensor([[1, 0, 0, 0, 0], [0, 0, 0.5, 0.5, 0], [0, 0.5, 0, 0, 0.5]])
    torch.testing.assert_close(SpanConversion(labels, learnable).matrix, expected)


def test_learned_conversion_keeps_rows_that_sum_to_1():
    conversion = SpanConversion(LABELS, learnable=True)
    start = conversion.matrix.detach()
    nn.init.normal_(conversion.logits)
    matrix = conversion.matrix
    torch.testing.assert_close(matrix.sum(1), torch.ones(3))
    assert ((matrix > 0) == (start > 0)).all()
    assert (matrix - start).abs().max() > 0.05


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_a_certain_span_label_raises_all_its_types_alike(kind):
    plain, certain = torch.zeros(1, 1, 3), torch.zeros(1, 1, 3)
    certain[..., kind] = 12.0
    conversion = SpanConversion(LABELS)
    raised = (conversion(certain) - conversion(plain))[0, 0]
    mine = span_kinds(LABELS) == kind
    torch.testing.assert_close(raised[mine], torch.full_like(raised[mine], 12.0 / mine.sum()))
    assert (raised[~mine] == 0).all()


# The strategy


@torch.no_grad()
@pytest.mark.parametrize("share", [0.5, 0.2])
def test_emissions_mix_the_head_with_converted_span_scores(build, batch, share):
    module = build(span_share=share)
    words, mask = module.encode(batch), batch["word_mask"]
    main = module.head(module.fusion(words, mask, batch["regions"], batch["region_mask"]))
    spans = module.span_head(module.fusion.span_layer(words, words, mask)[0])  # (b, w, 3)
    parts = {"O": spans[..., 0], "B": spans[..., 1] / 3, "I": spans[..., 2] / 3}
    converted = torch.stack([parts[label[0]] for label in LABELS], -1)
    torch.testing.assert_close(module.emissions(batch), (1 - share) * main + share * converted)


@torch.no_grad()
@pytest.mark.parametrize("reduction", ["token_mean", "sentence_mean"])
def test_auxiliary_loss_is_that_of_a_crf_over_spans(build, batch, reduction):
    module = build(crf_reduction=reduction, span_weight=0.3)
    words, mask = module.encode(batch), batch["word_mask"]
    spans = module.span_head(module.fusion.span_states(words, mask))
    crf = torchcrf.CRF(3, batch_first=True)
    crf.load_state_dict(module.span_crf.state_dict())
    gold = torch.tensor([["OBI".index(LABELS[tag][0]) for tag in row] for row in batch["tags"].tolist()])
    likelihood = crf(spans, gold, mask, reduction="token_mean" if reduction == "token_mean" else "mean")
    losses = module.losses(batch)
    assert list(losses) == ["tagging", "auxiliary"]
    torch.testing.assert_close(losses["auxiliary"], -0.3 * likelihood, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(losses["tagging"], module.nll(module.emissions(batch), batch))


@torch.no_grad()
def test_span_detection_never_sees_the_image(build, batch):
    module = build(span_share=1.0)
    other = {**batch, "regions": batch["regions"] + 3}
    assert torch.equal(module.emissions(batch), module.emissions(other))
    module = build(span_share=0.5)
    assert (module.emissions(batch) - module.emissions(other)).abs().max() > 1e-2


@pytest.mark.parametrize("learnable", [False, True])
def test_every_parameter_learns(build, batch, learnable):
    module = build(learnable_conversion=learnable).train()
    batch["region_mask"][2] = False  # a post without image
    torch.stack(list(module.losses(batch).values())).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@torch.no_grad()
def test_one_post_is_tagged_as_in_a_batch(build, batch):
    module = build()
    emissions = module.emissions(batch)
    for row, (w, r) in enumerate(zip(WORD_COUNTS, REGION_COUNTS, strict=True)):
        sizes = {"token": w + 2, "segment": w + 2, "word": w, "tags": w, "region": r}
        alone = {
            key: value[row : row + 1, : next((size for name, size in sizes.items() if key.startswith(name)))]
            for key, value in batch.items()
            if key not in ("has_image", "words", "id", "image_id")
        }
        torch.testing.assert_close(emissions[row, :w], module.emissions(alone)[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_bfloat16_stays_close(build, batch):
    module = build()
    full = module.emissions(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = module.emissions(batch)
        losses = module.losses(batch)
    assert (half.float() - full).abs().max() < 0.1 * full.abs().max()
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"span_share": 1.5}, "between 0 and 1, but got 1.5"),
        ({"span_weight": -1.0}, "at least 0, but got -1.0"),
        ({"heads": 5}, "divide the width 32, but got 5"),
    ],
)
def test_bad_options_are_refused(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
