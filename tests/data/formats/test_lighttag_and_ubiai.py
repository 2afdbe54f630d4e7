"""LightTag and UBIAI as exports in public repositories are made (the texts are invented)."""

from __future__ import annotations

import json

import pytest

from mner.data.formats.posts import read_posts
from mner.errors import DataFormatError

SCHEMA = {"id": "s", "name": "people", "tags": [{"id": "t", "name": "Person"}, {"id": "u", "name": "Old Town"}]}


def document(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def entities(post):
    return [(word, tag) for word, tag in zip(post.words, post.tags, strict=True) if tag != "O"]


def old_mark(start, end, tag, value, who):
    return {"id": f"{start}{who}", "example_id": "a", "start": start, "end": end, "tag": tag, "annotator": who,
            "value": value}  # fmt: skip


def old_export(*examples):
    rows = [
        {"id": f"e{number}", "content": text, "metadata": {"verse": number, "chapter": 1.1}, "annotations": list(marks)}
        for number, (text, *marks) in enumerate(examples)
    ]
    return {"id": "job", "dataset": {"id": "d", "name": "walks", "examples": rows}, "schema": SCHEMA}


def test_lighttag_at_first_had_its_examples_within_a_dataset(tmp_path):
    empty = [(" Nobody here. ",)] * 60  # the first that is marked comes late
    export = old_export(*empty, (" Ana sees Rome: ", old_mark(1, 4, "Person", "Ana", "x"),
                                 old_mark(10, 14, "Old Town", "Rome", "x")))  # fmt: skip
    posts = read_posts(document(tmp_path / "a.json", export))
    assert posts.format == "lighttag"
    assert [post.id for post in posts[:2]] == ["e0", "e1"]
    assert entities(posts[60]) == [("Ana", "B-Person"), ("Rome", "B-Old_Town")]
    assert posts[0].tags == ("O", "O")
    assert posts.notes[0].startswith("60 examples without annotations, of which the file does not say")


def test_lighttag_at_first_named_one_annotator_a_span(tmp_path):
    marks = [old_mark(1, 4, "Person", "Ana", "x"), old_mark(10, 14, "Old Town", "Rome", "y")]
    path = document(tmp_path / "a.json", old_export((" Ana sees Rome ", *marks)))
    with pytest.raises(DataFormatError, match="annotators x and y who differ"):
        read_posts(path)
    assert entities(read_posts(path, annotators="y")[0]) == [("Rome", "B-Old_Town")]


def test_lighttag_examples_that_nobody_saw_are_without_gold(tmp_path):
    by = [{"annotator_id": 8, "timestamp": "2020-07-26T20:42:03.676+00:00", "annotator": "ana"}]
    mark = {"tagged_token_id": "t", "definition_id": "d", "example_id": "a", "start": 0, "end": 3, "tag": "PER",
            "tag_id": "z", "value": "Ana", "correct": None, "reviewed": False, "annotated_by": by}  # fmt: skip
    rows = [
        {"example_id": name, "content": text, "metadata": {}, "seen_by": seen, "annotations": marks,
         "classifications": []}
        for name, text, seen, marks in (("a", "Ana sings", by, [mark]), ("b", "it rains", by, []), ("c", "Ben", [], []))
    ]  # fmt: skip
    posts = read_posts(document(tmp_path / "a.json", {"id": "j", "examples": rows, "schema": SCHEMA}))
    assert [post.tags for post in posts] == [("B-PER", "O"), ("O", "O"), None]
    assert posts.notes == ("1 posts without gold",)


def test_lighttag_tags_by_their_ids_alone_have_the_names_of_the_schema(tmp_path):
    marks = [old_mark(1, 4, "Person", "Ana", "x"), old_mark(10, 14, "Old Town", "Rome", "x")]
    by_id = [{**mark, "tag_id": tag["id"]} for mark, tag in zip(marks, SCHEMA["tags"], strict=True)]
    for mark in by_id:
        del mark["tag"]
    expected = [("Ana", "B-Person"), ("Rome", "B-Old_Town")]
    assert entities(read_posts(document(tmp_path / "a.json", old_export((" Ana sees Rome ", *by_id))))[0]) == expected
    unknown = {**by_id[0], "tag_id": "nobody's"}
    path = document(tmp_path / "b.json", old_export((" Ana sees Rome ", unknown)))
    with pytest.raises(DataFormatError, match="found 1 spans and no type at any"):
        read_posts(path)


def test_ubiai_as_text_with_relations_and_marks_out_of_order(tmp_path):
    def token(text, start, first, last, label):
        return {"text": text, "start": start, "end": start + len(text), "token_start": first, "token_end": last,
                "entityLabel": label}  # fmt: skip

    marks = [token("Rust", 23, 7, 7, "SKILL"), token("3+ years", 0, 0, 2, "TIME")]
    rows = [
        {"document": "3+ years of track with Rust, or so", "tokens": marks,
         "relations": [{"child": 7, "head": 0, "relationLabel": "IN"}]},
        {"document": "nothing", "tokens": [], "relations": []},
    ]  # fmt: skip
    posts = read_posts(document(tmp_path / "relations.txt", rows))
    assert posts.format == "ubiai"
    assert entities(posts[0]) == [("3+", "B-TIME"), ("years", "I-TIME"), ("Rust", "B-SKILL")]
    assert posts[1].tags == ("O",)
    assert posts.notes == ("1 relations, not read", "1 words cut at the edges of spans")


def test_ubiai_columns_with_docstart_in_between(tmp_path):
    rows = "-DOCSTART- -X- O O\nBen\tB-PER\n.\tO\n-DOCSTART- -X- O O\n\n2\tB-TIME\nyears\tI-TIME\n\n\n"
    (tmp_path / "a.tsv").write_text(rows, encoding="utf-8")
    assert [post.words for post in read_posts(tmp_path / "a.tsv")] == [("Ben", "."), ("2", "years")]


def test_columns_that_went_through_a_spreadsheet(tmp_path):
    rows = "-DOCSTART- -X- O O\t\r\n\t\r\nBen\tB-PER\r\n\xa0\tO\r\n\t\r\nsings\tO\r\n\t\r\n\t\r\n"
    (tmp_path / "a.tsv").write_text(rows, encoding="utf-8", newline="")
    posts = read_posts(tmp_path / "a.tsv")
    assert [post.words for post in posts] == [("Ben", "\xa0"), ("sings",)]
    assert posts.notes == ("4 rows of empty cells, read as blank lines",)
    (tmp_path / "a.tsv").write_text("Ben\tB-PER\n\tO\n", encoding="utf-8")
    with pytest.raises(DataFormatError, match="no word before the tab"):
        read_posts(tmp_path / "a.tsv")
