import pytest

from mner.analysis import by_ambiguity, by_overlap, score
from mner.data.examples import Example
from tests.analysis_posts import example, post, random_posts

# In train: Paris is LOC and PER (ambiguous), Apple is ORG only, Rome is LOC only, Obama is PER only.
TRAIN = [
    example("a", "Paris/B-LOC and Paris/B-PER like Apple/B-ORG"),
    example("b", "Rome/B-LOC saw OBAMA/B-PER"),
]
# Gold, with what train knows of it:
#   paris ORG   surface seen (LOC, PER), not as ORG   ambiguous in train
#   apple ORG   seen as ORG only                      and LOC in the second post: ambiguous within the test split
#   apple LOC   surface seen, another type only
#   obama PER   seen as PER only
#   Kiel LOC    unseen
POSTS = [
    post(
        "paris/B-ORG sells apple/B-ORG to Obama/B-PER in Kiel/B-LOC",
        "paris/B-LOC sells apple/B-ORG to Obama/B-PER in Kiel/B-ORG",
        "1",
    ),
    post("the apple/B-LOC of Rome", "the apple/B-ORG of Rome/B-LOC", "2"),
]
COLUMNS = ["gold", "predicted", "correct"]


# Predicted: paris LOC, apple ORG (right), obama PER (right), kiel ORG; apple ORG (wrong), rome LOC.
@pytest.mark.parametrize(
    ("definition", "seen", "unseen"),
    [
        # With this type in train: gold apple ORG, obama; predicted paris LOC, apple ORG twice, obama, rome.
        ("caption", [2, 5, 2], [3, 1, 0]),
        # With any type in train: all but Kiel.
        ("surface", [4, 5, 2], [1, 1, 0]),
        # To the letter: unseen is everything that the evaluated split has.
        ("text", [2, 5, 2], [5, 6, 2]),
    ],
)
def test_overlap_by_each_definition(definition, seen, unseen):
    table = by_overlap(POSTS, TRAIN, definition, resamples=0)
    assert table.loc["seen", COLUMNS].tolist() == seen
    assert table.loc["unseen", COLUMNS].tolist() == unseen


@pytest.mark.parametrize(
    ("definition", "ambiguous", "single", "other"),
    [
        # Several types in train: gold and predicted paris. Only with this type: apple ORG, obama, and predicted rome.
        ("caption", [1, 1, 0], [2, 4, 2], [2, 1, 0]),
        # One type in train, whichever: gold apple LOC too.
        ("surface", [1, 1, 0], [3, 4, 2], [1, 1, 0]),
        # Types within the evaluated split: apple is ORG and LOC; predicted Rome is no gold surface there.
        ("text", [2, 2, 1], [3, 3, 1], [0, 1, 0]),
    ],
)
def test_ambiguity_by_each_definition(definition, ambiguous, single, other):
    table = by_ambiguity(POSTS, TRAIN, definition, resamples=0)
    assert table.loc["ambiguous", COLUMNS].tolist() == ambiguous
    assert table.loc["non-ambiguous", COLUMNS].tolist() == single
    assert table.loc["other", COLUMNS].tolist() == other


def test_recall_and_precision_follow_from_the_counts():
    row = by_overlap(POSTS, TRAIN, resamples=0).loc["seen"]
    assert (row["recall"], row["precision"], row["f1"]) == pytest.approx((1, 2 / 5, 4 / 7))


@pytest.mark.parametrize(("by", "definition"), [(by_overlap, "caption"), (by_overlap, "surface")] + [
    (by_ambiguity, definition) for definition in ("caption", "surface", "text")
])  # fmt: skip
def test_subsets_add_up_to_the_whole(by, definition):
    train = [Example(p.id, None, p.words, p.gold) for p in random_posts(40, seed=0, gold_seed=5)]
    posts = random_posts(40, seed=3)
    whole = score(posts, resamples=0).loc[("lenient", "all"), COLUMNS]
    table = by(posts, train, definition, resamples=0)
    assert table[COLUMNS].sum().tolist() == whole.tolist()
    assert (table["gold"] > 0).sum() >= 2


def test_stray_inside_tags_open_entities_when_lenient_only():
    train = [example("a", "Dr Seuss/I-PER")]
    posts = [post("Seuss/I-PER wrote", "Seuss/I-PER wrote")]
    assert by_overlap(posts, train, resamples=0)["gold"].tolist() == [1, 0]
    assert by_overlap(posts, train, mode="strict", resamples=0)["gold"].tolist() == [0, 0]


def test_text_definition_of_ambiguity_needs_no_train():
    assert by_ambiguity(POSTS, None, "text", resamples=0).loc["ambiguous", "gold"] == 2
    with pytest.raises(ValueError, match="only 'text' does without"):
        by_ambiguity(POSTS, None, "caption")


def test_unknown_definition_and_train_without_tags():
    with pytest.raises(ValueError, match="one of"):
        by_overlap(POSTS, TRAIN, "seen")
    with pytest.raises(ValueError, match="post 'x' has none"):
        by_overlap(POSTS, [Example("x", None, ("a",), None)])
