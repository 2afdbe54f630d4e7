"""Beam search against all sequences, and against a search written out with lists."""

import itertools
import math

import pytest
import torch

from mner.nn.beam_search import beam_search

WORDS, START, END = 4, 0, 1


def tables(items, seed=0, scale=2.0):
    """Log-probabilities of the next word after each pair of words, for each item: (b, v, v, v)."""
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(items, WORDS, WORDS, WORDS, generator=generator)).log_softmax(-1)


def step_of(table, beams):
    """Looks the last two words up; rows of an item use the item's table."""
    rows = table.repeat_interleave(beams, 0)

    def step(words, state):
        before = words[:, -2] if words.shape[1] > 1 else words[:, -1]
        return rows[torch.arange(len(words)), before, words[:, -1]], state

    return step


def score(table, words):
    total, seen = 0.0, [START]
    for word in words:
        total += float(table[seen[-2] if len(seen) > 1 else seen[-1], seen[-1], word])
        seen.append(word)
    return total


def all_sequences(steps, repeats):
    for length in range(1, steps + 1):
        for words in itertools.product(range(WORDS), repeat=length):
            inner = END not in words[:-1]
            whole = words[-1] == END or length == steps
            twice = any(one == other for one, other in itertools.pairwise((START, *words)))
            if inner and whole and (repeats or not twice):
                yield words


@pytest.mark.parametrize("ended_stay", [True, False])
@pytest.mark.parametrize("repeats", [True, False])
def test_with_room_for_all_it_finds_the_best_of_all(ended_stay, repeats):
    steps, beams, table = 4, WORDS**4, tables(6)
    found, scores = beam_search(
        step_of(table, beams), (), 6, START, END, steps, beams, repeats=repeats, ended_stay=ended_stay
    )
    for row, words in enumerate(found):
        best = max(all_sequences(steps, repeats), key=lambda some: score(table[row], some))
        assert words == [word for word in best if word != END]
        assert float(scores[row]) == pytest.approx(score(table[row], best), abs=1e-5)


def by_lists(table, steps, beams, candidates, repeats, ended_stay):
    """The same search for one item, one sequence after another."""
    alive, over = [(0.0, (START,))], []
    for number in range(steps):
        following = []
        for total, words in alive:
            if ended_stay and words[1:] and words[-1] == END:
                following.append((total, (*words, END)))
                continue
            before = words[-2] if len(words) > 1 else words[-1]
            options = [
                (total + float(table[before, words[-1], word]), (*words, word))
                for word in range(WORDS)
                if repeats or word != words[-1]
            ]
            options.sort(reverse=True)
            following += options[:candidates] if number and candidates else options
        alive = sorted(following, reverse=True)[:beams]
        if not ended_stay:
            over += [one for one in alive if one[1][-1] == END or number == steps - 1]
            alive = [one for one in alive if one[1][-1] != END]
    best = max(alive if ended_stay else over)
    return [word for word in best[1][1:] if word != END], best[0]


@pytest.mark.parametrize("ended_stay", [True, False])
@pytest.mark.parametrize(
    ("beams", "candidates", "repeats"), [(1, None, True), (2, None, True), (3, 2, False), (3, 1, True)]
)
def test_with_few_beams_it_is_the_search_written_out(beams, candidates, repeats, ended_stay):
    table = tables(40, seed=1)
    found, scores = beam_search(
        step_of(table, beams), (), 40, START, END, 6, beams, candidates, repeats, ended_stay
    )
    expected = [by_lists(one, 6, beams, candidates, repeats, ended_stay) for one in table]
    assert found == [words for words, _ in expected]
    torch.testing.assert_close(scores, torch.tensor([total for _, total in expected]))
    assert len({tuple(words) for words in found}) > 5  # not all alike


def test_the_ways_to_end_differ_where_an_end_takes_a_place():
    table = tables(60, seed=2)
    stay, aside = (beam_search(step_of(table, 2), (), 60, START, END, 6, 2, ended_stay=way)[1] for way in (True, False))
    assert (stay != aside).any()
    assert (aside >= stay - 1e-5).all()  # more is looked at


def test_one_beam_is_greedy():
    table = tables(20, seed=3)
    found, _ = beam_search(step_of(table, 1), (), 20, START, END, 6, beams=1)
    for row, words in enumerate(found):
        seen = [START]
        while len(seen) <= 6 and (len(seen) == 1 or seen[-1] != END):
            seen.append(int(table[row][seen[-2] if len(seen) > 1 else seen[-1], seen[-1]].argmax()))
        assert words == [word for word in seen[1:] if word != END]


@pytest.mark.parametrize("ended_stay", [True, False])
def test_the_state_follows_its_beam(ended_stay):
    """A state that is the words so far gives the same as the words."""
    table = tables(8, seed=4)
    step = step_of(table, 3)

    def remembering(words, state):
        (seen,) = state
        seen = torch.cat([seen, words[:, -1:]], dim=1)
        logits, _ = step(seen, ())
        return logits, (seen,)

    expected = beam_search(step, (), 8, START, END, 6, 3, ended_stay=ended_stay)
    empty = torch.zeros(24, 0, dtype=torch.long)
    found = beam_search(remembering, (empty,), 8, START, END, 6, 3, ended_stay=ended_stay)
    assert found[0] == expected[0]


def test_items_do_not_see_each_other():
    table = tables(5, seed=5)
    together = beam_search(step_of(table, 3), (), 5, START, END, 6, 3)[0]
    alone = [beam_search(step_of(table[row : row + 1], 3), (), 1, START, END, 6, 3)[0][0] for row in range(5)]
    assert together == alone


@pytest.mark.parametrize("ended_stay", [True, False])
def test_what_cannot_be_is_never_said(ended_stay):
    """Fewer words than beams, most of them impossible."""
    logits = torch.tensor([-math.inf, 0.0, -math.inf, 1.0])
    found, scores = beam_search(
        lambda words, state: (logits.expand(len(words), -1), state), (), 2, START, END, 3, 5, ended_stay=ended_stay
    )
    assert found == [[3, 3, 3], [3, 3, 3]]
    assert scores.tolist() == pytest.approx([3 * math.log(math.e / (1 + math.e))] * 2)


def test_bad_numbers_are_refused():
    for beams, steps in ((0, 3), (3, 0)):
        with pytest.raises(ValueError, match="to be at least 1"):
            beam_search(step_of(tables(1), 1), (), 1, START, END, steps, beams)
