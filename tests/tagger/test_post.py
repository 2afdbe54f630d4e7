"""Posts as a tagger takes them: what is refused, word for word, and how they are put into groups."""

import dataclasses

import pytest
from PIL import Image

from mner.tagger.post import Entity, Post, groups, posts_of

PICTURE = Image.new("RGB", (4, 4))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({}, ValueError, "Expected `text` or `words` of a post, but got neither"),
        ({"text": "a", "words": ["a"]}, ValueError, "Expected `text` or `words` of a post, but got both"),
        ({"text": b"a"}, TypeError, "Expected the text of a post to be a string, but got a bytes"),
        ({"words": ["a", ""]}, ValueError, "Expected words with content, but one is empty"),
        ({"words": "a"}, TypeError, "Expected `words` of a post to be a list of strings, but got a str"),
        ({"words": ["a", 1]}, TypeError, "Expected `words` of a post to be strings, but got a int among them"),
        (
            {"text": "a", "image": [PICTURE, 3]},
            TypeError,
            "Expected an image to be from PIL, the bytes of an image file or the path of one, or a list of those, but "
            "got a int",
        ),
        (
            {"text": "a", "object_names": "dog"},
            TypeError,
            "Expected `object_names` of a post to be a list of strings, but got a str",
        ),
        (
            {"text": "a", "relation": 1.5},
            ValueError,
            "Expected the `relation` of a post to be from 0 to 1, but got 1.5",
        ),
        (
            {"text": "a", "context": {"captions": None}},
            TypeError,
            "Expected `context` of a post to be strings, but got a NoneType among them",
        ),
        (
            {"text": "a", "context": 3},
            TypeError,
            "Expected `context` of a post to be a list of strings, but got a int",
        ),
    ],
)
def test_what_is_refused(given, error, message):
    with pytest.raises(error) as caught:
        Post(**given)
    assert str(caught.value) == message


def test_what_is_no_post():
    with pytest.raises(TypeError) as caught:
        Post.of({"txt": "a", 3: "b"})
    keys = "['context', 'image', 'object_names', 'relation', 'text', 'words']"
    assert str(caught.value) == f"Expected the keys {keys} of a post, but got ['3', 'txt']"
    for wrong in (3, b"Anna", bytearray(b"Anna")):
        with pytest.raises(TypeError) as caught:
            Post.of(wrong)
        forms = "a text, a list of words, a Post or a mapping of its attributes"
        assert str(caught.value) == f"Expected a post ({forms}), but got a {type(wrong).__name__}"
    for beside in ({"image": PICTURE}, {"context": "x"}, {"words": ["a"]}):
        with pytest.raises(ValueError, match="inside of the posts") as caught:
            posts_of(["a"], **beside)
        assert str(caught.value) == (
            "Expected images, contexts and words inside of the posts: Post(text, image=…)"
        )


@pytest.mark.parametrize("relation", [0, 0.0, 1, 0.5])
def test_relations_from_0_to_1(relation):
    assert Post("a", relation=relation).relation == relation


def sizes(pictures, size, ahead):
    """How many posts each group has, of posts with so many pictures each."""
    posts = [Post(str(number), image=[PICTURE] * count) for number, count in enumerate(pictures)]
    found = list(groups(posts, size, ahead))
    assert [post for group in found for post in group] == posts
    return [len(group) for group in found]


def test_groups_hold_no_more_pictures_than_a_batch():
    assert sizes([0] * 7, 2, 3) == [6, 1]
    assert sizes([1] * 5, 2, 3) == [2, 2, 1]
    assert sizes([1, 0, 0, 1, 0, 2, 3, 0], 2, 3) == [4, 2, 1, 1]
    assert sizes([], 2, 3) == []


def test_a_record_is_what_dataclasses_make_of_an_entity():
    entity = Entity("Old Town", "LOC", 12, 20, 0.93, 2, 4)
    assert entity.record() == dataclasses.asdict(entity)
    assert list(entity.record()) == list(dataclasses.asdict(entity))
