"""Confidence that means what it says: a temperature for entity scores, fitted on posts that were not trained on.

Guo et al. (2017, "On Calibration of Modern Neural Networks") divide the scores of a classifier by one number T. Here
emissions and transitions of the CRF are divided by it, so that probabilities of whole entities change, and the best
path does not. As events to be calibrated (Kuleshov and Liang 2015, "Calibrated Structured Prediction") the predicted
entities are taken: T minimises the log loss of "this entity is right"::

    T = argmin over T of -Σ over predicted entities of  r log p_T + (1 - r) log(1 - p_T)
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mner.errors import DataFormatError, MNERError
from mner.files import STANDARD, output_folder, refuse_inputs

if TYPE_CHECKING:
    from mner.data.examples import Example
    from mner.data.formats.records import Reading
    from mner.labels import Span
    from mner.tagger.post import Post
    from mner.tagger.tagger import Tagger

COLDEST, HOTTEST = 0.05, 20.0
"""Temperatures between which the best is looked for."""
_SURE = 1e-12  # a wrong entity of probability 1 has a finite loss


def expected_calibration_error(scores: Sequence[float], right: Sequence[bool], bins: int = 10) -> float:
    """Mean distance of confidence from the share that is right, over bins of equal width, weighted by entities.

    ::

        ECE = Σ over bins of  |bin| / n · |mean score in bin - share right in bin|

    A bin holds its upper end, as in Guo et al. (2017); 0 is in the first.

    Args:
        scores: Probabilities.
        right: Whether each came true.
        bins: How many.

    Raises:
        ValueError: If there are no scores, or not as many of both.

    >>> round(expected_calibration_error([0.95, 0.91, 0.1], [True, False, False]), 4)
    0.32
    """
    if not len(scores) == len(right) > 0:
        raise ValueError(f"Expected as many `scores` as `right`, and some, but got {len(scores)} and {len(right)}")
    score, true = np.asarray(scores, dtype=float), np.asarray(right, dtype=float)
    place = bins_of(score, bins)
    return float(sum(abs((score - true)[place == one].sum()) for one in np.unique(place)) / len(score))


def bins_of(scores: Any, bins: int) -> Any:
    """The bin of each score: (0, .1], (.1, .2], … of ten."""
    return np.clip(np.searchsorted(np.linspace(0, 1, bins + 1), scores, side="left") - 1, 0, bins - 1)


def best_temperature(scores_at: Callable[[float], Sequence[float]], right: Sequence[bool]) -> float:
    """The temperature with the least log loss, to a thousandth of itself.

    Args:
        scores_at: The probabilities at a temperature.
        right: Whether each came true.

    Raises:
        MNERError: If all are right or all are wrong, so that no temperature is the best.
    """
    from scipy.optimize import minimize_scalar

    if len(set(right)) < 2:
        found = f"{len(right)} entities, of which {sum(right)} are right"
        raise MNERError(f"Expected right and wrong entities to fit a temperature on, but the model found {found}")
    true = np.asarray(right, dtype=bool)

    def loss(logarithm: float) -> float:
        p = np.clip(np.asarray(scores_at(math.exp(logarithm)), dtype=float), _SURE, 1 - _SURE)
        return float(-np.where(true, np.log(p), np.log1p(-p)).mean())

    bounds = math.log(COLDEST), math.log(HOTTEST)
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 5e-4}).x)


def fit_temperature(tagger: Tagger, posts: Sequence[Post], gold: Sequence[Sequence[Span]]) -> dict[str, Any]:
    """Fit the temperature of a tagger's model (of the label set in use), and give it to the model.

    Args:
        tagger: The tagger; from now on its scores are calibrated, and so are those of a model that it saves.
        posts: Posts that the model was not trained on, given as words.
        gold: Their entities.

    Returns:
        `temperature`, the expected calibration errors `before` (at 1) and `after`, and the numbers of `entities` that
        the model found and of `posts`.

    Raises:
        MNERError: If the found entities are all right or all wrong.
    """
    from mner.labels import spans
    from mner.tagger.results import SECTION, sections_of

    model: Any = tagger.model
    parts, right = [], []
    for start in range(0, len(posts), tagger.batch_size):
        sections = sections_of(tagger.prepare(posts[start : start + tagger.batch_size]))
        begins = [SECTION * sum(s.post == section.post for s in sections[:n]) for n, section in enumerate(sections)]
        for numbers, scores, batch in tagger.decoder.scored(sections, tagger.batch_size):
            found = [spans([model.labels[index] for index in path]) for path in model.decode(scores, batch)]
            parts.append((scores, batch, found))
            for number, some in zip(numbers, found, strict=True):
                known, begin = set(gold[start + sections[number].post]), begins[number]
                right += [one._replace(start=one.start + begin, end=one.end + begin) in known for one in some]

    def scores_at(temperature: float) -> list[float]:
        keep(model, tagger.label_set, {"temperature": temperature})
        each = (model.entity_scores(*part) for part in parts)
        return [score for batch in each for post in batch for score in post]

    before = scores_at(1.0)
    try:
        temperature = round(best_temperature(scores_at, right), 4)
    except MNERError:
        keep(model, tagger.label_set, None)
        raise
    facts = {
        "temperature": temperature,
        "before": round(expected_calibration_error(before, right), 6),
        "after": round(expected_calibration_error(scores_at(temperature), right), 6),
        "entities": len(right),
        "posts": len(posts),
    }
    keep(model, tagger.label_set, facts)
    return facts


def keep(model: Any, label_set: str | None, facts: dict[str, Any] | None) -> None:
    """Give a model the temperature of a label set; None for none."""
    from mner.training.stored_facts import CALIBRATION

    known = {**(model.restored or {}), CALIBRATION: {**((model.restored or {}).get(CALIBRATION) or {})}}
    known[CALIBRATION].pop(label_set or "", None)
    known[CALIBRATION] |= {label_set or "": facts} if facts else {}
    model.restored = known


def calibrate(
    checkpoint: str,
    posts: str,
    output: Path | None = None,
    images: Path | None = None,
    context: list[str] | None = None,
    image_weights: Path | None = None,
    input_format: str | None = None,
    reading: Reading | None = None,
    batch_size: int = 32,
    device: str = "auto",
    label_set: str | None = None,
) -> int:
    """Fit a temperature on posts with gold, so that scores are probabilities, and write the model with it.

    Entities stay the same; their scores change, in the `Tagger`, `mner tag`, `mner predict`. The expected calibration
    errors before and after stand in the model's card and in the header of predictions.

    Args:
        checkpoint: The checkpoint that `mner fit` wrote, or the folder or Hub name of a shared model.
        posts: File of posts with gold that the model was not trained on, such as the valid split, in any format.
        output: What to write: a checkpoint, or for a shared model a folder. By default CHECKPOINT.calibrated.ckpt.
        images: Folder with the images of the posts.
        context: Files of context texts, one for each source of the model, in order of training.
        image_weights: File of the weights of what made the model's image features.
        input_format: The format of the posts; by default found by suffix and content.
        reading: How posts are read where they leave a choice.
        batch_size: Posts in a batch.
        device: `auto`, `cpu`, `cuda`, ...
        label_set: Which label set of a model with several; if not given, the first.

    Returns:
        Exit code 0.

    Raises:
        DataNotFoundError: If there are no posts.
        DataFormatError: If no post has gold.
        CheckpointError: If the model cannot be used.
    """
    from mner.tagger.tagger import Tagger
    from mner.training.stored_facts import CALIBRATION

    target = output or Path(f"{str(checkpoint).removesuffix('.ckpt').rstrip('/')}.calibrated.ckpt")
    is_file = Path(checkpoint).is_file()
    if not is_file and output is None:
        target = target.with_suffix("")  # a folder, as the shared model is
    refuse_inputs(target, [checkpoint, *([] if posts == STANDARD else [posts])])
    known, given = held_out(posts, images, context, input_format, reading)
    options: dict[str, Any] = {"image_weights": image_weights, "batch_size": batch_size, "device": device}
    tagger = Tagger.load(checkpoint, label_set=label_set, **options)
    facts = fit_temperature(tagger, given, known)
    facts["fitted_on"] = Path(posts).name
    keep(tagger.model, tagger.label_set, facts)
    if is_file:
        from mner.training.checkpoint import copy_with

        with output_folder(target.parent) as place:
            copy_with(checkpoint, place / target.name, {CALIBRATION: (tagger.model.restored or {})[CALIBRATION]})
    else:
        tagger.save_pretrained(target)
    print(
        f"{len(known):,} posts, {facts['entities']:,} entities found; temperature {facts['temperature']:.3f}; expected "
        f"calibration error {100 * facts['before']:.2f} % before, {100 * facts['after']:.2f} % after",
        file=sys.stderr,
    )
    print(f"wrote {target}", file=sys.stderr)
    return 0


def held_out(
    posts: str,
    images: Path | None = None,
    context: list[str] | None = None,
    input_format: str | None = None,
    reading: Reading | None = None,
) -> tuple[list[list[Span]], list[Post]]:
    """Entities and posts of a file, of those with gold.

    Raises:
        DataFormatError: If there are none.
    """
    from mner.data.formats.posts import read_posts
    from mner.labels import spans
    from mner.tagger.bulk_input import Images, sources_of

    known = [post for post in read_posts(posts, input_format, reading=reading) if post.tags is not None]
    if not known:
        raise DataFormatError(posts, None, "posts without gold", "posts with entities or tags, such as the valid split")
    given = list(_given(known, Images(images) if images is not None else None, sources_of(context or ())))
    return [spans(post.tags or ()) for post in known], given


def _given(examples: Sequence[Example], images: Any, sources: Sequence[Any]) -> Iterator[Post]:
    from mner.data.formats.context import find_text
    from mner.tagger.post import Post

    for one in examples:
        paths = [path for name in one.image_ids if images and (path := images.find(name)[0]) is not None]
        texts = [find_text(source, one) for source in sources] or list(one.context)
        yield Post(words=one.words, image=paths or None, context=texts if any(texts) else None)
