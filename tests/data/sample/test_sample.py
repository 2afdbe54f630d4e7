"""The sample data: files in the true formats, types that the text hides and the picture shows, a known ceiling."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mner.data.sample.texts as sample
from mner.data.examples import Example
from mner.data.formats.conll import read_conll
from mner.data.formats.context import read_context
from mner.data.sample.scenes import SIZE, draw_scene
from mner.data.sample.texts import AMBIGUOUS, SPLITS, TYPES, text_ceiling, write_sample
from mner.labels import Span, spans

# A word of the caption that belongs to the pictures of one type only.
SHOWN = {
    "PER": {"man", "woman", "person", "people"},
    "LOC": {"mountains", "buildings", "palm"},
    "ORG": {"shop", "logo"},
    "MISC": {"dog", "cup", "record"},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "default"
    write_sample(folder)
    return folder


@pytest.fixture(scope="module")
def posts(root) -> dict[str, list[Example]]:
    return {split: read_conll(root / f"{split}.txt") for split in SPLITS}


def surface(post: Example, span: Span) -> str:
    return " ".join(post.words[span.start : span.end])


def entities(posts: list[Example]) -> list[tuple[Example, Span, bool]]:
    """Post, entity, and whether its name is ambiguous."""
    return [(post, span, surface(post, span) in AMBIGUOUS) for post in posts for span in spans(post.tags or ())]


def content(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# Files


def test_the_same_arguments_make_the_same_files(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_sample(tmp_path / name, 20, 10, 10, seed=seed)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert not set(content(tmp_path / "a").values()) & set(content(tmp_path / "c").values())


def test_text_is_what_it_was(root):
    """Cached folders are told apart by `VERSION`: raise it, and put the new values here, when the posts change."""
    digest = hashlib.sha256(b"".join((root / f"{split}.txt").read_bytes() for split in SPLITS)).hexdigest()
    assert (sample.VERSION, digest[:16]) == (1, "19818c8f37c0f358")


def test_sizes_and_ids(posts):
    assert [len(posts[split]) for split in SPLITS] == [600, 240, 240]
    everything = [post for split in SPLITS for post in posts[split]]
    assert len({post.image_id for post in everything}) == len(everything)
    assert len({post.words for post in everything}) == len(everything)


def test_images_and_captions(root, posts):
    captions = read_context(root / "captions.jsonl")
    for split in SPLITS:
        missing = [post for post in posts[split] if not (root / "images" / f"{post.image_id}.jpg").exists()]
        assert 1 <= len(missing) <= 0.05 * len(posts[split])
        assert not any(ambiguous for _, _, ambiguous in entities(missing))
        assert {post.image_id for post in posts[split]} - captions.keys() == {post.image_id for post in missing}
    files = list((root / "images").iterdir())
    assert {path.stem for path in files} == captions.keys()
    for path in files[::50]:
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (SIZE, SIZE))


def test_posts_look_like_tweets(posts):
    for split in SPLITS:
        words = {word for post in posts[split] for word in post.words}
        assert {"#", "@user", "RT"} <= words
        assert any(word.startswith("https://") for word in words)
        assert words & set(sample._EMOJI)
        counts = Counter(len(spans(post.tags or ())) for post in posts[split])
        assert set(counts) == {0, 1, 2}
        assert counts[1] > counts[2] > counts[0] > 0
        lengths = {span.end - span.start for _, span, _ in entities(posts[split])}
        assert lengths == {1, 2, 3}


@pytest.mark.parametrize("size", [1, 2, 7])
def test_small_sizes(tmp_path, size):
    write_sample(tmp_path / "small", size, size, size)
    assert [len(read_conll(tmp_path / "small" / f"{split}.txt")) for split in SPLITS] == [size] * 3


@pytest.mark.parametrize("split", SPLITS)
def test_no_posts_are_refused(tmp_path, split):
    with pytest.raises(ValueError, match=f"`{split}` to be at least 1, but got 0"):
        write_sample(tmp_path / "none", **{split: 0})
    assert list(tmp_path.iterdir()) == []


# All or nothing, once


def test_a_made_folder_is_left_as_it_is(tmp_path, monkeypatch):
    write_sample(tmp_path / "a", 2, 2, 2)
    before = content(tmp_path / "a")
    monkeypatch.setattr(sample, "_fill", lambda *_: pytest.fail("written again"))
    write_sample(tmp_path / "a", 2, 2, 2)
    assert content(tmp_path / "a") == before


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "a").mkdir()
    write_sample(tmp_path / "a", 2, 2, 2)
    assert (tmp_path / "a" / "train.txt").is_file()


def test_something_else_is_not_overwritten(tmp_path):
    write_sample(tmp_path / "a", 2, 2, 2)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("mine")
    (tmp_path / "c").write_text("mine")
    before = content(tmp_path)
    for name, size in (("a", 3), ("b", 2), ("c", 2)):
        with pytest.raises(FileExistsError, match="choose another folder or remove it"):
            write_sample(tmp_path / name, size, 2, 2)
    assert content(tmp_path) == before


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    drawn = []

    def fail_at_third(type_: str, seed: str) -> tuple[Image.Image, str]:
        drawn.append(type_)
        if len(drawn) == 3:
            raise OSError("disk full")
        return draw_scene(type_, seed)

    monkeypatch.setattr(sample, "draw_scene", fail_at_third)
    with pytest.raises(OSError, match="disk full"):
        write_sample(tmp_path / "deep" / "a", 9, 2, 2)
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.parametrize(("theirs", "error"), [(2, None), (3, FileExistsError)])
def test_another_process_is_faster(tmp_path, monkeypatch, theirs, error):
    fill = sample._fill

    def fill_slowly(*args) -> None:
        monkeypatch.setattr(sample, "_fill", fill)
        write_sample(tmp_path / "a", theirs, 2, 2)
        fill(*args)

    monkeypatch.setattr(sample, "_fill", fill_slowly)
    if error:
        with pytest.raises(error):
            write_sample(tmp_path / "a", 2, 2, 2)
    else:
        write_sample(tmp_path / "a", 2, 2, 2)
    assert len(read_conll(tmp_path / "a" / "train.txt")) == theirs
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# What the text tells


@pytest.mark.parametrize("split", SPLITS)
def test_every_ambiguous_name_has_every_type_equally_often(posts, split):
    counts = Counter((surface(post, span), span.type) for post, span, ambiguous in entities(posts[split]) if ambiguous)
    assert counts.keys() == {(name, type_) for name in AMBIGUOUS for type_ in TYPES}
    assert len(set(counts.values())) == 1


def test_types_are_balanced_in_splits_of_any_size(tmp_path):
    write_sample(tmp_path / "a", 100, 37, 11, seed=3)
    for split in SPLITS:
        found = entities(read_conll(tmp_path / "a" / f"{split}.txt"))
        counts = Counter(span.type for _, span, ambiguous in found if ambiguous)
        assert max(counts[type_] for type_ in TYPES) - min(counts[type_] for type_ in TYPES) <= 2


def test_words_tell_clear_types_and_no_others(posts):
    """Naive Bayes over the entity's words and those around it, from train to valid."""

    def bag(post: Example, span: Span) -> list[str]:
        return [*(f"name {word}" for word in post.words[span.start : span.end]), *post.words]

    counts: dict[bool, dict[str, Counter[str]]] = {
        kind: {type_: Counter() for type_ in TYPES} for kind in (False, True)
    }
    for post, span, ambiguous in entities(posts["train"]):
        counts[ambiguous][span.type].update(bag(post, span))
    right: dict[bool, list[bool]] = {False: [], True: []}
    for post, span, ambiguous in entities(posts["valid"] + posts["test"]):
        score = {
            type_: sum(np.log((seen[word] + 0.5) / (seen.total() + 500)) for word in bag(post, span))
            for type_, seen in counts[ambiguous].items()
        }
        right[ambiguous].append(max(score, key=score.__getitem__) == span.type)
    assert np.mean(right[False]) > 0.95
    assert 0.15 < np.mean(right[True]) < 0.35  # chance is 0.25, its standard error here 0.026


# What the picture tells


def test_the_picture_shows_the_ambiguous_one(root, posts):
    captions = read_context(root / "captions.jsonl")
    checked = 0
    for split in SPLITS:
        for post, span, ambiguous in entities(posts[split]):
            if ambiguous:
                words = set(captions[post.image_id].split())
                assert [type_ for type_ in TYPES if words & SHOWN[type_]] == [span.type]
                checked += 1
    assert checked == 648


def test_pixels_tell_the_type():
    """A linear classifier on thumbnails: far above chance, without any learned feature."""

    def features(image: Image.Image) -> np.ndarray:
        colours = np.asarray(image.resize((12, 12), Image.Resampling.BOX), dtype=float) / 255
        grey = np.asarray(image.convert("L").resize((48, 48)), dtype=float) / 255
        edges = np.abs(np.diff(grey, axis=1, append=0)).reshape(12, 4, 12, 4).mean((1, 3))
        return np.concatenate([(colours - colours.mean((0, 1))).ravel(), edges.ravel(), [1.0]])

    def drawn(count: int, name: str) -> tuple[np.ndarray, np.ndarray]:
        images = [draw_scene(TYPES[number % 4], f"{name} {number}")[0] for number in range(count)]
        return np.stack([features(image) for image in images]), np.arange(count) % 4

    known, types = drawn(320, "known")
    weights = np.linalg.solve(known.T @ known + np.eye(known.shape[1]), known.T @ np.eye(4)[types])
    new, gold = drawn(120, "new")
    assert np.mean((new @ weights).argmax(1) == gold) > 0.75


def test_pictures_vary():
    images = [draw_scene(type_, str(number)) for type_ in TYPES for number in range(25)]
    assert len({image.tobytes() for image, _ in images}) == 100
    assert len({caption for _, caption in images}) > 50
    for type_ in TYPES:
        kinds = {word for number in range(40) for word in draw_scene(type_, str(number))[1].split()}
        assert SHOWN[type_] <= kinds
        assert not any(kinds & SHOWN[other] for other in TYPES if other != type_)


def test_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match=r"one of .*'PER'.*, but got 'OTHER'"):
        draw_scene("OTHER", "0")


# The ceiling


def test_ceiling_by_hand():
    clear = Example("1", None, ("hi", "Fenna"), ("O", "B-PER"))
    hidden = Example("2", None, ("hi", "Golden", "Tessel"), ("O", "B-ORG", "I-ORG"))
    assert text_ceiling([clear]) == 1
    assert text_ceiling([hidden]) == 0.25
    assert text_ceiling([clear] + [hidden] * 3) == pytest.approx(max((1 + 3 / 4) / 4, 2 / 5))  # guessing is better
    assert text_ceiling([clear, hidden]) == pytest.approx(max((1 + 1 / 4) / 2, 2 / 3))  # leaving out is better
    assert text_ceiling([Example("3", None, ("hi",), ("O",)), Example("4", None, ("hi",))]) == 0


@pytest.mark.parametrize("split", SPLITS)
def test_ceiling_leaves_room(posts, split):
    assert 0.55 < text_ceiling(posts[split]) < 0.65


def test_ceiling_by_simulation(posts):
    """Models that know all but the ambiguous types, and guess at all, half or none of those."""
    rng = random.Random(0)
    found = entities(posts["valid"])

    def mean_f1(share: float, rounds: int = 400) -> float:
        total = 0.0
        for _ in range(rounds):
            made = [(span, ambiguous) for _, span, ambiguous in found if not ambiguous or rng.random() < share]
            right = sum(not ambiguous or rng.choice(TYPES) == span.type for span, ambiguous in made)
            total += 2 * right / (len(made) + len(found))
        return total / rounds

    clear = sum(not ambiguous for _, _, ambiguous in found)
    guessing, half, leaving = mean_f1(1), mean_f1(0.5), mean_f1(0)
    assert guessing == pytest.approx((clear + (len(found) - clear) / 4) / len(found), abs=0.005)
    assert max(guessing, half, leaving) == pytest.approx(text_ceiling(posts["valid"]), abs=0.005)
    assert half < max(guessing, leaving)
