import pytest

from mner.analysis import by_length, score
from tests.analysis_posts import post, random_posts


def words(count, tag):
    return " ".join(["Kim" + tag, *["x"] * (count - 1)])


def test_buckets_hold_their_last_length():
    posts = [
        post(words(count, "/B-PER"), words(count, tag)) for count, tag in ((1, ""), (7, "/B-PER"), (8, ""), (40, ""))
    ]
    table = by_length(posts, edges=(7, 14), resamples=0)
    assert table.index.tolist() == ["1-7", "8-14", "15+"]
    assert table["posts"].tolist() == [2, 1, 1]
    assert table["correct"].tolist() == [1, 0, 0]
    assert table.loc["1-7", "f1"] == pytest.approx(2 / 3)


def test_buckets_add_up_and_single_lengths_are_named():
    posts = random_posts(50, seed=4)
    table = by_length(posts, edges=(1, 2, 5), resamples=50)
    assert table.index.tolist() == ["1", "2", "3-5", "6+"]
    assert table["posts"].sum() == 50
    whole = score(posts, resamples=0).loc[("lenient", "all")]
    assert table[["gold", "predicted", "correct"]].sum().tolist() == whole[["gold", "predicted", "correct"]].tolist()


@pytest.mark.parametrize("edges", [(), (7, 7), (9, 3), (0, 4)])
def test_edges_must_grow(edges):
    with pytest.raises(ValueError, match="growing"):
        by_length(random_posts(3, seed=0), edges)
