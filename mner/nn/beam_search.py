"""Beam search: the most probable sequence that a model finds word by word."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

State = tuple[Tensor, ...]
Step = Callable[[Tensor, State], tuple[Tensor, State]]


@torch.no_grad()
def beam_search(
    step: Step,
    state: State,
    items: int,
    start: int,
    end: int,
    max_steps: int,
    beams: int = 5,
    candidates: int | None = None,
    repeats: bool = True,
    ended_stay: bool = True,
    device: torch.device | str = "cpu",
) -> tuple[list[list[int]], Tensor]:
    """The best sequence of each of b items, by the sum of its words' log-probabilities; lengths are not evened out.

    All items are searched at once: k beams of an item stand in k rows one after another, (b * k, ...). One beam is
    greedy search.

    Args:
        step: Words so far (b * k, t), which begin with `start`, and the state -> logits (b * k, v) of the next word,
            and the next state.
        state: Tensors (b * k, ...) that follow their beam from row to row, such as those of an LSTM; may be empty.
        items: b.
        start: Word that every sequence begins with.
        end: Word that ends one; may be `start`.
        max_steps: Most words of a sequence. What has not ended then is taken as it is.
        beams: k.
        candidates: Most words that one beam may go on with after the first; None for all.
        repeats: Whether a word may follow itself.
        ended_stay: A sequence that has ended keeps its place among the k, as in AllenNLP. If not, it is put aside, and
            k others go on.
        device: Where the rows are.

    Returns:
        The words of each item without `start` and `end`, and their scores (b,).

    >>> chain = torch.tensor([[0.0, 0.9, 0.1], [0.2, 0.0, 0.8], [1.0, 0.0, 0.0]]).log()  # word -> next word
    >>> beam_search(lambda words, state: (chain[words[:, -1]], state), (), items=1, start=0, end=0, max_steps=5)[0]
    [[1, 2]]
    """
    if beams < 1 or max_steps < 1:
        raise ValueError(f"Expected `beams` and `max_steps` to be at least 1, but got {beams} and {max_steps}")
    first = torch.arange(items, device=device)[:, None] * beams  # (b, 1) row of each item's first beam
    words = torch.full((items * beams, 1), start, device=device)
    ended = torch.zeros(items, beams, dtype=torch.bool, device=device)
    # All beams begin alike: only one of them counts, else all would go on alike.
    scores = torch.full((items, beams), -torch.inf, device=device)
    scores[:, 0] = 0
    aside: list[tuple[float, list[int]]] = [(-torch.inf, [])] * items
    for number in range(max_steps):
        logits, state = step(words, state)
        following = logits.float().log_softmax(-1)  # (b * k, v)
        if not repeats:
            following = following.scatter(1, words[:, -1:], -torch.inf)
        if candidates is not None and number:
            least = following.topk(min(candidates, following.shape[-1])).values[:, -1:]
            following = following.masked_fill(following < least, -torch.inf)
        following = following.view(items, beams, -1)
        if ended.any():
            stay = torch.full_like(following[0, 0], -torch.inf)
            stay[end] = 0
            following = torch.where(ended[..., None], stay, following)
        v = following.shape[-1]
        scores, places = (scores[..., None] + following).flatten(1).topk(beams)  # (b, k)
        rows = (first + places // v).flatten()  # (b * k,) which beam each goes on from
        words = torch.cat([words[rows], (places % v).view(-1, 1)], dim=1)
        state = tuple(part[rows] for part in state)
        ended = words[:, -1].view(items, beams) == end
        if ended_stay:
            if ended.all():
                break
            continue
        last = number == max_steps - 1
        aside = [
            max([best, *((score, row) for score, row, over in zip(*beam, strict=True) if over or last)], key=_score)
            for best, *beam in zip(
                aside, scores.tolist(), words.view(items, beams, -1).tolist(), ended.tolist(), strict=True
            )
        ]
        scores = scores.masked_fill(ended, -torch.inf)
        ended = torch.zeros_like(ended)
        # A sequence only loses by going on.
        if all(best[0] >= score for best, score in zip(aside, scores.amax(1).tolist(), strict=True)):
            break
    if ended_stay:
        best_scores, places = scores.max(1)
        found = words[first[:, 0] + places].tolist()
    else:
        best_scores, found = scores.new_tensor([score for score, _ in aside]), [row for _, row in aside]
    return [_cut(row[1:], end) for row in found], best_scores


def _score(found: tuple[float, list[int]]) -> float:
    return found[0]


def _cut(words: list[int], end: int) -> list[int]:
    return words[: words.index(end)] if end in words else words
