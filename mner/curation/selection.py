"""What to annotate next: unlabelled posts, ranked by what models do not know and by how unlike each other they are."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mner.curation.posteriors import Posteriors, posteriors_of, tagger_batches
from mner.data.examples import Example
from mner.data.formats.posts import read_posts
from mner.data.formats.records import Reading
from mner.errors import MNERError
from mner.files import STANDARD, in_folder

if TYPE_CHECKING:
    from mner.tagger.tagger import Tagger

By = Literal["entropy", "disagreement", "both"]
POOL = 10
"""Posts for each one that is chosen, the best by score, among which unlike ones are looked for."""


class Choice(NamedTuple):
    """A post to annotate.

    Attributes:
        post: The post.
        score: What it was ranked by, in nats.
        entropy: Of the tags, the mean over its words, in nats.
        disagreement: Between models, the mean over its words, in nats; 0 for one model.
        distance: To the nearest post that was chosen before it, from 0 to 2; 0 where diversity was not asked for.
        word: Its least sure word.
    """

    post: Example
    score: float
    entropy: float
    disagreement: float
    distance: float
    word: str

    @property
    def why(self) -> str:
        """Why it was chosen, in a sentence."""
        said = f"least sure at “{self.word}”; entropy {self.entropy:.3f} a word"
        said += f", disagreement {self.disagreement:.3f}" if self.disagreement else ""
        return said + (f", {self.distance:.2f} from those before" if self.distance else "")


def entropy(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Entropy in nats of distributions (…, l) -> (…).

    >>> entropy(np.array([[0.5, 0.5], [1.0, 0.0]])).round(3).tolist()
    [0.693, 0.0]
    """
    rows = np.asarray(rows, np.float64)
    found: NDArray[np.float64] = -(rows * np.log(np.clip(rows, 1e-12, 1))).sum(-1) + 0.0
    return found


def uncertainty(several: Sequence[NDArray[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Entropy of the models' mean at each word (Settles and Craven, 2008), and the part of it that is disagreement.

    Disagreement is the mean divergence of the models from their mean (McCallum and Nigam, 1998)::

        H(mean of p_m) - mean of H(p_m)

    Args:
        several: What each model says of the words of a post, (w, l).

    Returns:
        (w,) and (w,), in nats.

    >>> whole, part = uncertainty([np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])])
    >>> whole.round(3).tolist(), part.round(3).tolist()
    ([0.693], [0.693])
    """
    whole = entropy(np.mean(several, axis=0))
    return whole, np.maximum(whole - np.mean([entropy(rows) for rows in several], axis=0), 0.0)


def unlike(vectors: NDArray[Any], count: int, known: NDArray[Any] | None = None) -> list[tuple[int, float]]:
    """Greedy k-centre (Sener and Savarese, 2018): always the row that is farthest from all chosen ones.

    Args:
        vectors: (n, d); rows are compared by cosine. The first row is chosen first.
        count: How many to choose.
        known: (m, d), what was chosen before, such as posts that are annotated.

    Returns:
        Rows in order of choice, and the distance of each to those before, 1 - cosine; 0 for the first without `known`.

    >>> unlike(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), 2)
    [(0, 0.0), (2, 1.0)]
    """
    rows = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    nearest = np.full(len(rows), np.inf)
    if known is not None and len(known):
        before = known / np.maximum(np.linalg.norm(known, axis=1, keepdims=True), 1e-12)
        nearest = 1 - (rows @ before.T).max(1)
    chosen: list[tuple[int, float]] = []
    for _ in range(min(count, len(rows))):
        place = int(np.argmax(nearest))
        distance = float(nearest[place])
        chosen.append((place, distance if np.isfinite(distance) else 0.0))
        nearest = np.minimum(nearest, 1 - rows @ rows[place])
        nearest[[place for place, _ in chosen]] = -np.inf
    return chosen


def choose(
    posts: Sequence[Example],
    several: Sequence[Posteriors],
    by: By = "both",
    count: int | None = None,
    vectors: NDArray[Any] | None = None,
) -> list[Choice]:
    """Rank posts.

    Args:
        posts: The posts.
        several: What each model says of them.
        by: `entropy` of the models' mean, `disagreement` between models, or the sum of `both`.
        count: How many; None for all.
        vectors: (n, d) of the posts, for diversity: of the best `POOL` times as many, those that are unlike each other.

    Raises:
        MNERError: If there is one model and `by` asks for disagreement.
    """
    if by == "disagreement" and len(several) < 2:
        raise MNERError("Expected two checkpoints or more for disagreement, such as of several seeds, but got one")
    found = []
    for post in posts:
        whole, part = uncertainty([one.of[post.id] for one in several])
        mean, apart = float(whole.mean()), float(part.mean())
        score = {"entropy": mean, "disagreement": apart, "both": mean + apart}[by]
        found.append(Choice(post, score, mean, apart, 0.0, post.words[int(whole.argmax())]))
    order = sorted(range(len(found)), key=lambda place: -found[place].score)
    wanted = len(order) if count is None else count
    if vectors is None:
        return [found[place] for place in order[:wanted]]
    pool = order[: POOL * wanted]
    picked = unlike(vectors[pool], wanted)
    return [found[pool[place]]._replace(distance=distance) for place, distance in picked]


def next_posts(
    checkpoints: list[str],
    out: Path = Path("next.jsonl"),
    by: By = "both",
    count: int = 100,
    diversity: bool = True,
    images: Path | None = None,
    format: str | None = None,
    reading: Reading | None = None,
    device: str = "auto",
) -> int:
    """Rank unlabelled posts by what there is to learn from them: CHECKPOINT... POSTS.

    Args:
        checkpoints: One or more checkpoints (several seeds, say), and last the file of posts; those with labels are
            left out.
        out: JSON lines to write, the most worthwhile first: id, image, words and text, scores, and why.
        by: `entropy` of the tags, `disagreement` between checkpoints, or the sum of `both`.
        count: How many posts.
        diversity: Of the ten times as many best posts take those that are unlike each other (greedy k-centre on the
            first checkpoint's word vectors); no: the best as they come.
        images: Folder of their images.
        format: The format of the posts; by default found by suffix and content.
        reading: How the posts are read where they leave a choice.
        device: `auto`, `cpu`, `cuda`, ...

    Returns:
        Exit code 0.
    """
    if len(checkpoints) < 2:
        raise MNERError(f"Expected CHECKPOINT… POSTS, one checkpoint or more and a file of posts, got {checkpoints}")
    if count < 1:
        raise MNERError(f"Expected --count of at least 1, but got {count}")
    *models, source = checkpoints
    given = read_posts(source, format, reading=reading)
    posts = [post for post in given if post.tags is None]
    if not posts:
        raise MNERError(f"{source}: all {len(given):,} posts have labels; expected posts that are to be annotated")
    from mner.tagger.tagger import Tagger

    several, vectors = [], None
    for name in models:
        tagger = Tagger.load(name, device=device)
        several.append(posteriors_of(tagger.model, tagger_batches(tagger, posts, images), str(tagger.device)))
        if vectors is None and diversity:
            vectors = post_vectors(tagger, posts, images)
        if several[-1].labels != several[0].labels:
            raise MNERError(f"{name} has labels {several[-1].labels}, but {models[0]} has {several[0].labels}")
    found = choose(posts, several, by, count, vectors)
    with in_folder(out) as stream:
        stream.write(lines(found).encode())
    left = f"; {len(given) - len(posts):,} with labels left out" if len(posts) < len(given) else ""
    told = sys.stderr if str(out) == STANDARD else sys.stdout
    print(f"{len(found):,} of {len(posts):,} posts written to {out}{left}", file=told)
    print(f"For an annotation tool: mner data convert {out} tasks.json --format label_studio", file=told)
    return 0


def post_vectors(tagger: Tagger, posts: Sequence[Example], images: Path | None = None) -> NDArray[np.float32]:
    """The mean of the model's word vectors of each post, (n, d), as its fusion gets them."""
    import torch

    from mner.nn import masked_mean

    found: dict[str, list[Any]] = {}
    with torch.no_grad():
        for batch in tagger_batches(tagger, posts, images):
            means = masked_mean(tagger.model.encode(batch).float(), batch["word_mask"]).cpu().numpy()
            for id_, row in zip(batch["id"], means, strict=True):
                found.setdefault(id_, []).append(row)
    return np.stack([np.mean(found[post.id], axis=0) for post in posts])


def lines(choices: Sequence[Choice]) -> str:
    """JSON lines that `read_posts` and annotation tools read; the scores are beside, and in `meta` for Prodigy."""
    rows = []
    for rank, choice in enumerate(choices, start=1):
        post = choice.post
        row: dict[str, Any] = {"id": post.id, "image_id": post.image_id, "tokens": post.words}
        row |= {"image_ids": post.image_ids} if post.more_images else {}
        scores = {name: round(getattr(choice, name), 6) for name in ("score", "entropy", "disagreement", "distance")}
        row |= {"text": " ".join(post.words), "rank": rank, **scores, "why": choice.why}
        row["meta"] = {"rank": rank, "why": choice.why}
        rows.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(rows)
