import pytest

from mner.analysis import caption_quality, score
from mner.analysis.alignment import NotComparableError
from tests.analysis_posts import post, random_posts

TEXT = [
    post("a/B-PER", "a/B-PER", "1"),
    post("b/B-PER c/B-LOC", "b c", "2"),
    post("d", "d", "3"),
    post("e/B-PER", "e", "4"),
]
CAPTIONS = [
    post("a/B-PER", "a/B-LOC", "1"),
    post("b/B-PER c/B-LOC", "b/B-PER c/B-LOC", "2"),
    post("d", "d/B-LOC", "3"),
    post("e/B-PER", "e", "4"),
]
BETTER = [post("a/B-PER", "a/B-PER", "1"), *CAPTIONS[1:]]


def test_subsets_and_scores_by_hand():
    table = caption_quality(TEXT, CAPTIONS, {"better": BETTER})
    only_text, only_captions = table.loc["only text only right"], table.loc["only captions right"]
    assert only_text["posts"].tolist() == [2, 2, 2]  # posts 1 and 3; nobody gets 4 right
    assert only_text[["gold", "predicted", "correct"]].to_numpy().tolist() == [[1, 1, 1], [1, 2, 0], [1, 2, 1]]
    assert only_captions["posts"].tolist() == [1, 1, 1]
    assert only_captions["f1"].tolist() == [0, 1, 1]
    assert table.loc[("all posts", "text only"), "f1"] == pytest.approx(2 / 5)


def test_the_right_system_scores_perfectly_where_it_is_right():
    one, two = random_posts(60, seed=1), random_posts(60, seed=2)
    table = caption_quality(one, two, names=("A", "B"))
    assert table.loc[("only A right", "A"), "f1"] == 1
    assert table.loc[("only B right", "B"), "f1"] == 1
    assert table.loc[("only A right", "B"), "f1"] < 1
    assert table.loc[("all posts", "B"), "f1"] == pytest.approx(score(two, resamples=0)["f1"].iloc[0])


def test_names_and_posts_must_fit():
    with pytest.raises(ValueError, match="distinct names"):
        caption_quality(TEXT, CAPTIONS, {"captions": BETTER})
    with pytest.raises(NotComparableError):
        caption_quality(TEXT, CAPTIONS[:-1])
