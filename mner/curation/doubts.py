"""Labels that are likely wrong, ranked: what the annotators marked beside what models that did not see it say.

The unit is a span: each labelled one that the models see otherwise, and each that they see where no label is. What
they say comes from out-of-fold posteriors, so that no model was trained on the label that it doubts. Doubts are ranked
by the margin of the models' answer over the label, p(proposal) - p(label); it counts half where they see no entity at
all, since models overlook more than annotators invent. Those that reach the threshold of confident learning (Northcutt,
Jiang and Chuang, 2021) are told apart; it is what models usually give a label that stands::

    t_k = mean of p(k) over what is labelled k      spans of each type; the words outside of spans
    a doubt is confident if p(proposal) ≥ t of the proposal's type

cleanlab has this for words (`cleanlab.token_classification`), where each word has one label among a few. Spans do not
fit it: a label may have another edge, which is another item, or stand for a span that is not there. So the thresholds
are computed here, over spans; `benchmarks/doubts.py` has its ranking of words beside ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mner.curation.posteriors import Posteriors
from mner.data.examples import Example
from mner.labels import Span, spans

Kind = Literal["type", "edge", "no entity", "missing"]
Rows = NDArray[np.float32]
BATCH = 256
"""Posts that are decoded together."""


class Doubt(NamedTuple):
    """A label that may be wrong.

    Attributes:
        post: Id of the post.
        kind: What may be wrong: the `type`; an `edge` (and perhaps the type); that it is labelled at all (`no entity`);
            or that it is not (`missing`).
        label: The labelled span; None where it is missing.
        proposal: What the models say; None where they see no entity.
        label_score: Their probability of the label as it stands.
        proposal_score: Their probability of the proposal.
        confident: Whether it reaches the threshold of confident learning.
    """

    post: str
    kind: Kind
    label: Span | None
    proposal: Span | None
    label_score: float
    proposal_score: float
    confident: bool = False

    @property
    def margin(self) -> float:
        """How much likelier the proposal is than the label, from -1 to 1."""
        return self.proposal_score - self.label_score

    @property
    def score(self) -> float:
        """What doubts are ranked by: the margin, or half of it where models see no entity."""
        return self.margin * (0.5 if self.kind == "no entity" else 1.0)


def find_doubts(posts: Sequence[Example], posteriors: Posteriors) -> list[Doubt]:
    """The spans of labelled posts on which models say something else, the most doubtful first.

    Args:
        posts: The posts; those without gold are left out.
        posteriors: Of each of them, by models that were not trained on it.
    """
    labelled = [post for post in posts if post.tags is not None]
    usual, found = thresholds(labelled, posteriors), []
    rows = [posteriors.of[post.id] for post in labelled]
    for post, own, predicted in zip(labelled, rows, decode(rows, posteriors.labels), strict=True):
        for doubt in doubts_of(post.tags or (), own, posteriors.labels, predicted, post.id):
            least = usual.get("" if doubt.proposal is None else doubt.proposal.type, 1.0)
            found.append(doubt._replace(confident=doubt.proposal_score >= least))
    return sorted(found, key=lambda doubt: -doubt.score)


def thresholds(posts: Sequence[Example], posteriors: Posteriors) -> dict[str, float]:
    """What models usually give a label as it stands, by type; under "" the words outside of entities."""
    places = {label: place for place, label in enumerate(posteriors.labels)}
    given: dict[str, list[float]] = {}
    for post in posts:
        rows = posteriors.of[post.id]
        for span in spans(post.tags or ()):
            given.setdefault(span.type, []).append(span_score(rows, span, places))
        outside = [word for word, tag in enumerate(post.tags or ()) if tag == "O"]
        given.setdefault("", []).extend(rows[outside, places["O"]].tolist())
    return {type_: float(np.mean(scores)) for type_, scores in given.items() if scores}


def doubts_of(
    tags: Sequence[str], rows: Rows, labels: Sequence[str], predicted: Sequence[Span], post: str = ""
) -> list[Doubt]:
    """The doubts of one post.

    A labelled span is held against the predicted span of the same words, or else that which shares most words with it.

    Args:
        tags: Its BIO tags.
        rows: (w, l), what models say of its words.
        labels: What the columns are.
        predicted: The spans that models see, of `decode`.
        post: Its id.

    >>> rows, labels = np.array([[0.1, 0.1, 0.8], [0.9, 0.05, 0.05]], np.float32), ["O", "B-PER", "B-LOC"]
    >>> doubts_of(["B-PER", "O"], rows, labels, decode([rows], labels)[0])[0].proposal
    Span(start=0, end=1, type='LOC')
    """
    places = {label: place for place, label in enumerate(labels)}
    given, found = spans(tags), []
    for label in given:
        meeting = [span for span in predicted if span.start < label.end and label.start < span.end]
        if label in meeting:
            continue
        # the same words if there are such, else most words in common
        proposal = max(meeting, key=lambda span: (span[:2] == label[:2], _common(span, label)), default=None)
        kind: Kind = "no entity" if proposal is None else "type" if proposal[:2] == label[:2] else "edge"
        other = no_entity_score(rows, label, places) if proposal is None else span_score(rows, proposal, places)
        found.append(Doubt(post, kind, label, proposal, span_score(rows, label, places), other))
    for span in predicted:
        if not any(label.start < span.end and span.start < label.end for label in given):
            scores = no_entity_score(rows, span, places), span_score(rows, span, places)
            found.append(Doubt(post, "missing", None, span, *scores))
    return found


def _common(one: Span, other: Span) -> int:
    return min(one.end, other.end) - max(one.start, other.start)


def decode(posts: Sequence[Rows], labels: Sequence[str]) -> list[list[Span]]:
    """The spans of the best label sequence of each post that BIO allows, words being independent otherwise."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from mner.nn.posteriors import decode_posteriors

    found: dict[int, list[Span]] = {}
    order = sorted(range(len(posts)), key=lambda place: len(posts[place]))
    for start in range(0, len(order), BATCH):
        some = order[start : start + BATCH]
        rows = pad_sequence([torch.from_numpy(np.array(posts[place])) for place in some], batch_first=True)  # (b, w, l)
        mask = torch.arange(rows.shape[1])[None] < torch.tensor([len(posts[place]) for place in some])[:, None]
        for place, path in zip(some, decode_posteriors(rows, mask, labels), strict=True):
            found[place] = spans([labels[label] for label in path])
    return [found[place] for place in range(len(posts))]


def span_score(rows: Rows, span: Span, places: Mapping[str, int]) -> float:
    """Probability that exactly these words are an entity of this type: the least of what that needs at each word.

    The product would take words for independent, and doubt each long entity. A type that the models do not know has 0.
    """
    begin, inside = places.get(f"B-{span.type}"), places.get(f"I-{span.type}")
    if begin is None:
        return 0.0
    needed = [rows[span.start, begin]]
    if span.end - span.start > 1:
        needed += [0.0] if inside is None else rows[span.start + 1 : span.end, inside].tolist()
    if span.end < len(rows) and inside is not None:
        needed.append(1.0 - rows[span.end, inside])
    return float(min(needed))


def no_entity_score(rows: Rows, span: Span, places: Mapping[str, int]) -> float:
    """Probability that these words are in no entity: the least of theirs."""
    return float(rows[span.start : span.end, places["O"]].min())
