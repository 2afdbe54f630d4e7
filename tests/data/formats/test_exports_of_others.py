"""Exports that people bring and that no documentation of a tool names; each shape is read, or told of."""

from __future__ import annotations

import json

import pytest

from mner.data.formats.posts import read_posts
from mner.errors import DataFormatError

ANA = "Ana Quillon flew to Lagos today"
PAIRS = [[ANA, {"entities": [[0, 11, "PER"], [20, 25, "LOC"]]}], ["rain again", {"entities": []}]]
FOUND = [("Ana", "B-PER"), ("Quillon", "I-PER"), ("Lagos", "B-LOC")]


def written(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def entities(post):
    return [(word, tag) for word, tag in zip(post.words, post.tags, strict=True) if tag != "O"]


@pytest.mark.parametrize("indent", [None, 1])
def test_pairs_under_annotations_with_gaps(tmp_path, indent):
    value = {"classes": ["PER", "LOC"], "annotations": [*PAIRS, None]}
    posts = read_posts(written(tmp_path / "a.json", json.dumps(value, indent=indent)))
    assert posts.format == "spacy_json"
    assert [entities(post) for post in posts] == [FOUND, []]
    assert posts.notes == ("1 records that are null, left out",)


@pytest.mark.parametrize("last", [True, False])
def test_dataturks_points(tmp_path, last):
    def mark(start, text, label):
        point = {"start": start, "end": start + len(text) - last, "text": text}
        return {"label": [label], "points": [point]}

    rows = [
        {"content": ANA, "annotation": [mark(0, "Ana Quillon", "PER"), mark(20, "Lagos", "LOC")], "extras": None},
        {"content": "rain again", "annotation": None, "extras": None},
    ]
    posts = read_posts(written(tmp_path / "a.json", "".join(json.dumps(row) + "\n" for row in rows)))
    assert entities(posts[0]) == FOUND
    assert posts[1].tags is None
    assert posts.notes[0].startswith("2 spans given ")


def test_names_under_their_types_with_the_last_character(tmp_path):
    rows = [
        {"text": "叶老桂在浙商银行", "label": {"name": {"叶老桂": [[0, 2]]}, "company": {"浙商银行": [[4, 7]]}}},
        {"text": "雨", "label": {}},
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    posts = read_posts(written(tmp_path / "a.jsonl", text))
    assert [tag for _, tag in entities(posts[0])] == ["B-name", "I-name", "I-name", "B-company", *["I-company"] * 3]
    assert posts[1].tags == ("O",)
    assert posts.notes[0] == "2 spans given with their last character"


def test_spans_in_an_unknown_shape_are_told(tmp_path):
    row = {"source": ANA, "job": {"annotations": {"entities": [{"label": "PER", "startOffset": 0, "endOffset": 3}]}}}
    posts = read_posts(written(tmp_path / "a.jsonl", json.dumps(row) + "\n"))
    assert posts[0].tags is None
    assert posts.notes == ("1 records whose field 'job' seems to hold spans in a way that is not known, not read",)


def test_posts_under_their_ids(tmp_path):
    value = {"101": {"text": ANA, "entities": [[0, 11, "PER"], [20, 25, "LOC"]]}, "7": {"text": "rain", "entities": []}}
    posts = read_posts(written(tmp_path / "a.json", value))
    assert [(post.id, entities(post)) for post in posts] == [("101", FOUND), ("7", [])]


def test_a_list_of_posts_on_one_line(tmp_path):
    posts = read_posts(written(tmp_path / "a.json", {"data": [{"tokens": ["Ana", "flew"], "tags": ["S-PER", "O"]}]}))
    assert posts[0].tags == ("B-PER", "O")
    post = {"text": "Ana flew", "items": [{"start": 0, "end": 3, "label": "PER"}]}  # one post that has a list
    assert entities(read_posts(written(tmp_path / "b.jsonl", post))[0]) == [("Ana", "B-PER")]


def test_one_word_with_one_tag_in_a_table_of_texts(tmp_path):
    posts = read_posts(written(tmp_path / "a.csv", "text,tags\nAna flew,B-PER O\nrain,O\nBen,B-PER\n"))
    assert [post.tags for post in posts] == [("B-PER", "O"), ("O",), ("B-PER",)]


def test_spans_of_python_in_a_column(tmp_path):
    rows = f"text,entities\n\"{ANA}\",\"[{{'start': 0, 'end': 11, 'label': 'PER'}}]\"\nrain,[]\n"
    posts = read_posts(written(tmp_path / "a.csv", rows))
    assert [entities(post) for post in posts] == [FOUND[:2], []]


def test_label_studio_csv_of_a_post_without_entities(tmp_path):
    mark = json.dumps([{"start": 0, "end": 3, "text": "Ana", "labels": ["PER"]}]).replace('"', '""')
    rows = f'text,id,label,annotator,annotation_id\nAna,1,"{mark}",1,5\nrain,2,,1,6\nsnow,3,,,\n'
    posts = read_posts(written(tmp_path / "a.csv", rows))
    assert [post.tags for post in posts] == [("B-PER",), ("O",), None]


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"'])
def test_the_line_that_is_for_excel(tmp_path, first):
    path = written(tmp_path / "a.csv", f"{first}\r\nsentence_id;word;tag\r\n1;Ana;B-PER\r\n1;flew;O\r\n2;5,5;O\r\n")
    assert [post.words for post in read_posts(path)] == [("Ana", "flew"), ("5,5",)]


def test_lists_of_numpy_in_a_column(tmp_path):
    words = "\"['Ana' 'flew'\n 'to' 'Lagos']\""
    posts = read_posts(
        written(tmp_path / "a.csv", f"id,tokens,ner_tags\n1,{words},[1 0 0 2]\n"), label_names=["O", "B-PER", "B-LOC"]
    )
    assert posts[0].words == ("Ana", "flew", "to", "Lagos")  # not one word, "AnaflewtoLagos"
    assert posts[0].tags == ("B-PER", "O", "O", "B-LOC")


def test_a_table_of_texts_beside_columns_that_are_not_ours(tmp_path):
    posts = read_posts(written(tmp_path / "a.csv", "text,E-mail\nAna flew,a@b.org\nrain,\n"))
    assert [(post.words, post.tags) for post in posts] == [(("Ana", "flew"), None), (("rain",), None)]
    assert read_posts(written(tmp_path / "b.csv", "text\nAna flew\n"))[0].words == ("Ana", "flew")
    posts = read_posts(written(tmp_path / "c.tsv", "post\tO\nAna\tB-PER\n\nrain\tO\n"))  # words, not names of columns
    assert [post.tags for post in posts] == [("O", "B-PER"), ("O",)]


@pytest.mark.parametrize("between", [",", "", ",\n\n,"])
def test_tokens_whose_posts_are_told_apart_by_blank_lines(tmp_path, between):
    posts = read_posts(written(tmp_path / "a.csv", f"word,tag\nAna,B-PER\nflew,O\n{between}\nBen,B-PER\n,\n"))
    assert [post.words for post in posts] == [("Ana", "flew"), ("Ben",)]
    with pytest.raises(DataFormatError, match=r"b\.csv:1: found tokens without a column that tells posts apart"):
        read_posts(written(tmp_path / "b.csv", "word,tag\nAna,B-PER\nBen,B-PER\n"))


@pytest.mark.parametrize("row", ["1,Ana flew,0,3,PER", "1,Ana flew,,,"])
def test_empty_rows_at_the_end_of_a_sheet(tmp_path, row):
    posts = read_posts(written(tmp_path / "a.csv", f"id,text,start,end,label\n{row}\n,,,,\n,,,,\n"))
    assert [post.words for post in posts] == [("Ana", "flew")]
    assert posts.notes == ("2 rows of empty cells, read as blank lines",)
    with pytest.raises(DataFormatError, match=r"b\.csv:1: found a header and no row"):
        read_posts(written(tmp_path / "b.csv", "id,text\n,\n"))


def test_spans_with_their_last_character_in_a_whole_file(tmp_path):
    marks = [{"start": 0, "end": 10, "label": "PER", "text": "Ana Quillon"}, {"start": 20, "end": 24, "label": "LOC"}]
    posts = read_posts(written(tmp_path / "a.jsonl", {"text": ANA, "entities": marks}))
    assert entities(posts[0]) == FOUND
    assert posts.notes == ("2 spans given with their last character",)


@pytest.mark.parametrize("own", ["New\nYork", "New\\nYork", "NewYork"])
def test_line_breaks_in_the_text_of_a_span_of_label_studio(tmp_path, own):
    value = {"start": 0, "end": 8, "text": own, "labels": ["LOC"]}
    result = {"type": "labels", "from_name": "label", "to_name": "text", "value": value}
    task = {"id": 1, "data": {"text": "New\nYork today"}, "annotations": [{"result": [result]}]}
    assert entities(read_posts(written(tmp_path / "a.json", [task]))[0]) == [("New", "B-LOC"), ("York", "I-LOC")]


@pytest.mark.parametrize(
    "entities_",
    [[{"text": "Ana", "type": "PER"}], [{"index": [0, 1], "type": "PER"}], {"PER": ["Ana"]}, ["Ana"]],
)
def test_spans_without_places_are_told(tmp_path, entities_):
    posts = read_posts(written(tmp_path / "a.jsonl", {"text": ANA, "entities": entities_}))
    assert posts[0].tags is None
    told = "1 records whose field 'entities' seems to hold spans in a way that is not known, not read"
    assert posts.notes == (told,)


@pytest.mark.parametrize("key", ["pos", "span", "offsets"])
def test_start_and_end_as_one_list(tmp_path, key):
    marks = [{"name": "Ana Quillon", "type": "PER", key: [0, 11]}, {"name": "Lagos", "type": "LOC", key: [20, 25]}]
    assert entities(read_posts(written(tmp_path / "a.jsonl", {"text": ANA, "entities": marks}))[0]) == FOUND


def test_words_and_tags_under_names_in_capitals_and_under_those_of_texts(tmp_path):
    rows = "Sentence #,Sentence,Tag\nSentence: 1,Ana flew,\"['B-PER', 'O']\"\n"
    assert read_posts(written(tmp_path / "a.csv", rows))[0].tags == ("B-PER", "O")
    post = {"sentence": ["Ana", "flew"], "ner": ["B-PER", "O"]}
    assert read_posts(written(tmp_path / "a.jsonl", post))[0].words == ("Ana", "flew")


def test_tags_that_do_not_fit_the_words_of_a_text(tmp_path):
    with pytest.raises(DataFormatError, match=r"a\.jsonl:1: found 3 words between spaces and 2 tags"):
        read_posts(written(tmp_path / "a.jsonl", {"text": "Ana flew home", "tags": ["B-PER", "O"]}))
    posts = read_posts(written(tmp_path / "b.jsonl", {"text": "Ana flew home", "tags": ["news", "sport"]}))
    assert posts[0].tags is None  # what the text is about


def test_a_file_whose_spans_have_no_types(tmp_path):
    mark = {"start": 0, "end": 3}
    with pytest.raises(DataFormatError, match=r"a\.jsonl, as a whole: found 1 spans and no type at any"):
        read_posts(written(tmp_path / "a.jsonl", {"text": ANA, "spans": [mark]}))
    posts = read_posts(written(tmp_path / "b.jsonl", {"text": ANA, "spans": [mark, [20, 25, "LOC"]]}))
    assert entities(posts[0]) == FOUND[2:]
    assert posts.notes == ("1 spans without a type, left out",)
