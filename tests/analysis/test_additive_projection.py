import numpy as np
import pytest

from mner.analysis import additive_projection

LABELS = 3


def tagger(seed, posts, image=1.0, text=1.0, product=1.0):
    """Emissions f(i, j) = text part + image part + a product of both, on texts of different lengths."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, posts)
    texts = [rng.normal(size=(length, LABELS)) for length in lengths]
    images = rng.normal(size=(posts, LABELS))

    def emissions(i, j):
        return [text * texts[a] + image * images[b] + product * texts[a] * images[b] for a, b in zip(i, j, strict=True)]

    return emissions, lengths


def by_definition(f, posts):
    """The formula of the module, term by term."""
    table = [[f([i], [j])[0] for j in range(posts)] for i in range(posts)]
    g = [np.mean([table[i][j].mean(axis=0) for i in range(posts)], axis=0) for j in range(posts)]
    return [np.mean([table[i][j] for j in range(posts)], axis=0) + g[i] - np.mean(g, axis=0) for i in range(posts)]


def test_projection_is_the_formula():
    f, _ = tagger(0, 7)
    found = additive_projection(f, 7, batch=3)
    for one, two in zip(found.additive, by_definition(f, 7), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-12)
    np.testing.assert_allclose(found.model[4], f([4], [4])[0])
    np.testing.assert_allclose(found.text[4], np.mean([f([4], [j])[0] for j in range(7)], axis=0))


def test_additive_tagger_is_its_own_projection():
    f, _ = tagger(1, 8, product=0)
    found = additive_projection(f, 8)
    for one, two in zip(found.additive, found.model, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-12)
    assert found.interaction == pytest.approx(0, abs=1e-9)
    assert found.change > 0.1


def test_tagger_without_images_does_not_change():
    f, _ = tagger(2, 6, image=0, product=0)
    found = additive_projection(f, 6)
    assert found.change == pytest.approx(0, abs=1e-12)
    assert np.isnan(found.interaction)
    np.testing.assert_allclose(found.text[0], found.additive[0], atol=1e-12)


def test_projection_is_the_nearest_additive_function():
    # Least squares over all a(i)[t] + b(j), each post weighing the same, solved without the formula.
    posts = 5
    f, lengths = tagger(3, posts)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    rows, targets = [], []
    for i in range(posts):
        for j in range(posts):
            values = f([i], [j])[0]
            for t in range(lengths[i]):
                row = np.zeros(starts[-1] + posts)
                row[starts[i] + t] = row[starts[-1] + j] = 1
                rows.append(row / lengths[i] ** 0.5)
                targets.append(values[t] / lengths[i] ** 0.5)
    solution = np.linalg.lstsq(np.array(rows), np.array(targets), rcond=None)[0]
    found = additive_projection(f, posts)
    for i in range(posts):
        nearest = solution[starts[i] : starts[i + 1]] + solution[starts[-1] + i]
        np.testing.assert_allclose(found.additive[i], nearest, atol=1e-9)
    residual = np.square(np.array(targets) - np.array(rows) @ solution).sum()
    total = posts**2 * LABELS * found.change**2
    assert found.interaction == pytest.approx(residual / total)


def test_one_word_posts_give_the_projection_of_the_paper():
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(6, 6, LABELS))
    found = additive_projection(lambda i, j: [logits[a, b][None] for a, b in zip(i, j, strict=True)], 6)
    paper = logits.mean(axis=1) + logits.mean(axis=0) - logits.mean(axis=(0, 1))
    np.testing.assert_allclose(np.concatenate(found.additive), paper, atol=1e-12)


def test_sample_is_drawn_and_bounded():
    f, _ = tagger(5, 30)
    seen = set()

    def watched(i, j):
        assert len(i) <= 4
        seen.update(zip(i, j, strict=True))
        return f(i, j)

    found = additive_projection(watched, 30, sample=6, seed=1, batch=4)
    assert len(found.posts) == 6
    assert found.posts == sorted(set(found.posts))
    assert seen == {(i, j) for i in found.posts for j in found.posts}
    assert found.posts != additive_projection(f, 30, sample=6, seed=2).posts
    for posts, sample in ((1, None), (5, 6), (5, 1)):
        with pytest.raises(ValueError, match="sample"):
            additive_projection(f, posts, sample)
