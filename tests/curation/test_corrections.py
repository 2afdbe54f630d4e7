"""Corrections: the table decides, the copy has it, and the patch does the same to the original without holding text."""

from __future__ import annotations

import csv
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mner.cli import main
from mner.curation.corrections import Change, apply_patch, patch_of, patch_text, read_decisions, read_patch
from mner.curation.damage import damage
from mner.curation.doubts import Doubt
from mner.curation.doubts_page import table
from mner.data.examples import Example, fingerprint
from mner.data.formats.posts import read_posts
from mner.errors import DataFormatError
from mner.labels import Span, repair, spans, tags_of

TYPES = ("PER", "LOC", "ORG")
ODD = ["Ana", "=1", "@bob", "of", "Łódź", "😀", '"', ";"]


@st.composite
def posts_with_spans(draw):
    """Posts of some words with spans anywhere, two of different types among them."""
    posts = [Example("a", "a", ("Ana", "of", "Oslo"), ("B-PER", "O", "B-LOC"))]
    for number in range(draw(st.integers(1, 5))):
        words = draw(st.lists(st.sampled_from(ODD), min_size=1, max_size=9))
        tags = [draw(st.sampled_from(["O", *(f"B-{type_}" for type_ in TYPES)])) for _ in words]
        for place in range(1, len(words)):
            if tags[place] == "O" and tags[place - 1] != "O" and draw(st.booleans()):
                tags[place] = "I-" + tags[place - 1][2:]
        posts.append(Example(f"p{number}", None, tuple(words), tuple(tags)))
    return posts


@given(posts_with_spans(), st.floats(0.1, 1.0), st.integers(0, 99))
def test_what_was_damaged_is_mended_by_table_and_by_patch(posts, share, seed):
    damaged, done = damage(posts, share, seed)
    assert len(done) == round(share * sum(len(spans(post.tags)) for post in posts))
    doubts = [
        Doubt(one.id, "missing" if one.after is None else one.kind, one.after, one.before, 0.0, 1.0) for one in done
    ]
    rows = table(doubts, {post.id: post for post in damaged}).replace("\n,", "\nyes,")
    changes = decisions(rows, damaged)
    patch = patch_of(damaged, changes)
    mended = apply_patch(damaged, patch)
    assert [spans(post.tags) for post in mended] == [spans(post.tags) for post in posts]
    assert fingerprint(mended) == patch.corrected
    if done:
        with pytest.raises(DataFormatError, match="corrected already"):
            apply_patch(mended, patch)


def decisions(text, posts):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "doubts.csv"
        path.write_text(text, encoding="utf-8-sig", newline="")
        return read_decisions(path, posts)


@given(posts_with_spans(), st.integers(0, 99))
def test_damage_is_of_thirds_and_leaves_no_overlap(posts, seed):
    damaged, done = damage(posts, 1.0, seed)
    for one in done:
        if one.kind == "type":
            assert one.after[:2] == one.before[:2]
            assert one.after.type != one.before.type
        elif one.kind == "edge":
            assert one.after.type == one.before.type
            assert abs(one.after.start - one.before.start) + abs(one.after.end - one.before.end) == 1
    after = {(one.id, one.after) for one in done if one.after is not None}
    assert {(post.id, span) for post in damaged for span in spans(post.tags)} == after
    assert [post.words for post in damaged] == [post.words for post in posts]
    assert damage(posts, 1.0, seed) == (damaged, done)


def test_damage_needs_two_types():
    with pytest.raises(ValueError, match=r"two types or more, but got \['PER'\]"):
        damage([Example("1", None, ("Ana",), ("B-PER",))])


POSTS = [
    Example("1", "1", ("Ana", "of", "Old", "Oslo"), ("B-PER", "O", "O", "B-PER")),
    Example("2", "2", ("stray", "Bo"), ("O", "I-PER")),
]
HEAD = "decision,post,start,end,type,new_start,new_end,new_type"


def write_conll(path, posts=POSTS):
    blocks = [f"IMGID:{p.id}\n" + "".join(f"{w}\t{t}\n" for w, t in zip(p.words, p.tags, strict=True)) for p in posts]
    path.write_text("\n".join(blocks), encoding="utf-8")
    return path


@pytest.fixture
def posts_file(tmp_path):
    return write_conll(tmp_path / "posts.txt")


def edited(tmp_path, *rows, head=HEAD):
    path = tmp_path / "edited.csv"
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return path


def apply(tmp_path, posts_file, table_file, name="copy.txt"):
    return main(["data", "apply", str(posts_file), str(table_file), "--out", str(tmp_path / name)])


def test_the_copy_and_the_patch(tmp_path, posts_file, capsys):
    table_file = edited(tmp_path, "yes,1,3,4,PER,2,4,LOC", "no,1,0,1,PER,0,1,ORG", ",2,1,2,PER,,,")
    assert apply(tmp_path, posts_file, table_file) == 0
    said = capsys.readouterr().out
    assert "1 of 2 posts corrected: 1 labels out, 1 in" in said
    copy = read_posts(tmp_path / "copy.txt")
    assert copy.format == "conll"
    assert [post.tags for post in copy] == [("B-PER", "O", "B-LOC", "I-LOC"), ("O", "I-PER")]  # the stray tag stays
    text = (tmp_path / "copy.txt.patch.json").read_text(encoding="utf-8")
    assert not {word for post in POSTS for word in post.words} & set(text.replace('"', " ").split())
    assert json.loads(text)["changes"] == [
        {"post": "1", "before": [[0, 1, "PER"], [3, 4, "PER"]], "after": [[0, 1, "PER"], [2, 4, "LOC"]]}
    ]
    assert json.loads(text)["fingerprint"] == fingerprint(POSTS)
    # the published patch does the same to the original
    assert apply(tmp_path, posts_file, tmp_path / "copy.txt.patch.json", "again.txt") == 0
    assert (tmp_path / "again.txt").read_bytes() == (tmp_path / "copy.txt").read_bytes()


@pytest.mark.parametrize("name", ["posts.jsonl", "posts.json", "posts.conllu", "posts.csv"])
def test_the_copy_is_in_the_format_of_the_posts(tmp_path, posts_file, name, capsys):
    assert main(["data", "convert", str(posts_file), str(tmp_path / name)]) == 0
    mended = name.replace("posts", "mended")
    assert apply(tmp_path, tmp_path / name, edited(tmp_path, "yes,1,,,,2,3,LOC"), mended) == 0, capsys.readouterr().err
    before, after = read_posts(tmp_path / name), read_posts(tmp_path / mended)
    assert after.format == before.format
    assert after[0].tags == ("B-PER", "O", "B-LOC", "B-PER")
    assert after[1].tags == before[1].tags


def test_a_scheme_stays(tmp_path):
    path = tmp_path / "posts.txt"
    path.write_text("Ana\tS-PER\nof\tO\nOld\tB-LOC\nOslo\tE-LOC\n", encoding="utf-8")
    assert apply(tmp_path, path, edited(tmp_path, "yes,posts/1,0,1,PER,0,1,ORG")) == 0
    assert (tmp_path / "copy.txt").read_text(encoding="utf-8").split()[-8:] == (
        ["Ana", "S-ORG", "of", "O", "Old", "B-LOC", "Oslo", "E-LOC"]
    )


def test_spreadsheets_write_semicolons_and_a_byte_order_mark(tmp_path, posts_file):
    path = tmp_path / "edited.csv"
    path.write_text(f"{HEAD};text\nYES,1,3,4,PER,,,;a b\n".replace(",", ";"), encoding="utf-8-sig", newline="\r\n")
    assert read_decisions(path, POSTS) == [Change("1", (Span(0, 1, "PER"), Span(3, 4, "PER")), (Span(0, 1, "PER"),))]


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (["maybe,1,3,4,PER,,,"], ":2: found the decision 'maybe'; expected yes, no, or nothing."),
        (["yes,9,3,4,PER,,,"], ":2: found post '9'; expected posts with labels of the given file."),
        (["yes,1,2,4,PER,,,"], ":2: found a label PER at 2..4 of post '1'; expected a label that the given posts have"),
        (["yes,1,3,4,PER,,,", "yes,1,3,4,PER,,,"], ":3: found a label PER at 3..4"),
        (["yes,1,3,4,PER,2,9,LOC"], ":2: found a span of words 2..9 in a post of 4 words"),
        (["yes,1,,,,0,2,LOC"], ":2: found LOC at 0..2 of post '1', which meets PER at 0..1; expected labels apart."),
        (["yes,1,3,4,PER,3,x,LOC"], ":2: found a span '3', 'x', 'LOC'; expected numbers of words"),
        (["yes,1,3,4,PER,3,4,"], ":2: found a span '3', '4', ''; expected numbers of words"),
        (["yes,1,3,4,PER,4,3,LOC"], ":2: found a span '4', '3', 'LOC'"),
        (["yes,1,3,4,PER,3,4,all"], ":2: found a span '3', '4', 'all'"),
        (['yes,"1,3'], ": found no CSV"),
    ],
)
def test_bad_tables_are_one_line(tmp_path, posts_file, rows, error, capsys):
    assert apply(tmp_path, posts_file, edited(tmp_path, *rows)) == 2
    said = capsys.readouterr().err
    assert error in said
    assert said.count("\n") == 1
    assert not (tmp_path / "copy.txt").exists()


def test_two_doubts_with_one_answer_are_one_label(tmp_path):
    two = [replace(POSTS[0], tags=("O", "O", "B-LOC", "B-PER"))]
    changes = read_decisions(edited(tmp_path, "yes,1,2,3,LOC,2,4,LOC", "yes,1,3,4,PER,2,4,LOC"), two)
    assert changes[0].after == (Span(2, 4, "LOC"),)


def test_no_column_and_no_utf8(tmp_path, posts_file, capsys):
    assert apply(tmp_path, posts_file, edited(tmp_path, "yes,1", head="decision,post")) == 2
    assert ":1: found no column 'start'; expected the columns decision, post" in capsys.readouterr().err
    (tmp_path / "edited.csv").write_bytes(b"decision\xff\n")
    assert apply(tmp_path, posts_file, tmp_path / "edited.csv") == 2
    assert "bytes that are no UTF-8" in capsys.readouterr().err


def test_a_patch_of_other_posts_is_refused(tmp_path, posts_file, capsys):
    patch = tmp_path / "patch.json"
    change = Change("1", (Span(0, 1, "PER"), Span(3, 4, "PER")), (Span(0, 1, "PER"),))
    patch.write_text(patch_text(patch_of(POSTS, [change])), encoding="utf-8")
    assert read_patch(patch) == patch_of(POSTS, [change])
    write_conll(posts_file, [replace(POSTS[0], tags=("O",) * 4), POSTS[1]])
    assert apply(tmp_path, posts_file, patch) == 2
    assert f"expected {fingerprint(POSTS)}." in (said := capsys.readouterr().err)
    assert sum(line.startswith("mner ") for line in said.splitlines()) == 1  # beside what is told of the file
    write_conll(posts_file, [replace(POSTS[0], words=("Anna", "of", "Old", "Oslo")), POSTS[1]])
    assert apply(tmp_path, posts_file, patch) == 2
    assert "but other words" in capsys.readouterr().err
    write_conll(posts_file, apply_patch(POSTS, read_patch(patch)))
    assert apply(tmp_path, posts_file, patch) == 2
    assert "corrected already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        '{"mner_patch": 1}',
        '{"mner_patch": 2, "fingerprint": "a"}',
        '{"mner_patch": 1, "fingerprint": "a", "words": "b", "corrected": "c", "changes": [{"post": "1"}]}',
        '{"mner_patch": 1, "fingerprint": ',
    ],
)
def test_what_is_no_patch(tmp_path, posts_file, text, capsys):
    (tmp_path / "patch.json").write_text(text, encoding="utf-8")
    assert apply(tmp_path, posts_file, tmp_path / "patch.json") == 2
    said = capsys.readouterr().err
    assert "patch.json: found" in said
    assert said.count("\n") == 1


def test_a_patch_that_was_tampered_with(tmp_path):
    patch = patch_of(POSTS, [Change("1", tuple(spans(POSTS[0].tags)), (Span(0, 1, "PER"),))])
    for spoilt in (Change("1", (), ()), Change("1", patch.changes[0].before, (Span(3, 9, "PER"),))):
        with pytest.raises(DataFormatError, match="post '1'"):
            apply_patch(POSTS, replace(patch, changes=[spoilt]))


def test_nothing_is_taken_over(tmp_path, posts_file, capsys):
    table_file = edited(tmp_path, "yes,1,3,4,PER,,,")
    assert main(["data", "apply", str(posts_file), str(table_file)]) == 2
    assert "Expected --out" in capsys.readouterr().err
    assert apply(tmp_path, posts_file, table_file, "posts.txt") == 2
    assert "is an input" in capsys.readouterr().err
    (tmp_path / "copy.txt.patch.json").write_text("mine")
    assert apply(tmp_path, posts_file, table_file) == 2
    assert not (tmp_path / "copy.txt").exists()
    (tmp_path / "copy.txt").write_text("mine")
    assert apply(tmp_path, posts_file, table_file) == 2
    assert "something there already" in capsys.readouterr().err
    assert (tmp_path / "copy.txt").read_text(encoding="utf-8") == "mine"


def test_the_table_is_safe_in_spreadsheets():
    post = Example("1", None, ("=1+1", "@bob"), ("B-PER", "O"))
    text = table([Doubt("1", "no entity", Span(0, 1, "PER"), None, 0.1, 0.8)], {"1": post})
    (row,) = csv.DictReader(text.splitlines())
    assert row["words"] == "'=1+1"
    assert row["text"] == "'=1+1 @bob"


def test_repair_and_tags_of_agree():
    assert tuple(tags_of(spans(POSTS[1].tags), 2)) == tuple(repair(POSTS[1].tags))
