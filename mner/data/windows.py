"""Posts longer than the encoder as windows of words that overlap, and their emissions put together again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING, NamedTuple

from mner.batch import Batch
from mner.data.tokenizer import Known, PostTokenizer

if TYPE_CHECKING:
    from torch import Tensor

Window = tuple[int, int]


def windows(sizes: Sequence[int], room: int, share: float = 1.0) -> list[Window]:
    """Cut a post into windows of words.

    A post that fits with one piece a word stays whole, as in training; longer ones are cut so that words keep their
    pieces. Neighbours overlap by a quarter, so that each word has some words on both sides.

    Args:
        sizes: Pieces of each word.
        room: Pieces that fit.
        share: Part of the room that is for the post, where context has to fit too.

    Returns:
        Start and end of each window, in words.

    >>> windows([1] * 10, room=10), windows([1] * 10, room=4)
    ([(0, 10)], [(0, 4), (3, 7), (6, 10)])
    """
    if len(sizes) <= room:
        return [(0, len(sizes))]
    budget = max(1, int(room * share))
    cap = max(1, budget // 4)  # pieces of one word that count: the tokeniser cuts longer ones
    found: list[Window] = []
    start = 0
    while True:
        end, used = start, 0
        while end < len(sizes) and (end == start or used + min(sizes[end], cap) <= budget):
            used += min(sizes[end], cap)
            end += 1
        found.append((start, end))
        if end == len(sizes):
            return found
        start = max(start + 1, end - (end - start) // 4)


def kept(places: Sequence[Window]) -> list[Window]:
    """The words that each window answers for: of the words that two windows read, each has its half.

    >>> kept([(0, 4), (2, 6)])
    [(0, 3), (3, 6)]
    """
    borders = [(following[0] + place[1]) // 2 for place, following in pairwise(places)]
    return list(zip([0, *borders], [*borders, places[-1][1]], strict=True))


class WindowPieces(NamedTuple):
    """A window as the model reads it.

    Attributes:
        ids: Ids of its pieces, then of the context, with special tokens.
        word_starts: Where the first pieces are of those words that it answers for; it reads the others beside them.
        post_length: How many of `ids` are not context.
        bounds: Where the first text of the context begins, and where each ends.
        words: The words that it answers for: start and end in the post.
        words_end: Where the pieces of the last of those words end; each other word ends where the next one begins.
    """

    ids: list[int]
    word_starts: list[int]
    post_length: int
    bounds: list[int]
    words: Window
    words_end: int


def encode_windows(
    tokenizer: PostTokenizer, words: Sequence[str], context: Sequence[str], known: Known
) -> list[WindowPieces]:
    """A post as the model reads it, in training, evaluation and tagging alike: whole, or in windows that overlap.

    Each word is in exactly one window's `word_starts`, so that it is scored once and its gold counts once; the words
    beside are read by the text encoder alone. In training each window is an example of its own: its words' CRF does not
    see the transition to the next window's first word, and any strategy's losses stay as they are. In evaluation and
    tagging the emissions of a post's windows are put together (`whole_posts`) and decoded as one sequence.

    Args:
        tokenizer: The tokeniser.
        words: The words.
        context: Texts beside the post; each window has them.
        known: Pieces, as `tokenizer.learn` gave them.
    """
    if len(words) <= tokenizer.room:
        ids, starts, post_length, bounds = tokenizer.encode_plain(words, context, known)
        return [WindowPieces(ids, starts, post_length, bounds, (0, len(words)), post_length - tokenizer.closing)]
    sizes = [len(known.words[word]) for word in words]
    places = windows(sizes, tokenizer.room, 0.75 if any(context) else 1.0)
    found = []
    for (start, end), (begin, until) in zip(places, kept(places), strict=True):
        ids, starts, post_length, bounds = tokenizer.encode_plain(words[start:end], context, known)
        own, words_end = (
            starts[begin - start : until - start],
            [*starts, post_length - tokenizer.closing][until - start],
        )
        found.append(WindowPieces(ids, own, post_length, bounds, (begin, until), words_end))
    return found


def whole_posts(scores: Tensor, batch: Batch) -> tuple[Tensor, Batch]:
    """Scores (rows, w, l) of a batch with windows as those of its posts (b, w', l), and what decoding needs of them.

    Args:
        scores: Emissions or log posteriors of each row.
        batch: The batch; one without `windows` comes back as it is.

    Returns:
        The scores, and a batch with `word_mask`, `words`, `id`, `image_id`, `has_image` and, if there are, `tags`.
    """
    if "windows" not in batch:
        return scores, batch
    import torch  # an exported model cuts its posts into windows without
    from torch.nn.utils.rnn import pad_sequence

    lengths = batch["word_mask"].sum(1).tolist()
    ends = list(accumulate(batch["windows"]))
    rows = [range(end - count, end) for end, count in zip(ends, batch["windows"], strict=True)]

    def joined(values: Tensor) -> Tensor:
        posts = [torch.cat([values[row, : lengths[row]] for row in some]) for some in rows]
        return pad_sequence(posts, batch_first=True)

    whole = Batch(
        word_mask=joined(batch["word_mask"]),
        words=[tuple(chain.from_iterable(batch["words"][row] for row in some)) for some in rows],
        id=[batch["id"][some[0]] for some in rows],
        image_id=[batch["image_id"][some[0]] for some in rows],
        has_image=batch["has_image"][[some[0] for some in rows]],
    )
    if "tags" in batch:
        whole["tags"] = joined(batch["tags"])
    if "label_set" in batch:
        whole["label_set"] = batch["label_set"]
    return joined(scores), whole
