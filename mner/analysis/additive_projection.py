"""The additive projection of Hessel & Lee 2020 (EMAP), adapted from classification to tagging.

Question: does a multimodal tagger use text and image together, or would a sum of a text part and an image part do?
EMAP replaces the model's function f(text i, image j) by the nearest one of the form a(i) + b(j), and scores that.

Adaptation. A tagger gives each word t of text i a vector of emissions f(i, j)[t] over labels. The text part may depend
on the word. The image part may not: words of different texts do not correspond, so what an image adds by itself,
whatever the text, is one vector over labels, the same for each word. The nearest function of this form, in squared
distance with every post weighing the same however long it is, is

    projected(i, j)[t] = mean_j' f(i, j')[t]  +  g(j) - mean_j' g(j')
    g(j)               = mean_i' mean_t' f(i', j)[t']

For posts of one word it is EMAP itself. Each post is then decoded from projected(i, i), through the same CRF (its
transitions do not depend on the input).

Limits. (1) An image that changes emissions only of some words (the capitalised, say) counts as interaction, since which
words these are is known from the text; so a gap between model and projection is wider than "real reasoning about both".
(2) No gap does not say that the image is unused: the projection's image part may do the work; compare with `text`, the
first term alone. (3) Emissions are projected, entities are scored: decoding is not linear, so small gaps mean little.
(4) It takes N² evaluations for N posts; a sample makes that bearable, and the averages are then over the sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Emissions = NDArray[np.floating]  # (w, l) of one post
PairEmissions = Callable[[Sequence[int], Sequence[int]], Sequence[Emissions]]
"""`emissions(texts, images)`: for each pair, the emissions (w, l) of text i read with image j."""


class Projection(NamedTuple):
    """The result of `additive_projection`, one array (w, l) a post.

    Attributes:
        posts: Indices of the posts that were used.
        model: The model's own emissions, f(i, i).
        additive: The projection, text part plus image part.
        text: The text part alone: the average over images.
        image: (n, l), the image parts g(j) less their mean.
        change: Root mean square of what images change in emissions, over all pairs, words and labels.
        interaction: Share of the square of that change that the additive form does not explain: 0 for an additive
            model, 1 if images act only together with texts; NaN if images change nothing but rounding.
    """

    posts: list[int]
    model: list[Emissions]
    additive: list[Emissions]
    text: list[Emissions]
    image: NDArray[np.float64]
    change: float
    interaction: float


def additive_projection(
    emissions: PairEmissions, posts: int, sample: int | None = None, seed: int = 0, batch: int = 256
) -> Projection:
    """Project a tagger onto the sum of a text part and an image part; the module's docstring has the formula.

    Args:
        emissions: Evaluates pairs of (text, image) by the indices of their posts.
        posts: Number of posts.
        sample: Draw this many posts, without replacement; None takes all. The cost is its square.
        seed: Seed of the draw.
        batch: Pairs per call of `emissions`, at most.
    """
    if posts < 2 or (sample is not None and not 2 <= sample <= posts):
        raise ValueError(
            f"Expected at least two posts and a sample of 2 to {posts} of them, but got {posts} and {sample}"
        )
    chosen = list(range(posts))
    if sample is not None:
        chosen = sorted(int(post) for post in np.random.default_rng(seed).choice(posts, sample, replace=False))
    n = len(chosen)
    model: list[Emissions] = []
    text: list[Emissions] = []
    image: NDArray[np.float64] = np.zeros(0)
    total = 0.0  # squared change of emissions by the image, summed over pairs, averaged over words
    for row, post in enumerate(chosen):
        # One text at a time: its emissions with all images have one shape, and only their sums are kept.
        found: list[Emissions] = []
        for start in range(0, n, batch):
            images = chosen[start : start + batch]
            found += emissions([post] * len(images), images)
        of_text = np.stack(found).astype(np.float64)  # (n, w, l)
        mean = of_text.mean(axis=0)
        by_image = of_text.mean(axis=1)  # (n, l)
        image = by_image if row == 0 else image + by_image
        model.append(of_text[row])
        text.append(mean)
        total += float(np.square(of_text - mean).sum(axis=(0, 2)).mean())
    image = image / n
    image = image - image.mean(axis=0)
    explained = n * float(np.square(image).sum())
    additive = [mean + image[row] for row, mean in enumerate(text)]
    change = (total / (n * n * image.shape[1])) ** 0.5
    size = max(float(np.abs(emission).max()) for emission in text)
    interaction = max(0.0, 1 - explained / total) if change > 1e-6 * size else float("nan")
    return Projection(chosen, model, additive, text, image, change, interaction)
