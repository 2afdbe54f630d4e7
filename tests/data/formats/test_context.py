from __future__ import annotations

import json
from pathlib import Path

import pytest

from mner.data.examples import Example
from mner.data.formats.context import attach, find_text, image_key, read_context
from mner.errors import DataFormatError, DataNotFoundError


def write(path: Path, *records: dict[str, object] | str) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def post(id_: str, image_id: str | None = None, context: tuple[str, ...] = ()) -> Example:
    return Example(id_, image_id, ("x",), ("O",), context)


def test_image_key_takes_off_known_suffixes_only():
    names = ["130.jpg", "130.JPEG", "130.png", "130.gif", "130.WebP", "130", "a.b.jpg", "v1.2", ".jpg.jpg"]
    assert [image_key(name) for name in names] == ["130"] * 6 + ["a.b", "v1.2", ".jpg"]


def test_texts_by_image_id(tmp_path):
    texts = read_context(
        write(
            tmp_path / "a.jsonl",
            {"image_id": "101.jpg", "caption": " a dog "},
            {"image_id": "102", "text": "a cat"},
            {"image_id": "103.jpg", "caption": ""},
            {"image_id": "101.jpg", "caption": "a dog"},
        )
    )
    posts = [post("101", "101"), post("b", "102.png"), post("103", "103"), post("104", "104"), post("101", None)]
    assert [texts.find(each) for each in posts] == ["a dog", "a cat", "", "", ""]
    assert dict(texts) == {"101": "a dog", "102": "a cat", "103": ""}
    assert texts["101.jpg"] == "a dog"
    assert len(texts) == 3
    assert "104" not in texts


def test_texts_by_post_id(tmp_path):
    texts = read_context(write(tmp_path / "a.jsonl", {"id": "7", "text": "note"}))
    assert texts.find(post("7", "9.jpg")) == "note"
    assert texts.find(post("8", "7.jpg")) == ""


def test_both_keys_are_kept_apart(tmp_path):
    """Post 7 has image 9 and post 9 has image 7: neither finds the other's text."""
    texts = read_context(
        write(
            tmp_path / "a.jsonl",
            {"id": "7", "image_id": "9.jpg", "caption": "of post 7"},
            {"id": "9", "image_id": "7.jpg", "caption": "of post 9"},
        )
    )
    assert texts.find(post("7", "9.jpg")) == "of post 7"
    assert texts.find(post("9", "7.jpg")) == "of post 9"
    assert texts.find(post("elsewhere", "9.jpg")) == "of post 7"


def test_posts_that_share_an_image(tmp_path):
    records = [{"id": id_, "image_id": "1.jpg", "text": f"note {id_}"} for id_ in "ab"]
    texts = read_context(write(tmp_path / "a.jsonl", *records))
    assert [texts.find(post(id_, "1.jpg")) for id_ in "abc"] == ["note a", "note b", ""]


def test_caption_comes_before_text(tmp_path):
    texts = read_context(write(tmp_path / "a.jsonl", {"id": "1", "text": "the tweet", "caption": "the picture"}))
    assert texts["1"] == "the picture"


def test_plain_lines(tmp_path):
    path = write(tmp_path / "a.txt", "16_05_01_6.jpg :a man : in a \x85 suit", "", "O_8\t:a  flag ", "9.jpg :", "7 :x")
    for content in (path.read_text(encoding="utf-8"), path.read_text(encoding="utf-8").replace("\n", "\r\n") + "\r\n"):
        path.write_bytes(("\ufeff" + content).encode())
        texts = read_context(path)
        ids = ["16_05_01_6", "O_8", "9", "7"]
        assert [texts.find(post(id_, id_)) for id_ in ids] == ["a man : in a \x85 suit", "a  flag", "", "x"]
    assert texts.find(post("16_05_01_6", None)) == ""  # the suffix says that it names an image
    assert texts.find(post("O_8", None)) == "a  flag"


def test_several_files_make_one_source(tmp_path):
    files = [write(tmp_path / f"{n}.jsonl", {"image_id": n, "caption": f"picture {n}"}) for n in "12"]
    assert dict(read_context(*files)) == {"1": "picture 1", "2": "picture 2"}
    files.append(write(tmp_path / "3.txt", "2.jpg :another"))
    with pytest.raises(DataFormatError, match=r"another text for image_id '2' than at .*2\.jsonl:1"):
        read_context(*files)


GOOD = '{"image_id": "1.jpg", "caption": "a"}'


@pytest.mark.parametrize(
    ("lines", "line", "found"),
    [
        ([GOOD, '{"image_id": "1.png", "caption": "b"}'] * 2 + ["1.png :c"], 5, "1.png :c"),
        (["1.jpg :a", "1.png :b", "1.png :c"], 3, "another text for image_id '1.png'"),
        ([GOOD, "", '{"image_id": "1", "caption": "b"}'], 3, "another text for image_id '1'"),
        (['{"id": "1", "text": "a"}', '{"id": "1", "text": "b"}'], 2, "another text for id '1'"),
        (['{"id": "5", "image_id": "1", "text": "b"}', GOOD], 2, "another text for image_id '1'"),
        (["1.jpg :a", "1.jpg :b"], 2, "another text for image_id '1'"),
        ([GOOD, '{"image_id": "2", "captions": "b"}'], 2, "neither 'caption' nor 'text'"),
        ([GOOD, '{"name": "2", "caption": "b"}'], 2, "neither 'id' nor 'image_id'"),
        ([GOOD, '{"image_id": 2, "caption": "b"}'], 2, "a number as 'image_id'"),
        ([GOOD, '{"image_id": "", "caption": "b"}'], 2, "an empty 'image_id'"),
        ([GOOD, '{"image_id": "2", "caption": null}'], 2, "null as 'caption'"),
        ([GOOD, '{"image_id": "2", "caption": ["b"]}'], 2, "a list as 'caption'"),
        ([GOOD, "2.jpg :b"], 2, "2.jpg"),
        ([GOOD, "[1]"], 2, "a list"),
        (["1.jpg :a", "2.jpg b"], 2, "2.jpg b"),
        (["1.jpg :a", " :b"], 2, "' :b'"),
        (["1.jpg :a", "imgid:2###b"], 2, "imgid"),
        (['[{"image_id": "1"}]'], 1, "image_id"),
        ([""], 1, "an empty file"),
    ],
)
def test_wrong_context_names_file_line_and_fault(tmp_path, lines, line, found):
    path = write(tmp_path / "wrong.jsonl", *lines)
    with pytest.raises(DataFormatError) as caught:
        read_context(path)
    assert (caught.value.path, caught.value.line) == (str(path), line)
    assert found in caught.value.found


def test_context_that_is_no_text_file(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"1.jpg :caf\xe9")
    with pytest.raises(DataFormatError, match=r"a\.txt:1: found the byte 0xe9"):
        read_context(tmp_path / "a.txt")
    with pytest.raises(DataNotFoundError, match="absent"):
        read_context(tmp_path / "absent.txt")


def test_attach_appends_in_order_and_counts(tmp_path):
    captions = read_context(write(tmp_path / "a.jsonl", {"image_id": "1.jpg", "caption": "dog"}))
    tags = {"1": "tag one", "2.jpg": "tag two", "4": ""}
    posts = [post("1", "1"), post("2", "2.jpg", ("before",)), post("p", "3"), post("4", None)]
    attached, missing = attach(posts, {"captions": captions, "tags": tags})
    expected = [("dog", "tag one"), ("before", "", "tag two"), ("", ""), ("", "")]
    assert [each.context for each in attached] == expected
    assert missing == {"captions": 3, "tags": 2}
    assert [each.id for each in attached] == [each.id for each in posts]
    assert posts[0].context == ()
    assert attach(posts, {}) == (posts, {})


def test_find_text_in_a_plain_mapping():
    assert find_text({"1": "by post", "9": "by image"}, post("1", "9.jpg")) == "by post"
    assert find_text({"9": "by image"}, post("1", "9.jpg")) == "by image"
    assert find_text({"9.jpg": "by name"}, post("1", "9.jpg")) == "by name"
    assert find_text({"8": "other"}, post("1", "9.jpg")) == ""


def test_two_images_of_one_stem_have_texts_of_their_own(tmp_path):
    texts = read_context(write(tmp_path / "a.txt", "1.jpg :a", "1.png :b", "2.jpg :c", "2.png :c", "1.gif :d"))

    def of(image_id):
        return find_text(texts, Example("post", image_id, ("word",)))

    assert [of("1.jpg"), of("1.png"), of("1.gif"), of("2.jpg"), of("2.png"), of("2")] == ["a", "b", "d", "c", "c", "c"]
    for unclear in ("1", "1.webp"):
        with pytest.raises(DataFormatError, match=r"texts of 1.jpg and 1.png"):
            of(unclear)
