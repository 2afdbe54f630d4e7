import math

import pytest
import torch

from mner.errors import CheckpointError, DataFormatError, MNERError
from mner.nn.neighbours import HeadInputs, Nearest, WordNeighbours, owner

LABELS = ["O", "B-PER", "I-PER"]


def store(**options):
    vectors = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0], [-1.0, 0.0]])
    owners = torch.tensor([owner(["a"]), owner(["b"]), owner(["b"]), owner(["c"])])
    return WordNeighbours(vectors, torch.tensor([1, 2, 1, 0]), owners, LABELS, "model", **options)


def test_a_mixture_worked_out_by_hand():
    """A word along the first axis: cosines 1, 0, √½, -1; the three nearest are B, B, I."""
    posterior = torch.tensor([[[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]]])
    states = torch.tensor([[[5.0, 0.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, False]])
    mixed = store(k=3, temperature=0.5, weight=0.25).mix(posterior, states, [["x"]], mask)
    parts = [math.exp(cosine / 0.5) for cosine in (1, math.sqrt(0.5), 0)]
    total = sum(parts)
    expected = [0.75 * 0.6, 0.75 * 0.3 + 0.25 * (parts[0] + parts[1]) / total, 0.75 * 0.1 + 0.25 * parts[2] / total]
    assert mixed[0, 0].tolist() == pytest.approx(expected, abs=1e-6)
    assert mixed[0, 0].sum().item() == pytest.approx(1.0)
    assert mixed[0, 1].tolist() == posterior[0, 1].tolist()  # padding
    assert posterior[0, 0, 0].item() == pytest.approx(0.6)  # and what was given is left alone


def test_a_post_is_no_neighbour_of_itself():
    states = torch.tensor([[1.0, 0.0]])
    near = store().nearest(states, torch.tensor([owner(["a"])]), 2)
    assert near.labels.tolist() == [[1, 2]]
    assert near.cosines[0].tolist() == pytest.approx([math.sqrt(0.5), 0.0], abs=1e-6)
    alone = WordNeighbours(torch.ones(1, 2), torch.tensor([1]), torch.tensor([owner(["a"])]), LABELS, "model")
    posterior = torch.tensor([[[0.6, 0.3, 0.1]]])
    same = alone.mix(posterior, torch.ones(1, 1, 2), [["a"]], torch.tensor([[True]]))
    assert torch.equal(same, posterior)  # nobody else is there
    other = alone.mix(posterior, torch.ones(1, 1, 2), [["b"]], torch.tensor([[True]]))
    assert other[0, 0].tolist() == pytest.approx([0.3, 0.65, 0.05])


def test_temperature_and_number():
    near = Nearest(torch.tensor([[0.9, 0.8, -torch.inf]]), torch.tensor([[2, 1, 0]]))
    cold, found = near.distribution(3, 0.001, 3)
    assert cold[0].tolist() == pytest.approx([0, 0, 1], abs=1e-6)
    assert found.tolist() == [True]
    hot, _ = near.distribution(3, 1e6, 3)
    assert hot[0].tolist() == pytest.approx([0, 0.5, 0.5], abs=1e-4)
    assert near.distribution(1, 1.0, 3)[0][0].tolist() == [0, 0, 1]


def test_it_is_read_as_it_was_written(tmp_path):
    file = tmp_path / "store.safetensors"
    store(k=3, temperature=0.2, weight=0.7).save(file, {"any": 1})
    again = WordNeighbours.load(file)
    assert (again.k, again.temperature, again.weight, again.labels, again.model) == (3, 0.2, 0.7, LABELS, "model")
    assert torch.allclose(again.vectors, store().vectors, atol=1e-3)
    assert torch.equal(again.owners, store().owners)
    assert again.gold.tolist() == [1, 2, 1, 0]
    again.save(file)  # its own is replaced
    other = tmp_path / "other"
    other.write_text("mine")
    with pytest.raises(DataFormatError, match="a file that mner did not write"):
        store().save(other)
    for path in (other, tmp_path / "none"):
        with pytest.raises(CheckpointError, match="what `mner neighbours` wrote"):
            WordNeighbours.load(path)


@pytest.mark.parametrize("wrong", [{"k": 0}, {"temperature": 0.0}, {"weight": 1.5}, {"weight": -0.1}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="Expected k of at least 1"):
        store(**wrong)


def test_a_model_must_score_each_word_once():
    class Model:
        head = torch.nn.Linear(2, 3)

    mask = torch.ones(1, 4, dtype=torch.bool)
    for calls in (0, 2):
        with HeadInputs(Model()) as seen:
            for _ in range(calls):
                Model.head(torch.ones(1, 4, 2))
        with pytest.raises(MNERError, match="scores the words of a post once"):
            seen.states(mask)
    with HeadInputs(Model()) as seen:
        Model.head(torch.ones(1, 4, 2))
    Model.head(torch.zeros(1, 4, 2))  # the hook is gone
    assert torch.equal(seen.states(mask), torch.ones(1, 4, 2))
