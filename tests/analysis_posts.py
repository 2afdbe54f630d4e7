"""Small posts for the tests of analyses."""

import numpy as np

from mner.data.examples import Example
from mner.data.formats.predictions import Prediction, Predictions, ScoredSpan
from mner.labels import spans

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG"]


def read(text):
    """`"Kim/B-PER met"` -> words and tags; words without a tag are O."""
    pairs = [word.rpartition("/") if "/" in word else (word, "", "O") for word in text.split()]
    return tuple(pair[0] for pair in pairs), tuple(pair[2] for pair in pairs)


def example(id_, text):
    words, tags = read(text)
    return Example(id_, id_, words, tags)


def post(gold, pred, id_="1", scores=()):
    """A post from two writings of the same words."""
    words, gold_tags = read(gold)
    same, pred_tags = read(pred)
    assert words == same
    entities = tuple(ScoredSpan(*span, score) for span, score in zip(spans(pred_tags), scores, strict=False))
    return Prediction(id_, id_, words, gold_tags, pred_tags, entities)


def random_posts(count, seed, noise=0.3, gold_seed=0):
    """Posts of random tags, stray I- included; the gold depends on `gold_seed` alone."""
    gold_rng, rng = np.random.default_rng(gold_seed), np.random.default_rng([seed, 1])
    posts = []
    for number in range(count):
        length = int(gold_rng.integers(1, 12))
        gold = [LABELS[index] for index in gold_rng.choice(7, length, p=[0.5, *[0.5 / 6] * 6])]
        wrong = rng.random(length) < noise
        pred = [LABELS[rng.integers(7)] if bad else tag for bad, tag in zip(wrong, gold, strict=True)]
        words = tuple(f"w{gold_rng.integers(20)}" for _ in range(length))
        found = tuple(ScoredSpan(*span, round(float(rng.random()), 3)) for span in spans(pred))
        posts.append(Prediction(str(number), str(number), words, tuple(gold), tuple(pred), found, True))
    return posts


def run(posts, seed=None, fingerprint="0123456789abcdef"):
    return Predictions({"mner_predictions": 1, "seed": seed, "fingerprint": fingerprint}, posts)
