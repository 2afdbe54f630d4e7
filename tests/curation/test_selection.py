"""What to annotate next: entropy and disagreement by hand, unlike posts, and a file that is read as posts."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import entropy as entropy_of_scipy

from mner.cli import main
from mner.curation.posteriors import Posteriors, posteriors_by
from mner.curation.selection import choose, lines, post_vectors, uncertainty, unlike
from mner.data.examples import Example
from mner.data.formats.posts import read_posts
from mner.errors import MNERError
from mner.fusion import Concatenation, TextOnly
from mner.tagger import Tagger
from tests.conftest import WORDS
from tests.tagging import save_checkpoint

LABELS = ["O", "B-PER", "I-PER"]


def some_posteriors(seed, words=5):
    return np.random.default_rng(seed).dirichlet([0.5] * 3, words)


def test_uncertainty_is_that_of_scipy():
    several = [some_posteriors(seed) for seed in range(3)]
    whole, part = uncertainty(several)
    middle = np.mean(several, axis=0)
    assert np.allclose(whole, entropy_of_scipy(middle, axis=1))
    divergences = [entropy_of_scipy(one, middle, axis=1) for one in several]
    assert np.allclose(part, np.mean(divergences, axis=0))
    assert np.allclose(uncertainty(several[:1])[1], 0)


@pytest.mark.parametrize("seed", range(3))
def test_unlike_rows_by_brute_force(seed):
    rows = np.random.default_rng(seed).normal(size=(12, 4))
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    chosen = [0]
    for place, distance in unlike(rows, 12)[1:]:
        nearest = {row: min(1 - units[row] @ units[one] for one in chosen) for row in set(range(12)) - set(chosen)}
        assert place == max(nearest, key=nearest.get)
        assert distance == pytest.approx(nearest[place])
        chosen.append(place)
    assert sorted(chosen) == list(range(12))
    assert unlike(rows, 1, known=rows[:6])[0][0] >= 6


def test_ranking():
    posts = [Example(str(n), None, ("a", "b")) for n in range(4)]
    flat, sharp = np.full((2, 3), 1 / 3), np.array([[1.0, 0, 0]] * 2)
    other = np.array([[0, 1.0, 0]] * 2)
    first = Posteriors(LABELS, {"0": sharp, "1": flat, "2": sharp, "3": (flat + sharp) / 2})
    second = Posteriors(LABELS, {"0": sharp, "1": flat, "2": other, "3": (flat + sharp) / 2})
    assert [one.post.id for one in choose(posts, [first, second], "entropy", 3)] == ["1", "3", "2"]
    assert choose(posts, [first, second], "disagreement")[0].post.id == "2"
    both = choose(posts, [first, second], "both", 1)
    assert both[0].post.id == "2"
    assert both[0].score == pytest.approx(2 * np.log(2))
    assert choose(posts, [first], "entropy")[0].word == "a"
    with pytest.raises(MNERError, match="two checkpoints or more"):
        choose(posts, [first], "disagreement")
    # of posts that say the same, one is enough
    vectors = np.array([[1.0, 0], [1.0, 0], [0, 1.0], [1.0, 0.1]])
    assert [one.post.id for one in choose(posts, [first, second], "entropy", 2, vectors)] == ["1", "2"]


def test_the_file_is_read_as_posts(tmp_path):
    posts = [Example("1", "a", ("In", "Oslo"), more_images=("b",)), Example("2", None, ("x",))]
    said = Posteriors(LABELS, {"1": some_posteriors(0, 2), "2": some_posteriors(1, 1)})
    path = tmp_path / "next.jsonl"
    path.write_text(lines(choose(posts, [said])), encoding="utf-8")
    assert sorted(read_posts(path), key=lambda post: post.id) == posts
    first = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    assert {"score", "entropy", "disagreement", "why", "rank", "text", "meta"} <= set(first)


@pytest.fixture
def models(tmp_path, posts_folder, bert_folder):
    options = {"image_encoder": "test_resnet", "image_weights": None, "images": "images"}
    return save_checkpoint(tmp_path / "a.ckpt", Concatenation, posts_folder, bert_folder, **options)


def test_the_command(tmp_path, posts_folder, models, capsys):
    rows = [{"id": f"2{n}", "image_id": f"2{n}", "tokens": words} for n, (words, _) in enumerate(WORDS)]
    rows.append({"id": "gold", "tokens": ["a"], "label": ["O"]})
    posts, out = tmp_path / "p.jsonl", tmp_path / "next.jsonl"
    posts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["data", "next", str(models), str(models), str(posts), "--out", str(out), "--count", "4"]
    assert main([*arguments, "--images", str(posts_folder / "images")]) == 0
    assert "4 of 6 posts written" in (said := capsys.readouterr().out)
    assert "1 with labels left out" in said
    chosen = read_posts(out)
    assert len(chosen) == 4
    assert all(post.image_id == post.id and post.tags is None for post in chosen)
    assert main(["data", "convert", str(out), str(tmp_path / "t.json"), "--format", "label_studio"]) == 0
    assert [post.words for post in read_posts(tmp_path / "t.json")] == [post.words for post in chosen]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["p.jsonl"], "Expected CHECKPOINT… POSTS"),
        (["a.ckpt", "p.jsonl", "--count", "0"], "--count of at least 1"),
        (["a.ckpt", "p.jsonl"], "all 1 posts have labels"),
    ],
)
def test_bad_arguments_are_one_line(tmp_path, monkeypatch, arguments, error, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_text('{"id": "1", "tokens": ["a"], "label": ["O"]}\n')
    assert main(["data", "next", *arguments]) == 2
    said = capsys.readouterr().err
    assert error in said
    assert said.count("\n") == 1


def test_posteriors_of_a_tagger_are_its_own(tmp_path, posts_folder, bert_folder):
    """Long posts, in windows, too: the labels that a tagger gives are the likeliest of what is said here."""
    path = save_checkpoint(tmp_path / "a.ckpt", TextOnly, posts_folder, bert_folder, max_length=16)
    tagger = Tagger.from_checkpoint(path)
    posts = [Example(str(n), None, tuple(words * (1 + 9 * (n == 1)))) for n, (words, _) in enumerate(WORDS)]
    said = posteriors_by(path, posts)
    assert {id_: len(rows) for id_, rows in said.of.items()} == {post.id: len(post.words) for post in posts}
    assert all(np.allclose(rows.sum(1), 1, atol=1e-5) for rows in said.of.values())
    for post in posts:
        tagged = tagger(words=post.words)
        for entity in tagged:
            if entity.word_end - entity.word_start == 1 == len(post.words):
                assert said.of[post.id][0].max() == pytest.approx(entity.score, abs=1e-4)
        alone = posteriors_by(path, [post]).of[post.id]
        assert np.allclose(alone, said.of[post.id], atol=1e-5)
    vectors = post_vectors(tagger, posts)
    assert vectors.shape == (len(posts), 32)
    assert np.isfinite(vectors).all()
