"""The tensor maths of CM, VAM and CAM, against loops written from the formulas."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mner.fusion.co_attention import CoAttentionFusion
from mner.fusion.concatenation import ConcatenationFusion
from mner.fusion.visual_attention import VisualAttentionFusion
from mner.nn.attention import AdditiveAttention
from mner.nn.masking import masked_mean, masked_softmax

B, W, R, D, F, C = 3, 5, 4, 6, 7, 3  # posts, words, regions, width, region width, character width
WORD_COUNTS = (5, 1, 3)
REGION_COUNTS = (2, 4, 1)

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
Fusion = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class WithCharacters(nn.Module):
    """CM in the call of the others; the words carry their characters, as in `Concatenation`."""

    def __init__(self) -> None:
        super().__init__()
        self.fusion = ConcatenationFusion(D - C, F, C, projected_width=4)

    def forward(self, words, word_mask, regions, region_mask):
        return self.fusion(words[..., : D - C], regions, region_mask, words[..., D - C :])


class WithoutCharacters(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fusion = ConcatenationFusion(D, F)

    def forward(self, words, word_mask, regions, region_mask):
        return self.fusion(words, regions, region_mask)


MODULES = {
    "cm": (WithCharacters, 12),
    "cm-without-characters": (WithoutCharacters, 2 * D),
    "vam": (lambda: VisualAttentionFusion(D, F, 8), D),
    "cam": (lambda: CoAttentionFusion(D, F, 8), 2 * D),
}


def wide(module: nn.Module) -> nn.Module:
    """Weights well away from 0, so that attention is far from uniform and gates from a half."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.7)
    return module.eval()


@pytest.fixture(params=MODULES)
def fusion(request) -> nn.Module:
    torch.manual_seed(0)
    return wide(MODULES[request.param][0]())


@pytest.fixture
def inputs() -> Inputs:
    torch.manual_seed(1)
    word_mask = torch.arange(W) < torch.tensor(WORD_COUNTS)[:, None]
    region_mask = torch.arange(R) < torch.tensor(REGION_COUNTS)[:, None]
    return torch.randn(B, W, D), word_mask, torch.randn(B, R, F), region_mask


def at_words(fused: Tensor, word_mask: Tensor) -> Tensor:
    return fused[word_mask]


# Masked means and softmaxes


def test_masked_softmax_is_a_softmax_of_the_real_entries():
    scores, mask = torch.randn(4, 6) * 30, torch.arange(6) < torch.tensor([[6], [3], [1], [2]])
    weights = masked_softmax(scores, mask)
    for row, count in enumerate((6, 3, 1, 2)):
        torch.testing.assert_close(weights[row, :count], scores[row, :count].softmax(-1))
        assert (weights[row, count:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masked_softmax_without_a_real_entry_is_zero_and_has_a_gradient(dtype):
    scores = torch.randn(2, 3, dtype=dtype, requires_grad=True)
    weights = masked_softmax(scores, torch.tensor([[True, True, False], [False, False, False]]))
    assert weights[1].tolist() == [0, 0, 0]
    weights[:, 0].sum().backward()
    assert scores.grad.isfinite().all()
    assert scores.grad[0, :2].abs().min() > 0


def test_masked_softmax_along_another_dimension():
    scores, mask = torch.randn(2, 4, 3), torch.tensor([True, True, False, True])[:, None]
    weights = masked_softmax(scores, mask, dim=1)
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 3))
    assert (weights[:, 2] == 0).all()


def test_masked_mean_is_the_mean_of_the_real_entries_whatever_the_padding_holds():
    values, mask = torch.randn(3, 4, 2), torch.arange(4) < torch.tensor([[4], [2], [0]])
    expected = torch.stack([values[0].mean(0), values[1, :2].mean(0), torch.zeros(2)])
    values[1, 2:] = torch.nan
    torch.testing.assert_close(masked_mean(values, mask), expected)


# Additive attention


def test_additive_attention_equals_its_formula(inputs):
    words, _, regions, region_mask = inputs
    attention = wide(AdditiveAttention(D, F, 8))
    output, weights = attention(words, regions, region_mask)
    assert weights.shape == (B, W, R)
    query, key, score = attention.query, attention.key, attention.score
    for b, r in enumerate(REGION_COUNTS):
        for t in range(W):
            scores = torch.stack(
                [score.weight[0] @ torch.tanh(query(words[b, t]) + key(regions[b, i])) for i in range(r)]
            )
            expected = scores.softmax(0)
            torch.testing.assert_close(weights[b, t, :r], expected)
            torch.testing.assert_close(output[b, t], sum(expected[i] * regions[b, i] for i in range(r)))
            assert (weights[b, t, r:] == 0).all()


def test_attention_depends_on_the_query_while_the_printed_formula_does_not(inputs):
    words, _, regions, region_mask = inputs
    attention = wide(AdditiveAttention(D, F, 8))
    _, weights = attention(words, regions, region_mask)
    spread = (weights[1] - weights[1, :1]).abs().amax()
    assert spread > 0.1

    # As Lu et al. (2018) and Zhang et al. (2018) print it: concatenate, tanh, one Linear, softmax.
    query, key = attention.query(words)[:, :, None].tanh(), attention.key(regions)[:, None].tanh()
    pairs = torch.cat([query.expand(-1, -1, R, -1), key.expand(-1, W, -1, -1)], -1)  # (b, w, r, 2k)
    printed = masked_softmax(wide(nn.Linear(16, 1))(pairs).squeeze(-1), region_mask[:, None])
    torch.testing.assert_close(printed, printed[:, :1].expand(-1, W, -1))  # one map for all words


def test_attention_maps_are_seen_by_a_hook(inputs):
    seen = {}
    module = wide(CoAttentionFusion(D, F, 8))
    for name, part in module.named_modules():
        if getattr(part, "returns_attention", False):
            part.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output[1]}))
    module(*inputs)
    assert {name: tuple(weights.shape) for name, weights in seen.items()} == {
        "visual_attention": (B, W, R),
        "textual_attention": (B, W, W),
    }
    for weights in seen.values():
        torch.testing.assert_close(weights.sum(-1), torch.ones(B, W))


# Each module against its formula, in loops


def test_concatenation_equals_its_formula(inputs):
    words, _, regions, region_mask = inputs
    module = wide(ConcatenationFusion(D, F, C, projected_width=4))
    characters = torch.randn(B, W, C)
    fused = module(words, regions, region_mask, characters)
    assert module.fused_width == 12
    for b, r in enumerate(REGION_COUNTS):
        image = module.region_projection(sum(regions[b, i] for i in range(r)) / r)
        for t in range(W):
            parts = [module.word_projection(words[b, t]), module.character_projection(characters[b, t]), image]
            torch.testing.assert_close(fused[b, t], torch.cat(parts))


@pytest.mark.parametrize(("width", "characters"), [(0, torch.ones(B, W, C)), (C, None)])
def test_concatenation_refuses_characters_that_do_not_fit(inputs, width, characters):
    words, _, regions, region_mask = inputs
    with pytest.raises(ValueError, match=r"Expected .*characters, as `character_width` says"):
        ConcatenationFusion(D, F, width)(words, regions, region_mask, characters)


def test_visual_attention_equals_its_formula(inputs):
    words, _, regions, _ = inputs
    module = wide(VisualAttentionFusion(D, F, 8))
    fused = module(*inputs)
    for b, (w, r) in enumerate(zip(WORD_COUNTS, REGION_COUNTS, strict=True)):
        state, cell = torch.zeros(D), torch.zeros(D)
        lstm = module.query
        for t in range(w):
            gates = lstm.weight_ih_l0 @ words[b, t] + lstm.bias_ih_l0 + lstm.weight_hh_l0 @ state + lstm.bias_hh_l0
            enter, forget, candidate, leave = gates.chunk(4)
            cell = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
            state = leave.sigmoid() * cell.tanh()
        attention = module.attention
        scores = [attention.score(torch.tanh(attention.query(state) + attention.key(regions[b, i]))) for i in range(r)]
        weights = torch.cat(scores).softmax(0)
        context = sum(weights[i] * module.context_projection(regions[b, i]) for i in range(r))
        of_word, bias, of_image = module.from_word.weight, module.from_word.bias, module.from_image.weight
        for t in range(w):
            h = words[b, t]
            visual, textual, mixed = (
                of_word[n * D : (n + 1) * D] @ h + of_image[n * D : (n + 1) * D] @ context + bias[n * D : (n + 1) * D]
                for n in range(3)
            )
            expected = textual.sigmoid() * h + visual.sigmoid() * mixed.tanh()
            torch.testing.assert_close(fused[b, t], expected)


def test_co_attention_equals_its_formula(inputs):
    words, _, regions, _ = inputs
    module = wide(CoAttentionFusion(D, F, 8))
    fused = module(*inputs)

    def attend(attention: AdditiveAttention, query: Tensor, keys: Tensor) -> Tensor:
        scores = [attention.score(torch.tanh(attention.query(query) + attention.key(key))) for key in keys]
        weights = torch.cat(scores).softmax(0)
        return sum(weight * key for weight, key in zip(weights, keys, strict=True))

    for b, (w, r) in enumerate(zip(WORD_COUNTS, REGION_COUNTS, strict=True)):
        seen_regions = torch.stack([module.region_projection(regions[b, i]).tanh() for i in range(r)])
        for t in range(w):
            h = words[b, t]
            seen = attend(module.visual_attention, h, seen_regions)
            read = attend(module.textual_attention, seen, words[b, :w])
            image, text = module.seen_projection(seen).tanh(), module.read_projection(read).tanh()
            gate = module.fusion_gate(torch.cat([image, text])).sigmoid()
            mixed = gate * image + (1 - gate) * text
            passed = module.filtration_gate(torch.cat([h, mixed])).sigmoid()
            expected = torch.cat([h, passed * module.filtered_projection(mixed).tanh()])
            torch.testing.assert_close(fused[b, t], expected)


# What holds for all


@pytest.mark.parametrize("name", MODULES)
def test_shape(name, inputs):
    build, width = MODULES[name]
    assert build()(*inputs).shape == (B, W, width)


def test_the_image_changes_the_words(fusion, inputs):
    words, word_mask, regions, region_mask = inputs
    changed = fusion(words, word_mask, regions.roll(1, 0), region_mask)
    assert (changed - fusion(*inputs)).abs().amax(-1)[word_mask].min() > 1e-4


def test_order_of_regions_changes_nothing(fusion, inputs):
    words, word_mask, regions, region_mask = inputs
    order = torch.tensor([2, 0, 3, 1])
    permuted = fusion(words, word_mask, regions[:, order], region_mask[:, order])
    torch.testing.assert_close(at_words(permuted, word_mask), at_words(fusion(*inputs), word_mask))


def test_content_of_padding_changes_nothing(fusion, inputs):
    words, word_mask, regions, region_mask = inputs
    words, regions = words.clone(), regions.clone()
    words[~word_mask], regions[~region_mask] = 50.0, -50.0
    torch.testing.assert_close(
        at_words(fusion(words, word_mask, regions, region_mask), word_mask), at_words(fusion(*inputs), word_mask)
    )


def test_batch_of_one_equals_batch_of_many(fusion, inputs):
    words, word_mask, regions, region_mask = inputs
    together = fusion(*inputs)
    for b, (w, r) in enumerate(zip(WORD_COUNTS, REGION_COUNTS, strict=True)):
        row = slice(b, b + 1)
        alone = fusion(words[row, :w], word_mask[row, :w], regions[row, :r], region_mask[row, :r])
        torch.testing.assert_close(together[row, :w], alone)


@pytest.mark.parametrize("name", MODULES)
def test_every_parameter_gets_a_gradient(name, inputs):
    words, word_mask, regions, region_mask = inputs
    fusion = MODULES[name][0]()
    words.requires_grad_()
    regions.requires_grad_()
    fused = at_words(fusion(words, word_mask, regions, region_mask), word_mask)
    (fused * torch.randn_like(fused)).sum().backward()
    idle = [name for name, parameter in fusion.named_parameters() if not parameter.grad.abs().max() > 0]
    assert not idle
    # Padding gets none, real entries do.
    if name == "vam":  # its LSTM runs over padding too, but only real words are read
        assert (words.grad[1, 1:] == 0).all()
    assert (words.grad[word_mask].abs().amax(-1) > 0).all()
    assert (regions.grad[region_mask].abs().amax(-1) > 0).all()
    assert (regions.grad[~region_mask] == 0).all()


def test_bf16_autocast_is_close_to_float32(fusion, inputs):
    exact = fusion(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = fusion(*inputs)
    torch.testing.assert_close(rounded.float(), exact, rtol=0.1, atol=0.1)


def test_bf16_weights_work(fusion, inputs):
    words, word_mask, regions, region_mask = inputs
    exact = fusion(*inputs)
    rounded = fusion.bfloat16()(words.bfloat16(), word_mask, regions.bfloat16(), region_mask)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0.1, atol=0.15)


# Image invariance: with its gates shut, a strategy is its text path


def test_concatenation_without_the_images_part_ignores_the_image(inputs):
    words, _, regions, region_mask = inputs
    module = wide(ConcatenationFusion(D, F))
    nn.init.zeros_(module.region_projection.weight)
    torch.testing.assert_close(
        module(words, regions, region_mask), module(words, -regions, region_mask), rtol=0, atol=0
    )


def shut(module: VisualAttentionFusion, rows: slice) -> None:
    """Set a gate's rows to a constant that its sigmoid takes to 0."""
    with torch.no_grad():
        module.from_word.weight[rows] = 0
        module.from_image.weight[rows] = 0
        module.from_word.bias[rows] = -1e4


def test_visual_attention_with_the_visual_gate_shut_is_the_gated_text(inputs):
    words, word_mask, regions, region_mask = inputs
    module = wide(VisualAttentionFusion(D, F))
    shut(module, slice(0, D))
    fused = module(*inputs)
    scale = fused / words  # β_w, which still sees the image
    assert ((scale > 0) & (scale < 1)).all()
    with torch.no_grad():
        module.from_image.weight[D : 2 * D] = 0  # U_w
    fused = module(*inputs)
    textual = nn.functional.linear(words, module.from_word.weight[D : 2 * D], module.from_word.bias[D : 2 * D])
    torch.testing.assert_close(fused, textual.sigmoid() * words)
    torch.testing.assert_close(fused, module(words, word_mask, -regions, region_mask), rtol=0, atol=0)


def test_co_attention_with_the_filtration_gate_shut_is_the_text(inputs):
    words, *_ = inputs
    module = wide(CoAttentionFusion(D, F))
    nn.init.zeros_(module.filtration_gate.weight)
    nn.init.constant_(module.filtration_gate.bias, -1e4)
    torch.testing.assert_close(module(*inputs), torch.cat([words, torch.zeros_like(words)], -1), rtol=0, atol=0)


def test_co_attention_starts_as_keras_does():
    for name, parameter in CoAttentionFusion(64, 128).named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        else:
            bound = (6 / sum(parameter.shape)) ** 0.5
            assert 0.8 * bound < parameter.abs().max() <= bound
