"""Auxiliary losses against enumeration and their definitions; views of a batch against batches built that way."""

import itertools
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from mner.data.batching import Collate
from mner.data.dataset import MNERDataset
from mner.data.examples import Example
from mner.data.tokenizer import PostTokenizer
from mner.fusion import FusionModule, TextOnly, TransformerAttention, VisualAttention
from mner.labels import bio_labels
from mner.nn import (
    divergence,
    info_nce,
    only_context,
    reverse_gradient,
    soft_label_loss,
    straight_through,
    without_context,
    without_image,
    without_padding,
)
from mner.nn.crf import CRF

LABELS = ["O", "B-PER", "I-PER"]
LENGTHS = [4, 1, 3, 0]
KINDS = pytest.mark.parametrize("kind", ["sequence", "positions"])
TEMPERATURES = pytest.mark.parametrize("temperature", [1.0, 4.0, 0.5])


@pytest.fixture
def crf():
    """With constraints, which must not hold here, and transitions far from 0."""
    crf = CRF(3, batch_first=True, labels=LABELS).double()
    for parameter in crf.parameters():
        nn.init.normal_(parameter)
    return crf


@pytest.fixture
def views():
    """Emissions of a teacher and a student, and their mask."""
    mask = torch.arange(4) < torch.tensor(LENGTHS)[:, None]
    return 2 * torch.randn(4, 4, 3, dtype=torch.float64), 2 * torch.randn(4, 4, 3, dtype=torch.float64), mask


def path_probabilities(crf, emissions, temperature=1.0):
    """All tag sequences over emissions (w, l), and their probabilities."""
    paths = torch.tensor(list(itertools.product(range(3), repeat=len(emissions))))
    scores = crf.start_transitions[paths[:, 0]] + crf.end_transitions[paths[:, -1]]
    for word in range(len(emissions)):
        scores = scores + emissions[word, paths[:, word]]
        if word:
            scores = scores + crf.transitions[paths[:, word - 1], paths[:, word]]
    return paths, (scores / temperature).softmax(0)


def enumerated(crf, teacher, student, kind, temperature):
    """The divergence of one post from its definition."""
    if not len(teacher):
        return 0.0
    if kind == "sequence":
        (_, p), (_, q) = (path_probabilities(crf, view, temperature) for view in (teacher, student))
        return (p * (p.log() - q.log())).sum().item()
    total = 0.0
    (paths, p), (_, q) = (path_probabilities(crf, view) for view in (teacher, student))
    for word in range(len(teacher)):
        of_teacher, of_student = (
            torch.stack([weights[paths[:, word] == label].sum() for label in range(3)]) for weights in (p, q)
        )
        flat_p, flat_q = of_teacher ** (1 / temperature), of_student ** (1 / temperature)
        flat_p, flat_q = flat_p / flat_p.sum(), flat_q / flat_q.sum()
        total += (flat_p * (flat_p.log() - flat_q.log())).sum().item()
    return temperature**2 * total


@KINDS
@TEMPERATURES
def test_divergence_equals_enumeration(crf, views, kind, temperature):
    teacher, student, mask = views
    found = divergence(crf, teacher, student, mask, kind, temperature, "none")
    expected = [
        enumerated(crf, teacher[row, :length], student[row, :length], kind, temperature)
        for row, length in enumerate(LENGTHS)
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert min(expected[:3]) > 1e-3


@KINDS
@TEMPERATURES
def test_equal_views_have_no_divergence_and_no_gradient(crf, views, kind, temperature):
    view, _, mask = views
    student = view.clone().requires_grad_()
    loss = divergence(crf, view, student, mask, kind, temperature, "sum")
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    for gradient in (student.grad, *(parameter.grad for parameter in crf.parameters())):
        assert gradient.abs().max() < 1e-12


def test_gradient_of_the_sequence_kind_is_the_difference_of_the_marginals(crf, views):
    teacher, student, mask = views
    student.requires_grad_()
    divergence(crf, teacher, student, mask, reduction="sum").backward()
    of_student, of_teacher = (crf.marginals(view, mask, constrained=False) for view in (student, teacher))
    torch.testing.assert_close(student.grad, of_student - of_teacher)
    assert (crf.marginals(teacher, mask) - of_teacher).abs().max() > 1e-3, "constraints would have made no difference"


@KINDS
def test_gradient_equals_finite_differences(crf, views, kind):
    """In the student's emissions; in the transitions too, as far as they are not the teacher's."""
    teacher, student, mask = views
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda view: divergence(crf, teacher, view, mask, kind, 2.0, "none"), student)


def test_gradient_in_the_transitions_is_that_of_both_normalisers(crf, views):
    teacher, student, mask = views
    divergence(crf, teacher, student, mask, "sequence", 2.0, "sum").backward()
    expected = torch.zeros(3, 3, dtype=torch.float64)
    for row, length in enumerate(LENGTHS):
        if length:
            (paths, p), (_, q) = (path_probabilities(crf, view[row, :length], 2.0) for view in (teacher, student))
            for word in range(1, length):
                expected.index_put_((paths[:, word - 1], paths[:, word]), (q - p).detach() / 2, accumulate=True)
    torch.testing.assert_close(crf.transitions.grad, expected)


@KINDS
def test_the_teacher_gets_no_gradient(crf, views, kind):
    teacher, student, mask = views
    teacher.requires_grad_()
    student.requires_grad_()
    divergence(crf, teacher, student, mask, kind).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@KINDS
def test_padding_changes_nothing(crf, views, kind):
    teacher, student, mask = views
    student.requires_grad_()
    expected = divergence(crf, teacher, student, mask, kind, 2.0, "none")
    more = torch.nn.functional.pad(mask, (0, 3))
    filled = [
        torch.nn.functional.pad(view.detach(), (0, 0, 0, 3)).masked_fill(~more[..., None], value).requires_grad_()
        for view, value in ((teacher, torch.nan), (student, 1e4))
    ]
    found = divergence(crf, *filled, more, kind, 2.0, "none")
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(filled[1].grad[:, :4], student.grad.masked_fill(~mask[..., None], 0.0))
    assert filled[1].grad[~more].abs().sum() == 0


@KINDS
def test_reductions(crf, views, kind):
    each = divergence(crf, *views, kind, reduction="none")
    assert each.shape == (4,)
    for reduction, expected in (("sum", each.sum()), ("mean", each.mean()), ("token_mean", each.sum() / sum(LENGTHS))):
        torch.testing.assert_close(divergence(crf, *views, kind, reduction=reduction), expected)


@KINDS
def test_low_precision_is_widened(crf, views, kind):
    teacher, student, mask = views
    rough = [view.bfloat16() for view in (teacher, student)]
    expected = divergence(crf, *(view.double() for view in rough), mask, kind)
    found = divergence(crf, *rough, mask, kind)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    near = rough[0].float() + 1e-3
    near[..., 0] += 1e-3
    exact = divergence(crf, rough[0].double(), near.double(), mask, kind)
    assert divergence(crf, rough[0].float(), near, mask, kind).item() == pytest.approx(exact.item(), rel=1e-6)


@KINDS
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_on_a_gpu_nothing_waits(kind, temperature):
    with torch.device("meta"):  # raises at mixed devices, and where a number is asked for
        crf = CRF(3, batch_first=True, labels=LABELS)
        crf._spread = 1.0
        student, mask = torch.randn(2, 4, 3, requires_grad=True), torch.ones(2, 4, dtype=torch.bool)
        loss = divergence(crf, torch.randn(2, 4, 3), student, mask, kind, temperature)
        loss.backward()
        assert student.grad.device == loss.device == crf.transitions.grad.device
        assert info_nce(torch.randn(2, 4), torch.randn(2, 4)).device == loss.device


def test_tempering_leaves_the_crf_as_it_was(crf, views):
    before, names = {name: p.clone() for name, p in crf.named_parameters()}, list(crf.state_dict())
    divergence(crf, *views, temperature=3.0)
    assert list(crf.state_dict()) == names
    assert all(torch.equal(parameter, before[name]) for name, parameter in crf.named_parameters())
    assert all(isinstance(parameter, nn.Parameter) for parameter in (crf.transitions, crf.start_transitions))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "words"}, "kind.*'words'"),
        ({"reduction": "max"}, "reduction.*'max'"),
        ({"temperature": 0.0}, "above 0"),
        ({"teacher": torch.zeros(1, 2, 3)}, r"\(1, 2, 3\)"),
        ({"crf": CRF(3)}, "batch_first=False"),
    ],
)
def test_wrong_arguments_are_named(crf, views, change, message):
    given = {"crf": crf, **dict(zip(("teacher", "student", "mask"), views, strict=True)), **change}
    with pytest.raises(ValueError, match=message):
        divergence(**given)


# InfoNCE, gradients


def test_info_nce_equals_its_formula():
    a, b = torch.randn(5, 7), 3 * torch.randn(5, 7)
    cosines = torch.stack([torch.stack([torch.cosine_similarity(x, y, dim=0) for y in b]) for x in a])
    scores = (cosines / 0.2).exp()
    rows = -(scores.diagonal() / scores.sum(1)).log().mean()
    columns = -(scores.diagonal() / scores.sum(0)).log().mean()
    torch.testing.assert_close(info_nce(a, b, 0.2), (rows + columns) / 2)
    torch.testing.assert_close(info_nce(b, a, 0.2), info_nce(a, b, 0.2))


def test_identical_pairs_have_less_loss_than_shuffled_ones():
    a = torch.randn(6, 4)
    assert info_nce(a, a, 0.1) < info_nce(a, a.roll(1, 0), 0.1)


def test_one_pair_alone_has_no_loss():
    a, b = torch.randn(1, 4, requires_grad=True), torch.randn(1, 4)
    loss = info_nce(a, b, 0.1)
    loss.backward()
    assert loss.item() == 0.0
    assert a.grad.tolist() == [[0.0] * 4]


def test_no_pair_has_no_loss():
    loss = info_nce(torch.randn(0, 4, requires_grad=True), torch.randn(0, 4))
    loss.backward()
    assert loss.item() == 0.0


def test_info_nce_of_nothing_but_zeros_is_finite():
    a = torch.zeros(3, 4, requires_grad=True)
    loss = info_nce(a, torch.randn(3, 4), 0.1)
    loss.backward()
    assert loss.isfinite()
    assert a.grad.isfinite().all()


def test_info_nce_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 3\)"):
        info_nce(torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="above 0"):
        info_nce(torch.zeros(2, 3), torch.zeros(2, 3), 0.0)


def test_reversed_twice_is_scaled_twice():
    x, weights = torch.randn(3, requires_grad=True), torch.randn(3)
    once = reverse_gradient(x, 0.3)
    assert torch.equal(once, x)
    (once * weights).sum().backward()
    torch.testing.assert_close(x.grad, -0.3 * weights)
    x.grad = None
    (reverse_gradient(reverse_gradient(x, 0.3), 0.3) * weights).sum().backward()
    torch.testing.assert_close(x.grad, 0.09 * weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_soft_label_loss_counts_known_labels_only(dtype):
    scores = torch.tensor([2.0, -1.0, 40.0], dtype=dtype, requires_grad=True)
    loss = soft_label_loss(scores, torch.tensor([0.75, 0.0, float("nan")]))
    first, second = 1 / (1 + torch.tensor(-2.0).exp()), 1 / (1 + torch.tensor(1.0).exp())
    expected = -(0.75 * first.log() + 0.25 * (1 - first).log() + (1 - second).log()) / 2
    torch.testing.assert_close(loss, expected.to(loss.dtype))
    loss.backward()
    assert scores.grad[2] == 0
    assert scores.grad[:2].abs().min() > 0


def test_soft_label_loss_without_labels_is_0():
    scores = torch.ones(2, requires_grad=True)
    loss = soft_label_loss(scores, torch.full((2,), float("nan")))
    loss.backward()
    assert loss == 0
    assert scores.grad.tolist() == [0, 0]


def test_soft_label_loss_wants_a_target_for_each_score():
    with pytest.raises(ValueError, match=r"got \(2,\) for \(3,\)"):
        soft_label_loss(torch.zeros(3), torch.zeros(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_straight_through_is_hard_and_learns(dtype):
    p = torch.tensor([0.1, 0.5, 0.501, 0.97], dtype=dtype, requires_grad=True)
    weights = torch.tensor([1.0, -2.0, 3.0, 4.0], dtype=dtype)
    hard = straight_through(p)
    assert hard.tolist() == [0.0, 0.0, float(p[2] > 0.5), 1.0]
    (hard * weights).sum().backward()
    assert torch.equal(p.grad, weights)
    assert straight_through(p, threshold=0.05).tolist() == [1.0] * 4


# Views of a batch

WIDTH = 6
POSTS = [(("Anna", "sees", "Bo"), "a dog and a very long text"), (("hi",), ""), (("one", "two", "3", "4", "5"), "x")]


@pytest.fixture
def dataset(bert_folder):
    """A function that builds the posts, with context or without."""

    def dataset(context):
        posts = [
            Example(str(row), f"i{row}", words, ("O",) * len(words), (text,) if context else ())
            for row, (words, text) in enumerate(POSTS)
        ]
        store = {"i0": torch.randn(3, WIDTH).numpy(), "i2": torch.randn(1, WIDTH).numpy()}
        return MNERDataset(posts, bio_labels(["PER"]), PostTokenizer(bert_folder), regions=store)

    return dataset


ROBERTA = {"model_type": "roberta", "vocab_size": 200, "hidden_size": 32, "num_hidden_layers": 2,
           "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64}  # fmt: skip


@pytest.mark.parametrize(
    ("cls", "roberta"), [(TextOnly, False), (TextOnly, True), (VisualAttention, False), (TransformerAttention, False)]
)
def test_without_context_equals_a_batch_built_without(dataset, bert_folder, cls, roberta):
    width = {"region_width": WIDTH} if cls.uses_image else {}
    module = cls(bio_labels(["PER"]), text_encoder=ROBERTA if roberta else bert_folder, **width).eval()
    torch.manual_seed(0)
    full = Collate(0, region_width=WIDTH)(list(dataset(True)))
    torch.manual_seed(0)
    bare = Collate(0, region_width=WIDTH)(list(dataset(False)))
    view = without_context(full)
    mask = full["word_mask"]
    torch.testing.assert_close(module.emissions(view)[mask], module.emissions(bare)[mask], rtol=0, atol=1e-6)
    assert not torch.allclose(module.emissions(full)[mask], module.emissions(bare)[mask], atol=1e-4)
    assert full["segment_ids"].any(), "the batch itself has changed"
    assert full["token_mask"].sum() > view["token_mask"].sum() == bare["token_mask"].sum()


@pytest.mark.parametrize("roberta", [False, True])
@pytest.mark.parametrize("source", [1, 2, 3])
def test_only_context_equals_a_batch_with_that_source_alone(bert_folder, roberta, source):
    sources = [("a dog and a very long text", "a tag"), ("", "a b c"), ("x", "")]
    module = TextOnly(bio_labels(["PER"]), text_encoder=ROBERTA if roberta else bert_folder).eval()

    def batch(texts):
        posts = [
            Example(str(row), None, words, ("O",) * len(words), some)
            for row, ((words, _), some) in enumerate(zip(POSTS, texts, strict=True))
        ]
        dataset = MNERDataset(posts, bio_labels(["PER"]), PostTokenizer(bert_folder))
        return Collate(0, needs={"contexts"})([*dataset])

    full, mask = batch(sources), batch(sources)["word_mask"]
    alone = batch([some[source - 1 : source] for some in sources])
    torch.testing.assert_close(
        module.emissions(only_context(full, source))[mask], module.emissions(alone)[mask], rtol=0, atol=1e-6
    )
    assert not torch.allclose(module.emissions(full)[mask], module.emissions(alone)[mask], atol=1e-4)
    # With one source nobody has to say whose its pieces are.
    del alone["context_ids"]
    if source < 3:
        view = module.emissions(only_context(alone, 1))
        torch.testing.assert_close(view[mask], module.emissions(alone)[mask], rtol=0, atol=1e-6)
        without = module.emissions(without_context(alone))
        torch.testing.assert_close(module.emissions(only_context(alone, 2))[mask], without[mask], rtol=0, atol=1e-6)


@pytest.mark.parametrize("cls", [TextOnly, TransformerAttention])
def test_without_padding_the_same_posts_are_shorter(dataset, bert_folder, cls):
    width = {"region_width": WIDTH} if cls.uses_image else {}
    module = cls(bio_labels(["PER"]), text_encoder=bert_folder, **width).eval()
    full = Collate(0, region_width=WIDTH, needs={"contexts"})(list(dataset(True)))
    bare = Collate(0, region_width=WIDTH)(list(dataset(False)))
    view, mask = without_padding(without_context(full)), full["word_mask"]
    assert view["token_ids"].shape == view["context_ids"].shape == bare["token_ids"].shape
    assert torch.equal(view["token_mask"], bare["token_mask"])
    torch.testing.assert_close(
        module.emissions(view)[mask], module.emissions(without_context(full))[mask], rtol=0, atol=1e-6
    )
    assert full["token_ids"].shape[1] > view["token_ids"].shape[1]
    assert torch.equal(without_padding(full)["token_ids"], full["token_ids"])


def test_without_image_equals_posts_without(dataset, bert_folder):
    module = VisualAttention(bio_labels(["PER"]), text_encoder=bert_folder, region_width=WIDTH).eval()
    items = list(dataset(True))
    batch = Collate(0, region_width=WIDTH)(items)
    for item in items:
        item["regions"] = None
    bare = Collate(0, region_width=WIDTH)(items)
    view = without_image(batch)
    mask = batch["word_mask"]
    torch.testing.assert_close(module.emissions(view)[mask], module.emissions(bare)[mask], rtol=0, atol=1e-6)
    assert not torch.allclose(module.emissions(view)[mask], module.emissions(batch)[mask], atol=1e-4)
    assert view["has_image"].tolist() == [False] * 3
    assert batch["has_image"].tolist() == [True, False, True]
    assert view["token_ids"] is batch["token_ids"]


def test_without_image_where_images_are_read(dataset, bert_folder):
    module = VisualAttention(
        bio_labels(["PER"]), text_encoder=bert_folder, image_encoder="test_resnet", image_weights=None
    ).eval()
    batch = Collate(0)(list(dataset(False)))
    bare = {**batch, "image": torch.zeros(3, 3, 64, 64), "has_image": torch.zeros(3, dtype=torch.bool)}
    batch = {**batch, "image": torch.randn(3, 3, 64, 64), "has_image": torch.tensor([True, False, True])}
    expected = module.emissions(bare)
    torch.testing.assert_close(module.emissions(without_image(batch)), expected, rtol=0, atol=0)
    assert (module.emissions(batch) - expected).abs().max() > 1e-4
    assert batch["has_image"].any()


def test_without_image_takes_what_else_is_known_of_it():
    batch = {"object_names": [["dog"], []], "region_boxes": torch.ones(2, 1, 4), "region_mask": torch.ones(2, 1).bool()}
    view = without_image(batch)
    assert view["object_names"] == [[], []]
    assert not view["region_boxes"].any()
    assert not view["region_mask"].any()
    assert batch["object_names"] == [["dog"], []]


# The page

PAGE = Path(__file__).parents[2] / "docs" / "objectives.md"
LISTINGS = {
    re.search(r"^class (\w+)", code, re.MULTILINE)[1]: code
    for code in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
}


@pytest.mark.parametrize("name", LISTINGS)
def test_every_strategy_of_the_page_learns_from_all_its_losses(dataset, bert_folder, name):
    namespace = {"__name__": "page"}
    exec(compile(LISTINGS[name], str(PAGE), "exec"), namespace)
    cls = namespace[name]
    assert issubclass(cls, FusionModule)
    width = {"region_width": WIDTH} if cls.uses_image else {}
    module = cls(bio_labels(["PER"]), text_encoder=bert_folder, **width)
    batch = Collate(0, region_width=WIDTH)(list(dataset(True)))
    losses = module.losses(batch)
    assert all(loss.isfinite() for loss in losses.values())
    assert len(losses) > 1 or "posterior" in vars(cls)
    sum(losses.values()).backward()
    assert [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None] == []
    assert len(module.eval()(batch)) == 3
