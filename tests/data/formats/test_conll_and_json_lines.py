from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mner.data.examples import Example, fingerprint
from mner.data.formats.conll import read_conll, write_conll
from mner.data.formats.json_lines import read_jsonl, write_jsonl
from mner.data.formats.posts import read_posts
from mner.data.formats.schemes import is_iob1
from mner.data.sources import find_context, find_images, find_splits
from mner.errors import DataFormatError, DataNotFoundError
from mner.labels import repair

TWO_POSTS = "IMGID:7\nIn\tO\nOslo\tB-LOC\n\nIMGID:O_8\nhi\tO\n"
EXPECTED = [Example("7", "7", ("In", "Oslo"), ("O", "B-LOC")), Example("O_8", "O_8", ("hi",), ("O",))]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        TWO_POSTS,
        TWO_POSTS + "\n",
        TWO_POSTS.removesuffix("\n"),
        TWO_POSTS.replace("\n", "\r\n"),
        "\ufeff" + TWO_POSTS,
        "\n\n" + TWO_POSTS.replace("\n\n", "\n\n\n"),
        TWO_POSTS.replace("\n\n", "\n"),
        TWO_POSTS.replace("IMGID:7", "IMGID: 7 "),
    ],
    ids=["plain", "blank end", "no line end", "CRLF", "BOM", "many blanks", "no blank", "spaces at id"],
)
def test_conll_quirks_load(tmp_path, content):
    assert read_conll(write(tmp_path / "a.txt", content)) == EXPECTED


def test_tags_of_another_scheme_leave_the_post_as_it_is(tmp_path):
    record = {"id": "1", "image_ids": ["7", "8", "9"], "tokens": ["Oslo", "x"], "label": ["S-LOC", "O"]}
    (found,) = read_jsonl(write(tmp_path / "a.jsonl", json.dumps(record)))
    assert found == Example("1", "7", ("Oslo", "x"), ("B-LOC", "O"), more_images=("8", "9"))
    given = Example("1", "7", ("Oslo",), ("S-LOC",), ("a caption",), more_images=("8",))
    assert read_posts(tmp_path / "a.jsonl", lambda path: [given]) == [replace(given, tags=("B-LOC",))]


@pytest.mark.parametrize("word", ["\xa0", "\u2028", "\x85", "\x0b", "\x1c", "\ufe0f", " ", "a b", "IMGID:7", "#", "\r"])
def test_conll_splits_at_tab_and_newline_only(tmp_path, word):
    posts = read_conll(write(tmp_path / "a.txt", f"IMGID:1\n{word}\tO\nx\tB-PER\n"))
    assert posts == [Example("1", "1", (word, "x"), ("O", "B-PER"))]


def test_stray_inside_is_kept(tmp_path):
    content = "IMGID:1\nSeuss\tI-PER\n\nIMGID:2\nBo\tB-PER\n"
    assert [post.tags for post in read_conll(write(tmp_path / "a.txt", content))] == [("I-PER",), ("B-PER",)]


@pytest.mark.parametrize(
    ("content", "line", "found"),
    [
        ("IMGID:1\na\tO\nb\tX-PER\n", 3, "'X-PER'"),
        ("IMGID:1\na\tB-\n", 2, "'B-'"),
        ("IMGID:1\na\to\n", 2, "'o'"),
        ("IMGID:1\na\tB-PER \n", 2, "'B-PER '"),
        ("IMGID:1\na\t\n", 2, "''"),
        ("IMGID:1\na\tO\nb\n", 3, "1 column in 'b'"),
        ("IMGID:1\na O\nb\n", 3, "1 column in 'b'"),
        ("IMGID:1\na\n", 2, "1 column in 'a'"),
        ("IMGID:1\na\tO\n \n", 3, "1 column in ' '"),
        ("IMGID:1\na\tO\nb\tO\nc\tO\tO\n", 4, "3 columns"),
        ("IMGID:1\na\tB-X\tB-Y\n", 2, "tags in column 2 and in column 3"),
        ("IMGID:1\n\tO\n", 2, "no word"),
        ("a\tO\n\nIMGID:1\nb\tO\n", 1, "'a\\tO'"),
        ("IMGID:1\na\tO\n\nb\tO\n", 4, "'b\\tO'"),
        ("IMGID:\na\tO\n", 1, "without an id"),
        ("IMGID:1\n\na\tO\n", 1, "post '1' without words"),
        ("IMGID:1\nIMGID:2\na\tO\n", 1, "post '1' without words"),
        ("IMGID:1\na\tO\n\nIMGID:2\nb\tO\n\nIMGID:1\na\tO\n", 7, "the id '1' again, after line 1"),
        ("", 1, "an empty file"),
        ("\n\n", 1, "an empty file"),
        ("\ufeff", 1, "an empty file"),
        ('{"id": "1"}\n', 1, "{"),
        (b"IMGID:1\na\tO\ncaf\xe9\tO\n", 3, "0xe9"),
        (b"\xef\xbb\xbfIMGID:1\na\tO\ncaf\xe9\tO\n", 3, "0xe9"),
        ("IMGID:1\na\tO\n".encode("utf-16"), 1, "not UTF-8"),
    ],
)
def test_wrong_conll_names_file_line_and_fault(tmp_path, content, line, found):
    path = write(tmp_path / "wrong.txt", content)
    with pytest.raises(DataFormatError) as caught:
        read_conll(path)
    assert (caught.value.path, caught.value.line) == (str(path), line)
    assert found in caught.value.found
    assert f"wrong.txt:{line}: found" in str(caught.value)
    assert caught.value.expected


@pytest.mark.parametrize(
    ("content", "words", "tags"),
    [
        ("In O\nOslo B-LOC\n", ("In", "Oslo"), ("O", "B-LOC")),
        ("In   O\nOslo  B-LOC\n   \n", ("In", "Oslo"), ("O", "B-LOC")),
        ("B-LOC\tOslo\nO\tis\n", ("Oslo", "is"), ("B-LOC", "O")),
        ("# text = In Oslo\n# O\nOslo B-LOC\n", ("#", "Oslo"), ("O", "B-LOC")),
        ("-DOCSTART- -X- -X- O\n\nEU NNP I-NP I-ORG\nand CC O O\nRome NNP I-NP I-LOC\n", ("EU", "and", "Rome"),
         ("B-ORG", "O", "B-LOC")),
        ("-DOCSTART- -X- O\nNew York -X- _ B-LOC\n! -X- _ O\n", ("New York", "!"), ("B-LOC", "O")),
        ("New York B-LOC\nis O\nbig O\n", ("New York", "is", "big"), ("B-LOC", "O", "O")),
        ("1\tOslo\tB-LOC\tO\n2\tis\tO\tO\n", ("Oslo", "is"), ("O", "O")),
    ],
    ids=["spaces", "many spaces", "tag first", "comment", "2003", "Label Studio", "blanks", "numbered"],
)  # fmt: skip
def test_conll_in_all_its_shapes(tmp_path, content, words, tags):
    if content.startswith("1"):  # two columns of tags: which is meant has to be said
        with pytest.raises(DataFormatError, match=r"fields=\{'tags': '3'\}"):
            read_posts(write(tmp_path / "a.txt", content))
        (post,) = read_posts(write(tmp_path / "a.txt", content), fields={"tags": "4"})
    else:
        (post,) = read_posts(write(tmp_path / "a.txt", content))
    assert post == Example("a/1", None, words, tags)


def test_ids_and_images_of_comments(tmp_path):
    path = write(tmp_path / "a.conll", "# id = 7\n# image = x.jpg\nIn O\n\n# id 8 domain=en\nOslo B-LOC\n")
    assert [(post.id, post.image_id) for post in read_conll(path)] == [("7", "x.jpg"), ("8", None)]


def test_posts_of_one_image(tmp_path):
    path = write(tmp_path / "a.txt", "IMGID:1\na\tO\n\nIMGID:2\na\tO\n\nIMGID:1\nb\tO\n\nIMGID:1\nc\tO\n")
    posts = read_conll(path)
    assert [(post.id, post.image_id) for post in posts] == [("1", "1"), ("2", "2"), ("1#2", "1"), ("1#3", "1")]
    assert posts.notes == ("2 posts of an image that has another one, numbered ID#2 …",)
    write_conll(tmp_path / "b.txt", posts)
    assert read_conll(tmp_path / "b.txt") == posts


def record(**changes: object) -> str:
    fields = {"id": "130", "image_id": "130.jpg", "tokens": ["In", "Oslo"], "label": ["O", "B-LOC"], **changes}
    return json.dumps({key: value for key, value in fields.items() if value != "absent"})


def test_jsonl_loads(tmp_path):
    lines = [
        record(),
        record(id="131", image_id=None, label=None),
        record(id="132", image_id="absent", label="absent", text="In Oslo"),
    ]
    for content in ("\n".join(lines), "\r\n".join(lines) + "\r\n\r\n", "\ufeff" + "\n\n".join(lines) + "\n"):
        assert read_jsonl(write(tmp_path / "a.jsonl", content)) == [
            Example("130", "130.jpg", ("In", "Oslo"), ("O", "B-LOC")),
            Example("131", None, ("In", "Oslo"), None),
            Example("132", None, ("In", "Oslo"), None),
        ]


def test_jsonl_line_separator_inside_a_word(tmp_path):
    line = json.dumps({"id": "1", "tokens": ["a\u2028b", "\x85"]}, ensure_ascii=False)
    assert read_jsonl(write(tmp_path / "a.jsonl", line))[0].words == ("a\u2028b", "\x85")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (record(label=["O"]), "2 tokens and 1 tags"),
        (record(label=[]), "2 tokens and 0 tags"),
        (record(label=["O", "LOC"]), "'LOC'"),
        (record(label=["O", 1]), "a number among 'label'"),
        (record(label={"O": 1}), "an object as 'label'"),
        (record(label="absent", labels=["O", "O"]), "tags under 'labels'"),
        (record(tokens="In Oslo"), "a string as 'tokens'"),
        (record(tokens=["In", None]), "null among 'tokens'"),
        (record(tokens="absent"), "no 'tokens'"),
        (record(tokens=[], label=[]), "without words"),
        (record(tokens=["In", ""]), "an empty word"),
        (record(id=130), "a number as 'id'"),
        (record(id=""), "an empty 'id'"),
        (record(id=None), "null as 'id'"),
        (record(id="absent"), "no 'id'"),
        (record(image_id=130), "a number as 'image_id'"),
        (record(id="first"), "the id 'first' again, after line 1"),
        (record()[:-5], "Unterminated string starting at, column 79"),
        ("[" + record() + "]", "a list"),
        ("7", "a number"),
        ("IMGID:7", "Expecting"),
        pytest.param("[" * 100_000, "recursion", id="deep"),
        ('{"id": "1", "tokens": ["\\ud83d"]}', "surrogate"),
    ],
)
def test_wrong_jsonl_names_file_line_and_fault(tmp_path, line, found):
    path = write(tmp_path / "wrong.jsonl", record(id="first") + "\n" + line + "\n")
    with pytest.raises(DataFormatError) as caught:
        read_jsonl(path)
    assert (caught.value.path, caught.value.line) == (str(path), 2)
    assert found in caught.value.found
    assert len(str(caught.value)) < 600


def test_wrong_jsonl_as_a_whole(tmp_path):
    with pytest.raises(DataFormatError, match=r"a\.jsonl:1: found an empty file"):
        read_jsonl(write(tmp_path / "a.jsonl", ""))
    with pytest.raises(DataFormatError, match=r"a\.jsonl:2: found the byte 0xff"):
        read_jsonl(write(tmp_path / "a.jsonl", record().encode() + b"\n\xff"))


@pytest.mark.parametrize("read", [read_conll, read_jsonl, read_posts])
def test_missing_file(tmp_path, read):
    with pytest.raises(DataNotFoundError, match=r"absent\.txt"):
        read(tmp_path / "absent.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(DataNotFoundError, match="is a folder"):
        read(tmp_path / "folder.txt")


def test_read_posts_goes_by_suffix(tmp_path):
    for suffix in (".txt", ".conll", ".TXT"):
        assert read_posts(write(tmp_path / f"a{suffix}", TWO_POSTS)) == EXPECTED
    for suffix in (".jsonl", ".json"):
        assert read_posts(write(tmp_path / f"a{suffix}", record()))[0].image_id == "130.jpg"
    assert read_posts(write(tmp_path / "a.csv", TWO_POSTS)) == EXPECTED  # by its content, whatever it is called


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4)
tag = st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])


@st.composite
def examples(draw: st.DrawFn, conll: bool) -> list[Example]:
    found = []
    for id_ in draw(st.lists(text, min_size=1, max_size=4, unique=True)):
        rows = draw(st.lists(st.tuples(text, tag), min_size=1, max_size=5))
        words, tags = zip(*rows, strict=True)
        if conll:
            found.append(Example(id_, id_, words, tags))
        else:
            image_id, gold = draw(st.none() | text), draw(st.booleans())
            found.append(Example(id_, image_id, words, tags if gold else None))
    return found


def as_read(posts):
    """Posts whose tags happen to be IOB1 come back as IOB2."""
    iob1 = is_iob1(post.tags for post in posts if post.tags)
    return [replace(post, tags=tuple(repair(post.tags))) if iob1 and post.tags else post for post in posts]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(posts=examples(conll=False))
def test_jsonl_round_trip(tmp_path, posts):
    write_jsonl(tmp_path / "a.jsonl", posts)
    assert read_jsonl(tmp_path / "a.jsonl") == as_read(posts)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(posts=examples(conll=True))
def test_conll_round_trip(tmp_path, posts):
    """What can be written comes back; what could not come back is refused."""
    fields = [field for post in posts for field in (post.id, *post.words)]
    expressible = not any(character in field for field in fields for character in "\t\n")
    expressible = expressible and all(post.id == post.id.strip(" \r") for post in posts)
    if expressible:
        write_conll(tmp_path / "a.txt", posts)
        assert read_conll(tmp_path / "a.txt") == as_read(posts)
    else:
        with pytest.raises(ValueError, match="use json_lines"):
            write_conll(tmp_path / "a.txt", posts)


@pytest.mark.parametrize(
    "post",
    [
        Example("1", "1", ("a",), None),
        Example("1", "1", ("a",), ("O", "O")),
        Example("1", "1", (), ()),
        Example("1", "2.jpg", ("a",), ("O",)),
        Example(" 1", " 1", ("a",), ("O",)),
        Example("1", "1", ("",), ("O",)),
    ],
)
def test_write_conll_refuses_what_it_cannot_say(tmp_path, post):
    with pytest.raises(ValueError, match="use json_lines"):
        write_conll(tmp_path / "a.txt", [post])


def test_write_conll_bytes(tmp_path):
    write_conll(tmp_path / "a.txt", [EXPECTED[0], Example("8", "8.jpg", ("hi",), ("O",))])
    assert (tmp_path / "a.txt").read_bytes() == b"IMGID:7\nIn\tO\nOslo\tB-LOC\n\nIMGID:8\nhi\tO\n"


def test_fingerprint():
    assert fingerprint(EXPECTED) == fingerprint(iter(EXPECTED))
    assert len(fingerprint(EXPECTED)) == 16
    other_words = [Example("7", "7.jpg", ("in", "oslo"), ("O", "B-LOC")), EXPECTED[1]]
    assert fingerprint(other_words) == fingerprint(EXPECTED)
    variants = [
        EXPECTED,
        EXPECTED[::-1],
        EXPECTED[:1],
        [Example("7", "7", ("In", "Oslo"), ("O", "I-LOC")), EXPECTED[1]],
        [Example("7", "7", ("In", "Oslo"), None), EXPECTED[1]],
        [Example("9", "7", ("In", "Oslo"), ("O", "B-LOC")), EXPECTED[1]],
    ]
    assert len({fingerprint(posts) for posts in variants}) == len(variants)


def test_layout_of_twitter(tmp_path):
    root = tmp_path / "twitter2015"
    (root / "images").mkdir(parents=True)
    (root / "captions").mkdir()
    (root / "knowledge").mkdir()
    for name in ("train.txt", "dev.txt", "captions/blip2.jsonl", "knowledge/notes.jsonl", "captions/README.md"):
        write(root / name, "x")
    assert find_splits(root) == {"train": root / "train.txt", "valid": root / "dev.txt"}
    assert find_images(root, "train") == find_images(root, "test") == root / "images"
    expected = {"blip2": root / "captions/blip2.jsonl", "notes": root / "knowledge/notes.jsonl"}
    assert find_context(root, "valid") == expected


def test_layout_of_snapchat(tmp_path):
    for split in ("train", "dev", "test"):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "captions" / split).mkdir(parents=True)
        (tmp_path / "texts").mkdir(exist_ok=True)
        write(tmp_path / "texts" / f"{split}.json", "x")
        write(tmp_path / "captions" / f"{split}_image_captions.json", "x")
        write(tmp_path / "captions" / split / f"{split}_tags.json", "x")
    assert find_splits(tmp_path) == {
        split: tmp_path / "texts" / f"{name}.json"
        for split, name in (("train", "train"), ("valid", "dev"), ("test", "test"))
    }
    assert find_images(tmp_path, "valid") == tmp_path / "images/dev"
    assert find_context(tmp_path, "valid") == {
        "image_captions": tmp_path / "captions/dev_image_captions.json",
        "tags": tmp_path / "captions/dev/dev_tags.json",
    }


def test_layout_with_images_beside_the_root(tmp_path):
    (tmp_path / "twitter2017").mkdir()
    assert find_images(tmp_path / "twitter2017", "train") is None
    (tmp_path / "twitter2017_images").mkdir()
    assert find_images(tmp_path / "twitter2017", "train") == tmp_path / "twitter2017_images"
    with pytest.raises(ValueError, match="'dev'"):
        find_images(tmp_path, "dev")


def test_layout_errors(tmp_path):
    with pytest.raises(DataNotFoundError, match="absent"):
        find_splits(tmp_path / "absent")
    write(tmp_path / "posts.csv", "x")
    with pytest.raises(DataNotFoundError, match=r"found posts\.csv; expected train\.txt"):
        find_splits(tmp_path)
    write(tmp_path / "valid.txt", "x")
    write(tmp_path / "dev.jsonl", "x")
    with pytest.raises(DataFormatError, match=r"valid\.txt and dev\.jsonl for the valid split"):
        find_splits(tmp_path)
    for folder in ("captions", "context"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "blip2.txt", "x")
    with pytest.raises(DataFormatError, match="for the source 'blip2'"):
        find_context(tmp_path, "train")


@pytest.mark.parametrize("line", ["#\tOd3", "#", "#Paris", "#\tI-PER\tO"])
def test_a_word_that_is_a_number_sign_is_no_comment(tmp_path, line):
    """Found by fuzzing: such lines of a damaged file were left out as comments."""
    path = tmp_path / "posts.txt"
    path.write_text(f"IMGID:1\nAnna\tB-PER\n{line}\nvisits\tO\n", encoding="utf-8")
    with pytest.raises(DataFormatError, match=r"posts\.txt:3: "):
        read_conll(path)


def test_a_word_that_begins_like_docstart_is_a_word(tmp_path):
    path = tmp_path / "posts.txt"
    path.write_text("IMGID:1\nAnna\tB-PER\n-DOCSTART-a b\tO\nvisits\tO\n", encoding="utf-8")
    assert read_conll(path)[0].words == ("Anna", "-DOCSTART-a b", "visits")
