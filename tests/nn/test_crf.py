"""The CRF against enumeration and torchcrf, and the cases on which implementations fail."""

import copy
import itertools
import math
import pickle
import warnings

import pytest
import torch
import torchcrf
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mner.labels import Span, allowed_transitions, bio_labels, spans
from mner.nn import _crf_arrays as arrays
from mner.nn import _crf_host as host
from mner.nn import _crf_kernel as kernel
from mner.nn import crf as crf_module
from mner.nn.crf import CRF

LABELS = bio_labels(["PER", "LOC"])
LENGTHS = [4, 1, 3, 0]


def random_crf(num_tags=5, dtype=torch.float64, scale=1.0, **options):
    crf = CRF(num_tags, batch_first=True, **options).to(dtype)
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter.copy_(scale * torch.randn_like(parameter))
    return crf


def random_batch(lengths, num_tags=5, dtype=torch.float64, scale=1.0, width=None):
    width = width or max(lengths)
    emissions = scale * torch.randn(len(lengths), width, num_tags, dtype=dtype)
    tags = torch.randint(num_tags, (len(lengths), width))
    return emissions, tags, torch.arange(width) < torch.tensor(lengths)[:, None]


def reference(crf):
    """torchcrf with the same parameters."""
    other = torchcrf.CRF(crf.num_tags, batch_first=True).to(crf.transitions.dtype)
    other.load_state_dict(crf.state_dict())
    return other


def path_score(crf, emissions, path):
    """Score of one path over the rows of emissions (w, l), as a tensor that can be differentiated."""
    if not path:
        return emissions.new_zeros(())
    score = crf.start_transitions[path[0]] + crf.end_transitions[path[-1]]
    score = score + sum(crf.transitions[a, b] for a, b in itertools.pairwise(path))
    return score + sum(emissions[word, label] for word, label in enumerate(path))


def enumerate_paths(crf, emissions):
    """All paths over emissions (w, l) that the CRF's constraints allow, and their probabilities."""
    paths = list(itertools.product(range(crf.num_tags), repeat=len(emissions)))
    if crf._forbidden is not None:
        start, follow = allowed_transitions(crf.labels)
        paths = [
            path
            for path in paths
            if not path or (start[path[0]] and all(follow[a][b] for a, b in itertools.pairwise(path)))
        ]
    scores = torch.stack([path_score(crf, emissions, path) for path in paths])
    return paths, scores.softmax(0)


def likelihood_by_enumeration(crf, emissions, tags):
    scores = [
        path_score(crf, emissions, path) for path in itertools.product(range(crf.num_tags), repeat=len(emissions))
    ]
    return path_score(crf, emissions, tags.tolist()) - torch.stack(scores).logsumexp(0)


@pytest.fixture(params=["numpy", "numpy, every step", "torch", "torch, every step", "log"])
def route(request, monkeypatch):
    """The ways that the arithmetic can take: numpy or torch, scaled at each step, or in log space."""
    if request.param.startswith("torch"):
        monkeypatch.setattr(host, "DEVICES", ())
    if request.param.endswith("every step"):
        monkeypatch.setattr(kernel, "WIDEST", 40.0)
        monkeypatch.setattr(kernel, "edge_spread", lambda edges: torch.tensor(39.0))
        monkeypatch.setattr(crf_module, "_DRIFT", 0.0)
    if request.param == "log":
        monkeypatch.setattr(kernel, "WIDEST", -1.0)
    return request.param


# The loss


@pytest.mark.parametrize("num_tags", [1, 2, 4])
def test_likelihood_equals_enumeration(num_tags, route):
    crf = random_crf(num_tags)
    emissions, tags, mask = random_batch(LENGTHS, num_tags)
    found = crf(emissions, tags, mask, reduction="none")
    for row, length in enumerate(LENGTHS):
        expected = likelihood_by_enumeration(crf, emissions[row, :length], tags[row, :length])
        torch.testing.assert_close(found[row], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "token_mean"])
def test_equals_torchcrf(reduction, batch_first):
    crf = random_crf(7, torch.float32)
    emissions, tags, mask = random_batch([9, 4, 1, 12], 7, torch.float32)
    other = reference(crf)
    if not batch_first:
        emissions, tags, mask = emissions.transpose(0, 1), tags.T, mask.T
        crf.batch_first = other.batch_first = False
    outcomes = []
    for module in (crf, other):
        leaf = emissions.clone().requires_grad_()
        outcome = module(leaf, tags, mask, reduction=reduction)
        (outcome * torch.linspace(0.5, 2, outcome.numel()).view(outcome.shape)).sum().backward()
        outcomes.append([outcome.detach(), leaf.grad, *(parameter.grad for parameter in module.parameters())])
    for mine, theirs in zip(*outcomes, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("length", "num_tags", "scale"), [(48, 11, 1.0), (200, 9, 3.0), (64, 21, 8.0)])
def test_gradient_is_exact_to_1e_6(length, num_tags, scale):
    crf = random_crf(num_tags, torch.float32)
    emissions, tags, mask = random_batch([length, length // 2, 5], num_tags, torch.float32, scale)
    leaf = emissions.clone().requires_grad_()
    crf(leaf, tags, mask).backward()
    exact = reference(crf).double()
    exact_leaf = emissions.double().requires_grad_()
    exact(exact_leaf, tags, mask).backward()
    assert (leaf.grad - exact_leaf.grad).abs().max() < 1e-6
    for mine, theirs in zip(crf.parameters(), exact.parameters(), strict=True):
        assert (mine.grad - theirs.grad).abs().max() < 1e-6 * max(1.0, theirs.grad.abs().max().item())


def test_gradcheck(route):
    crf = random_crf(3)
    emissions, tags, mask = random_batch([4, 2, 0], 3)
    inputs = emissions.requires_grad_(), crf.start_transitions, crf.end_transitions, crf.transitions

    def loss(emissions, start, end, transitions):
        parameters = {"start_transitions": start, "end_transitions": end, "transitions": transitions}
        return torch.func.functional_call(crf, parameters, (emissions, tags, mask, "none"))

    assert torch.autograd.gradcheck(loss, inputs)


def test_second_derivatives_are_refused():
    crf = random_crf(3)
    emissions, tags, mask = random_batch([3], 3)
    with pytest.raises(RuntimeError, match="differentiated once only"):
        torch.autograd.grad(crf(emissions.requires_grad_(), tags, mask), emissions, create_graph=True)


def test_only_what_needs_a_gradient_gets_one():
    crf = random_crf(3).requires_grad_(False)
    emissions, tags, mask = random_batch([3], 3)
    assert not crf(emissions, tags, mask).requires_grad
    crf(emissions.requires_grad_(), tags, mask).backward()
    assert emissions.grad is not None
    assert crf.transitions.grad is None


# Range


@pytest.mark.parametrize("spread", [0.1, 20.0, 149.0])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_scaled_space_equals_log_space_at_its_limits(spread, scale, monkeypatch):
    monkeypatch.setattr(crf_module, "_DRIFT", 0.0)  # at the limit itself
    crf = random_crf(6)
    with torch.no_grad():
        crf.transitions.copy_(spread * torch.rand_like(crf.transitions).round() - spread / 3)
        crf.start_transitions.zero_()
        crf.end_transitions.zero_()
    emissions, tags, mask = random_batch([150, 80, 1], 6, scale=scale / 3)
    emissions.clamp_(-scale, scale)
    outcomes = []
    for devices, widest in ((host.DEVICES, kernel.WIDEST), ((), kernel.WIDEST), (host.DEVICES, -1.0)):
        monkeypatch.setattr(host, "DEVICES", devices)
        monkeypatch.setattr(kernel, "WIDEST", widest)
        leaf = emissions.clone().requires_grad_()
        likelihood = crf(leaf, tags, mask, reduction="none")
        crf.zero_grad()
        likelihood.sum().backward()
        outcomes.append([likelihood.detach(), leaf.grad, crf.transitions.grad.clone()])
    for numpy, scaled, log in zip(*outcomes, strict=True):
        torch.testing.assert_close(numpy, log, rtol=1e-11, atol=1e-9)
        torch.testing.assert_close(scaled, log, rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("offset", [1000.0, -1000.0])
def test_a_shift_of_all_scores_changes_nothing(offset):
    crf = random_crf(4)
    emissions, tags, mask = random_batch([5, 3], 4)
    before = crf(emissions, tags, mask)
    with torch.no_grad():
        crf.transitions.add_(offset)
        crf.start_transitions.add_(offset)
    torch.testing.assert_close(crf(emissions - offset, tags, mask), before, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("barrier", [-math.inf, -10_000.0])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_real_barriers(barrier, scale):
    """A transition and a start that are ruled out, met by no gold path, with emissions that ask for them."""
    crf = random_crf(3)
    with torch.no_grad():
        crf.transitions[0, 1] = barrier
        crf.start_transitions[2] = barrier
    emissions, _, mask = random_batch([4, 2], 3, scale=0.1)
    emissions[:, 0, 2] += scale
    emissions[0, 1, 0] += scale
    emissions[0, 2, 1] += scale
    tags = torch.tensor([[0, 2, 1, 1], [1, 0, 0, 0]])
    leaf = emissions.clone().requires_grad_()
    found = crf(leaf, tags, mask, reduction="none")
    found.sum().backward()
    exact = emissions.clone().requires_grad_()
    expected = [likelihood_by_enumeration(crf, exact[row, :n], tags[row, :n]) for row, n in enumerate([4, 2])]
    torch.testing.assert_close(found, torch.stack(expected))
    # Expected counts by enumeration; autograd itself would give NaN for -inf.
    counts = torch.zeros_like(crf.transitions)
    for row, length in enumerate([4, 2]):
        for path, p in zip(*enumerate_paths(crf, emissions[row, :length]), strict=True):
            for word, label in enumerate(path):
                exact.grad = torch.zeros_like(exact) if exact.grad is None else exact.grad
                exact.grad[row, word, label] -= p.item()
            for pair in itertools.pairwise(path):
                counts[pair] -= p.detach()
        exact.grad[row, torch.arange(length), tags[row, :length]] += 1
        for pair in itertools.pairwise(tags[row, :length].tolist()):
            counts[pair] += 1
    torch.testing.assert_close(leaf.grad, exact.grad)
    torch.testing.assert_close(crf.transitions.grad, counts)
    assert crf.start_transitions.grad.isfinite().all()
    assert all(path[0] != 2 for path in crf.decode(emissions, mask))


def test_barrier_met_only_between_padded_tags():
    crf = random_crf(3)
    emissions, _, mask = random_batch([2, 4], 3)
    tags = torch.tensor([[1, 2, 0, 1], [1, 2, 2, 1]])
    with torch.no_grad():
        crf.transitions[0, 1] = crf.transitions[2, 0] = -math.inf
    expected = likelihood_by_enumeration(crf, emissions[0, :2], tags[0, :2])
    torch.testing.assert_close(crf(emissions, tags, mask, reduction="none")[0], expected)
    crf(emissions, tags, mask).backward()
    assert crf.transitions.grad.isfinite().all()


@pytest.mark.parametrize("wide", [False, True])
def test_emissions_of_minus_infinity_rule_labels_out(wide):
    crf = random_crf(3, scale=100.0 if wide else 1.0)
    emissions, _, mask = random_batch([3], 3)
    tags = torch.tensor([[0, 1, 0]])
    emissions[0, 1, 2] = -math.inf
    expected = likelihood_by_enumeration(crf, emissions[0], tags[0])
    leaf = emissions.requires_grad_()
    found = crf(leaf, tags, mask)
    found.backward()
    torch.testing.assert_close(found, expected)
    assert leaf.grad.isfinite().all()
    assert leaf.grad[0, 1, 2] == 0
    assert crf.marginals(emissions.detach(), mask)[0, 1, 2] == 0
    assert crf.decode(emissions.detach(), mask)[0][1] != 2


def test_nan_at_a_real_word_is_not_hidden():
    crf = random_crf(3)
    emissions, tags, mask = random_batch([3, 3], 3)
    emissions[0, 1, 1] = math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = crf(emissions, tags, mask, reduction="none")
        assert [len(path) for path in crf.decode(emissions, mask)] == [3, 3]
    assert found.isnan().tolist() == [True, False]


# Padding and masks


@pytest.mark.parametrize("rubbish", [math.nan, math.inf, -math.inf, 1e30])
def test_what_stands_at_padding_is_never_read(rubbish, route):
    crf = random_crf(5, labels=LABELS)
    emissions, tags, mask = random_batch([4, 2, 0, 1])
    entities = [[Span(1, 3, "PER")], [Span(0, 2, "LOC")], [], [Span(0, 1, "PER")]]
    spoilt = emissions.masked_fill(~mask[..., None], rubbish)
    outcomes = []
    for values, labels in ((emissions, tags), (spoilt, tags.masked_fill(~mask, -100))):
        leaf = values.clone().requires_grad_()
        crf.zero_grad()
        likelihood = crf(leaf, labels, mask, reduction="none")
        likelihood.sum().backward()
        found = leaf.grad, *(parameter.grad for parameter in crf.parameters()), crf.marginals(values, mask)
        outcomes.append((likelihood, *found, crf.decode(values, mask), crf.span_probabilities(values, mask, entities)))
    for clean, dirty in zip(*outcomes, strict=True):
        torch.testing.assert_close(dirty, clean, rtol=0, atol=0)
    assert (outcomes[0][1].masked_select(~mask[..., None]) == 0).all()


def test_width_of_the_padding_and_other_rows_change_nothing():
    crf = random_crf(5, labels=LABELS)
    emissions, tags, mask = random_batch([4, 2, 3], width=9)
    whole = crf(emissions, tags, mask, reduction="none")
    for row, length in enumerate([4, 2, 3]):
        alone = emissions[row : row + 1, :length]
        torch.testing.assert_close(crf(alone, tags[row : row + 1, :length])[None], whole[row : row + 1])
        assert crf.decode(alone)[0] == crf.decode(emissions, mask)[row]
        torch.testing.assert_close(crf.marginals(alone)[0], crf.marginals(emissions, mask)[row, :length])


METHODS = {
    "loss": lambda crf, emissions, tags, mask: crf(emissions, tags, mask),
    "decode": lambda crf, emissions, tags, mask: crf.decode(emissions, mask),
    "marginals": lambda crf, emissions, tags, mask: crf.marginals(emissions, mask),
    "spans": lambda crf, emissions, tags, mask: crf.span_probabilities(emissions, mask, [[], []]),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("batch_first", [True, False])
def test_masks_with_holes_are_refused(method, batch_first):
    crf = random_crf(5, labels=LABELS)
    emissions, tags, _ = random_batch([4, 4])
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 1]])
    if not batch_first:
        crf.batch_first = False
        emissions, tags, mask = emissions.transpose(0, 1), tags.T, mask.T
    with pytest.raises(ValueError, match=r"to be a prefix.*row 1 true at 3 after false at 2"):
        method(crf, emissions, tags, mask)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_masks_of_any_type(dtype):
    crf = random_crf(5)
    emissions, tags, mask = random_batch([4, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = crf(emissions, tags, mask.to(dtype), reduction="token_mean")
        paths = crf.decode(emissions, mask.to(dtype))
    torch.testing.assert_close(found, reference(crf)(emissions, tags, mask, reduction="token_mean"))
    assert paths == reference(crf).decode(emissions, mask)


def test_no_mask_means_all_real():
    crf = random_crf(5)
    emissions, tags, mask = random_batch([3, 3])
    assert torch.equal(crf(emissions, tags), crf(emissions, tags, mask))
    assert torch.equal(crf.marginals(emissions), crf.marginals(emissions, mask))
    assert crf.decode(emissions) == crf.decode(emissions, mask)


def test_one_word():
    crf = random_crf(4)
    emissions, tags, mask = random_batch([1, 1], 4)
    scores = emissions[:, 0] + crf.start_transitions + crf.end_transitions
    expected = scores.log_softmax(-1).gather(1, tags).squeeze(1)
    torch.testing.assert_close(crf(emissions, tags, mask, reduction="none"), expected)
    torch.testing.assert_close(crf.marginals(emissions, mask)[:, 0], scores.softmax(-1))
    assert crf.decode(emissions, mask) == scores.argmax(-1, keepdim=True).tolist()


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_nothing_at_all(shape):
    crf = random_crf(5, labels=LABELS)
    emissions = torch.zeros(*shape, 5, dtype=torch.float64, requires_grad=True)
    found = crf(emissions, torch.zeros(shape, dtype=torch.long), reduction="token_mean")
    found.backward()
    assert found == 0
    assert crf.decode(emissions.detach()) == [[]] * shape[0]
    assert crf.marginals(emissions.detach()).shape == (*shape, 5)
    assert crf.span_probabilities(emissions.detach(), None, [[]] * shape[0]) == [[]] * shape[0]


@pytest.mark.parametrize("reduction", ["sum", "mean", "token_mean"])
def test_rows_of_length_0(reduction):
    crf = random_crf(5)
    emissions, tags, mask = random_batch([3, 0, 2])
    leaf = emissions.requires_grad_()
    crf(leaf, tags, mask, reduction=reduction).backward()
    kept = crf(emissions[[0, 2]], tags[[0, 2]], mask[[0, 2]])
    torch.testing.assert_close(
        crf(emissions, tags, mask, reduction=reduction), kept / {"sum": 1, "mean": 3, "token_mean": 5}[reduction]
    )
    assert (leaf.grad[1] == 0).all()
    assert crf.decode(emissions.detach(), mask)[1] == []


@pytest.mark.parametrize("tag", [-100, -1, 5])
def test_real_tags_that_are_no_label_are_refused(tag):
    crf = random_crf(5)
    emissions, tags, mask = random_batch([3, 2])
    tags[1, 1] = tag
    with pytest.raises(ValueError, match=rf"within 0\.\.4, but got {tag} at row 1, word 1"):
        crf(emissions, tags, mask)


@pytest.mark.parametrize(
    ("emissions", "tags", "mask", "message"),
    [
        ((2, 3, 4), (2, 3), None, r"shape \(batch, words, 5\), but got \(2, 3, 4\)"),
        ((2, 3), (2, 3), None, r"^Expected argument `emissions` to have shape \(batch, words, 5\), but got \(2, 3\)$"),
        ((2, 3, 5), (2, 4), None, r"`tags` to be integers of shape \(2, 3\)"),
        ((2, 3, 5), (2, 3), (3, 2), r"`mask` to have shape \(2, 3\)"),
    ],
)
def test_shapes_that_differ_are_refused(emissions, tags, mask, message):
    mask = None if mask is None else torch.ones(mask)
    with pytest.raises(ValueError, match=message):
        random_crf(5)(torch.zeros(emissions), torch.zeros(tags, dtype=torch.long), mask)


def test_what_is_told_of_masks_and_shapes():
    mask = torch.tensor([[1, 1, 1], [1, 0, 1]])
    with pytest.raises(ValueError, match="prefix") as caught:
        random_crf(5)(torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.long), mask)
    assert str(caught.value) == (
        "Expected argument `mask` to be a prefix: true up to each row's length, false from there on; but got row 1 "
        "true at 2 after false at 1"
    )
    with pytest.raises(ValueError, match="shape") as caught:
        CRF(5, batch_first=False).decode(torch.zeros(2, 3, 4))
    assert str(caught.value) == (
        "Expected argument `emissions` to have shape (words, batch, 5), but got (2, 3, 4)"
    )


def test_bad_arguments():
    with pytest.raises(ValueError, match="to be one of"):
        random_crf(5)(torch.zeros(1, 1, 5), torch.zeros(1, 1, dtype=torch.long), reduction="median")
    with pytest.raises(ValueError, match="integers"):
        random_crf(5)(torch.zeros(1, 1, 5), torch.zeros(1, 1))
    with pytest.raises(ValueError, match="name 4 labels, but got 5"):
        CRF(4, labels=LABELS)
    with pytest.raises(ValueError, match="BIO tag"):
        CRF(1, labels=["E-PER"])


# Precision of the inputs


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_parameters_and_emissions(dtype):
    """The result is that of the rounded inputs in full precision, not of rounded arithmetic."""
    crf = random_crf(9, dtype)
    emissions, tags, mask = random_batch([48, 30, 2], 9, dtype, scale=3.0)
    exact = copy.deepcopy(crf).double()
    leaf, exact_leaf = emissions.clone().requires_grad_(), emissions.double().requires_grad_()
    found, expected = crf(leaf, tags, mask), exact(exact_leaf, tags, mask)
    found.backward()
    expected.backward()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    assert leaf.grad.dtype == crf.transitions.grad.dtype == dtype
    torch.testing.assert_close(leaf.grad, exact_leaf.grad.to(dtype))
    torch.testing.assert_close(crf.transitions.grad, exact.transitions.grad.to(dtype))
    assert crf.decode(emissions, mask) == exact.decode(emissions.double(), mask)
    torch.testing.assert_close(crf.marginals(emissions, mask), exact.marginals(emissions.double(), mask).float())


def test_autocast_changes_nothing():
    crf = random_crf(9, torch.float32)
    layer = torch.nn.Linear(8, 9)
    words = torch.randn(3, 12, 8)
    _, tags, mask = random_batch([12, 5, 1], 9)
    with torch.autocast("cpu", torch.bfloat16):
        emissions = layer(words)
        assert emissions.dtype == torch.bfloat16
        inside = crf(emissions, tags, mask), crf.marginals(emissions, mask)
        paths = crf.decode(emissions, mask)
        inside[0].backward()
    assert layer.weight.grad.isfinite().all()
    torch.testing.assert_close(inside, (crf(emissions, tags, mask), crf.marginals(emissions, mask)), rtol=0, atol=0)
    assert paths == crf.decode(emissions, mask)


# Decoding, marginals, spans


@pytest.mark.parametrize("constrain", [True, False])
@pytest.mark.parametrize("small", [True, False])
def test_decode_equals_enumeration(constrain, small, monkeypatch):
    if not small:
        monkeypatch.setattr(arrays, "SMALL", 0)
    crf = random_crf(5, labels=LABELS, constrain=constrain)
    emissions, _, mask = random_batch([*LENGTHS, 4, 4], scale=2.0)
    found = crf.decode(emissions, mask)
    for row, length in enumerate([*LENGTHS, 4, 4]):
        paths, probabilities = enumerate_paths(crf, emissions[row, :length])
        assert tuple(found[row]) == paths[probabilities.argmax()]


@pytest.mark.parametrize("batch_first", [True, False])
def test_decode_equals_torchcrf(batch_first):
    crf = random_crf(9, torch.float64)
    emissions, _, mask = random_batch([40, 7, 1, 33], 9)
    other = reference(crf)
    if not batch_first:
        emissions, mask = emissions.transpose(0, 1), mask.T
        crf.batch_first = other.batch_first = False
    assert crf.decode(emissions, mask) == other.decode(emissions, mask)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_float32_decodes_as_float64_does(scale):
    """Scores of a long path are kept small, so that float32 tells paths apart that differ by little."""
    crf = random_crf(9, torch.float32, scale=0.02)  # small transitions decide between equal emissions
    emissions, _, mask = random_batch([300, 120], 9, torch.float32)
    emissions = emissions.round() + scale
    assert crf.decode(emissions, mask) == copy.deepcopy(crf).double().decode(emissions.double(), mask)


def test_constraints_hold_whatever_the_emissions_ask():
    crf = random_crf(5, labels=LABELS)
    emissions, _, mask = random_batch([30, 11])
    emissions[..., 2::2] += 1000  # all for I-
    for path in crf.decode(emissions, mask):
        tags = [LABELS[label] for label in path]
        assert spans(tags, "strict") == spans(tags, "lenient")
        assert any(tag.startswith("I-") for tag in tags)
    assert crf.marginals(emissions, mask)[:, 0, 2::2].max() == 0


@pytest.mark.parametrize("labels", [None, LABELS])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_marginals_equal_enumeration(labels, scale):
    crf = random_crf(5, labels=labels)
    emissions, _, mask = random_batch(LENGTHS, scale=scale)
    found = crf.marginals(emissions, mask)
    for row, length in enumerate(LENGTHS):
        expected = torch.zeros(4, 5, dtype=torch.float64)
        for path, p in zip(*enumerate_paths(crf, emissions[row, :length]), strict=True):
            for word, label in enumerate(path):
                expected[word, label] += p.detach()
        torch.testing.assert_close(found[row], expected, rtol=1e-10, atol=1e-12)


def test_marginals_keep_the_order_of_dimensions():
    crf = random_crf(5)
    emissions, _, mask = random_batch([4, 2])
    found = crf.marginals(emissions, mask)
    crf.batch_first = False
    assert torch.equal(crf.marginals(emissions.transpose(0, 1), mask.T), found.transpose(0, 1))
    torch.testing.assert_close(found.sum(-1), mask.double())


@pytest.mark.parametrize("constrain", [True, False])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_span_probabilities_equal_enumeration(constrain, scale):
    crf = random_crf(5, labels=LABELS, constrain=constrain)
    emissions, _, mask = random_batch(LENGTHS, scale=scale)
    entities = [
        [Span(start, end, type_) for start in range(n) for end in range(start + 1, n + 1) for type_ in ("PER", "LOC")]
        for n in LENGTHS
    ]
    found = crf.span_probabilities(emissions, mask, entities)
    for row, length in enumerate(LENGTHS):
        expected = dict.fromkeys(entities[row], 0.0)
        for path, p in zip(*enumerate_paths(crf, emissions[row, :length]), strict=True):
            for span in spans([LABELS[label] for label in path], "strict"):
                expected[span] += p.item()
        assert found[row] == pytest.approx(list(expected.values()), rel=1e-9, abs=1e-12)


def test_impossible_spans_have_probability_0():
    crf = random_crf(5, labels=LABELS)
    emissions = torch.zeros(1, 3, 5, dtype=torch.float64)
    emissions[0, 1, 2] = -math.inf  # no I-PER here
    emissions[0, 0, 3] = -math.inf  # no B-LOC here
    entities = [Span(0, 2, "PER"), Span(0, 3, "PER"), Span(0, 2, "LOC"), Span(0, 1, "PER")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = crf.span_probabilities(emissions, None, [entities])[0]
    assert found[:3] == [0.0, 0.0, 0.0]
    assert found[3] == pytest.approx(crf.marginals(emissions)[0, 0, 1].item())
    emissions[0, 1, :4] = -math.inf  # only I-LOC here: from B-PER there is no way on
    emissions[0, 0, 3] = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert crf.span_probabilities(emissions, None, [entities])[0] == [0.0, 0.0, pytest.approx(0.5, abs=0.5), 0.0]


@pytest.mark.parametrize(
    ("entities", "message"),
    [
        ([[Span(0, 3, "PER")]], "within the 2 words of row 0"),
        ([[Span(1, 1, "PER")]], "within the 2 words"),
        ([[Span(-1, 1, "PER")]], "within the 2 words"),
        ([[Span(0, 1, "ORG")]], "among the labels"),
        ([[], []], "one list for each of 1 rows, got 2"),
    ],
)
def test_bad_spans(entities, message):
    crf = random_crf(5, labels=LABELS)
    emissions, _, mask = random_batch([2], width=4)
    with pytest.raises(ValueError, match=message):
        crf.span_probabilities(emissions, mask, entities)


def test_spans_need_labels():
    with pytest.raises(ValueError, match="Expected a CRF") as caught:
        random_crf(5).span_probabilities(torch.zeros(1, 1, 5), None, [[]])
    assert str(caught.value) == (
        "Expected a CRF that knows its labels, but got none. Construct it with `labels=[...]`."
    )


def test_constraints_do_not_touch_the_loss():
    crf = random_crf(5, labels=LABELS)
    free = CRF(5, batch_first=True).double()
    free.load_state_dict(crf.state_dict())
    emissions, _, mask = random_batch([3])
    stray = torch.tensor([[0, 2, 4]])
    assert torch.equal(crf(emissions, stray, mask), free(emissions, stray, mask))
    assert crf(emissions, stray, mask).isfinite()


# A subclass of torchcrf


def test_state_dict_is_torchcrfs():
    crf, other = random_crf(5, torch.float32, labels=LABELS), torchcrf.CRF(5, batch_first=True)
    assert isinstance(crf, torchcrf.CRF)
    assert list(crf.state_dict()) == list(other.state_dict())
    other.load_state_dict(crf.state_dict(), strict=True)
    crf.load_state_dict(other.state_dict(), strict=True)
    assert [name for name, _ in crf.named_parameters()] == [name for name, _ in other.named_parameters()]
    assert repr(crf) == repr(other)


def test_copies_are_equal():
    crf = random_crf(5, labels=LABELS)
    emissions, tags, mask = random_batch([4, 2])
    for other in (copy.deepcopy(crf), pickle.loads(pickle.dumps(crf))):
        assert torch.equal(other(emissions, tags, mask), crf(emissions, tags, mask))
        assert other.decode(emissions, mask) == crf.decode(emissions, mask)


class NoFloat64(TorchDispatchMode):
    """Refuses float64 on a GPU, as those of Apple do."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple | list) else [found]:
            if isinstance(each, torch.Tensor):
                assert (each.device.type, each.dtype) != ("cuda", torch.float64)
        return found


def test_devices_without_float64_are_served_by_the_cpu(monkeypatch):
    """On tensors without data, which numpy does not take and nothing can look at."""
    monkeypatch.setattr(kernel, "NO_FLOAT64", ("cuda",))
    monkeypatch.setattr(host, "DEVICES", ())
    monkeypatch.setattr(CRF, "_check_prefix", lambda self, mask: None)
    monkeypatch.setattr(CRF, "_check_tags", lambda self, tags: None)
    with FakeTensorMode(), torch.device("cuda"), NoFloat64():
        crf = CRF(5, batch_first=True, labels=LABELS)
        crf._spread = 1.0
        emissions, tags = torch.randn(2, 4, 5), torch.zeros(2, 4, dtype=torch.long)
        for found in (crf(emissions, tags, reduction="token_mean"), crf.marginals(emissions)):
            assert found.device.type == "cuda"
            assert found.dtype == torch.float32


# On a GPU, as far as tensors without data can tell


class Launches(TorchDispatchMode):
    """Counts the operations that would start a kernel: all but views, allocations and questions about tensors."""

    FREE = ("view", "slice", "select", "transpose", "permute", "expand", "unsqueeze", "squeeze", "unbind", "detach")
    FREE += ("aten.t.", "empty", "alias", "prim.device", "lift_fresh", "promote_types", "split")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not any(free in str(function) for free in self.FREE)
        return function(*args, **(kwargs or {}))


class Context:
    """Stands in for autograd's, whose engine does not run on fake tensors of an absent device."""

    def save_for_backward(self, *tensors):
        self.saved_tensors = tensors


@pytest.mark.parametrize("words", [32, 48, 128])
def test_loss_on_a_gpu_waits_for_nothing_and_launches_little(words):
    with FakeTensorMode(), torch.device("cuda"):
        crf = CRF(11, batch_first=True)
        emissions, tags = torch.randn(32, words, 11), torch.zeros(32, words, dtype=torch.long)
        mask = torch.ones(32, words, dtype=torch.bool)
        with pytest.raises(DataDependentOutputException):  # the first loss reads the spread, and such a wait is seen
            crf(emissions, tags, mask)
        crf._spread = 1.0
        crf(emissions, tags, mask, reduction="token_mean")
        context = Context()
        with torch.no_grad(), Launches() as launches:
            inputs = emissions.transpose(0, 1), tags.T, mask.T, *crf.parameters()
            likelihood = kernel.LogLikelihood.forward(context, *inputs, 21.0)
            kernel.LogLikelihood.backward(context, likelihood)
    assert 2 * words < launches.count <= 2.5 * words + 110


def test_wide_transitions_on_a_gpu_take_log_space_without_a_wait():
    with FakeTensorMode(), torch.device("cuda"):
        crf = CRF(5, batch_first=True)
        crf._spread = math.inf
        found = crf(torch.randn(2, 3, 5), torch.zeros(2, 3, dtype=torch.long))
        assert found.shape == ()


def test_decode_on_a_gpu_transfers_once(monkeypatch):
    transfers = []

    def to_host(*tensors):
        transfers.append([tuple(tensor.shape) for tensor in tensors])
        return [None, None, None, 3.0]

    monkeypatch.setattr(kernel, "to_host", to_host)
    monkeypatch.setattr(arrays, "trace", lambda best, edges, lengths: [[0]])
    with FakeTensorMode(), torch.device("cuda"):
        crf = CRF(5, batch_first=True, labels=LABELS)
        with Launches() as launches:
            assert crf.decode(torch.zeros(2, 30, 5)) == [[0]]
    assert transfers == [[(30, 5, 2), (6, 6), (2,), ()]]
    assert crf._spread == 3.0
    assert launches.count <= 3 * 30 + 40


def test_one_transfer_brings_all():
    tensors = torch.rand(2, 3, dtype=torch.float64), torch.rand((), dtype=torch.float64), torch.zeros(0, 4).double()
    for array, tensor in zip(kernel.to_host(*tensors), tensors, strict=True):
        assert array.shape == tensor.shape
        assert array.tolist() == tensor.tolist()


def test_loading_weights_makes_the_spread_be_read_again():
    crf = random_crf(5)
    crf._spread = 1.0
    crf.load_state_dict(crf.state_dict())
    assert crf._spread is None


def test_a_known_spread_gives_the_same_loss():
    crf = random_crf(5)
    emissions, tags, mask = random_batch([40, 7])
    scores = [parameter.detach() for parameter in crf.parameters()]
    found = kernel.LogLikelihood.apply(emissions.transpose(0, 1), tags.T, mask.T, *scores, 140.0)
    torch.testing.assert_close(found, crf(emissions, tags, mask, reduction="none"))
