"""What exports of annotation tools really hold: each is found, told with a count, and decided as asked."""

from __future__ import annotations

import json

import pytest

from mner.data.formats.posts import read_posts
from mner.errors import DataFormatError


def lines(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8", newline="")
    return path


def document(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def entities(post):
    return [(word, tag) for word, tag in zip(post.words, post.tags, strict=True) if tag != "O"]


def region(start, end, text, *labels, **more):
    value = {"start": start, "end": end, "text": text, "labels": list(labels)}
    return {"id": f"{start}", "from_name": "label", "to_name": "text", "type": "labels", "value": value, **more}


def task(number, text, *annotations, **more):
    return {"id": number, "data": {"text": text}, "annotations": list(annotations), "predictions": [], **more}


def annotation(*results, by=1, **more):
    return {
        "id": by,
        "completed_by": by,
        "result": list(results),
        "was_cancelled": False,
        "ground_truth": False,
        **more,
    }


def test_offsets_in_utf16_units_are_found_by_the_spans_own_text(tmp_path):
    tasks = [task(1, "👍🏽 Ana in Oslo", annotation(region(5, 8, "Ana", "PER"), region(12, 16, "Oslo", "LOC")))]
    posts = read_posts(document(tmp_path / "a.json", tasks))
    assert entities(posts[0]) == [("Ana", "B-PER"), ("Oslo", "B-LOC")]
    assert posts.notes == ("2 spans moved: offsets count UTF-16 units",)


def test_offsets_in_bytes(tmp_path):
    posts = read_posts(
        lines(tmp_path / "a.jsonl", {"text": "é Ana", "spans": [{"start": 3, "end": 6, "label": "PER", "text": "Ana"}]})
    )
    assert entities(posts[0]) == [("Ana", "B-PER")]
    assert "count bytes" in posts.notes[0]


def test_offsets_without_texts_of_spans_are_doubted(tmp_path):
    path = lines(tmp_path / "a.jsonl", {"id": 1, "text": "👍 Anas car", "label": [[3, 7, "PER"]]})
    posts = read_posts(path)
    assert "give offsets='utf-16'" in posts.notes[0]
    assert entities(posts[0]) == [("nas", "B-PER")]
    assert entities(read_posts(path, offsets="utf-16")[0]) == [("Anas", "B-PER")]


def test_offsets_that_fit_in_no_way_are_an_error_with_the_record(tmp_path):
    tasks = [task(1, "Ana in Oslo", annotation(region(0, 3, "Bob", "PER")))]
    with pytest.raises(DataFormatError, match=r"a\.json, record 1: found 'Ana' at 0\.\.3 .* its own text is 'Bob'"):
        read_posts(document(tmp_path / "a.json", tasks))
    with pytest.raises(DataFormatError, match=r"a\.jsonl:1: found no text at 0\.\.99"):
        read_posts(lines(tmp_path / "a.jsonl", {"text": "Ana", "label": [[0, 99, "PER"]]}))


def test_blanks_at_ends_and_spans_within_words(tmp_path):
    row = {"text": "Ana lives in Oslo-Bergen  now", "label": [[0, 4, "PER"], [12, 17, "LOC"], [18, 26, "LOC"]]}
    posts = read_posts(lines(tmp_path / "a.jsonl", row))
    assert posts[0].words == ("Ana", "lives", "in", "Oslo", "-", "Bergen", "now")
    assert entities(posts[0]) == [("Ana", "B-PER"), ("Oslo", "B-LOC"), ("Bergen", "B-LOC")]
    assert posts.notes == ("3 spans with blanks at an end, taken off", "1 words cut at the edges of spans")


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        ([[0, 3, "PER"], [0, 3, "ORG"]], "two labels on one span"),
        ([[0, 8, "ORG"], [0, 3, "PER"]], "spans that overlap"),
        ([[0, 8, "ORG"], [4, 11, "PER"]], "spans that overlap"),
    ],
)
def test_spans_that_overlap_are_refused_or_the_outer_kept(tmp_path, labels, what):
    path = lines(tmp_path / "a.jsonl", {"id": 1, "text": "Ana Bank Oslo", "label": labels})
    with pytest.raises(DataFormatError, match=rf"a\.jsonl:1: found {what}.*overlaps='outer'"):
        read_posts(path)
    posts = read_posts(path, overlaps="outer")
    longest = max(labels, key=lambda one: one[1] - one[0])
    assert entities(posts[0])[0] == ("Ana" if longest[0] == 0 else "Bank", f"B-{longest[2]}")
    assert what in posts.notes[0] and "left out" in posts.notes[0]  # noqa: PT018


def test_two_labels_of_one_region(tmp_path):
    path = document(tmp_path / "a.json", [task(1, "Ana", annotation(region(0, 3, "Ana", "PER", "ORG")))])
    with pytest.raises(DataFormatError, match=r"two labels on one span: PER at 0\.\.3 and ORG"):
        read_posts(path)
    assert entities(read_posts(path, overlaps="outer")[0]) == [("Ana", "B-PER")]


def test_several_annotators(tmp_path):
    agree = annotation(region(0, 3, "Ana", "PER"), by=1), annotation(region(0, 4, "Ana ", "PER"), by=2)
    posts = read_posts(document(tmp_path / "a.json", [task(1, "Ana sings", *agree)]))
    assert entities(posts[0]) == [("Ana", "B-PER")]
    assert "1 posts whose annotators agree, read once" in posts.notes
    differ = *agree, annotation(region(0, 3, "Ana", "ORG"), by={"email": "c@x.org", "id": 3})
    path = document(tmp_path / "a.json", [task(1, "Ana sings", *differ)])
    with pytest.raises(DataFormatError, match=r"record 1: found annotators 1 and c@x\.org who differ"):
        read_posts(path)
    for choice, expected in (("first", "PER"), ("majority", "PER"), ("c@x.org", "ORG")):
        posts = read_posts(path, annotators=choice)
        assert entities(posts[0]) == [("Ana", f"B-{expected}")]
        assert any("annotat" in note for note in posts.notes)
    assert read_posts(path, annotators="nobody")[0].tags is None
    truth = *agree, annotation(region(0, 3, "Ana", "ORG"), by=3, ground_truth=True)
    posts = read_posts(document(tmp_path / "a.json", [task(1, "Ana sings", *truth)]))
    assert entities(posts[0]) == [("Ana", "B-ORG")]
    assert "ground truth" in posts.notes[-1]


def test_label_studio_cancelled_predicted_and_unlabelled_tasks(tmp_path):
    tasks = [
        task(1, "Ana", annotation(region(0, 3, "Ana", "PER"), was_cancelled=True)),
        task(2, "Bo", predictions=[{"result": [region(0, 2, "Bo", "PER")]}]),
        task(3, "Cy"),
        task(4, "Di", annotation()),
    ]
    posts = read_posts(document(tmp_path / "a.json", tasks))
    assert [(post.id, post.tags) for post in posts] == [("1", None), ("2", None), ("3", None), ("4", ("O",))]
    assert posts.notes == (
        "1 tasks with predictions and no annotation, read without gold",
        "1 annotations cancelled or skipped, not read as gold",
        "3 posts without gold",
    )


def test_other_results_in_between_and_other_names_of_fields(tmp_path):
    others = [
        {"type": "choices", "from_name": "mood", "to_name": "tweet", "value": {"choices": ["good"]}},
        {"type": "relation", "from_id": "1", "to_id": "2", "direction": "right"},
        {
            "type": "rectanglelabels",
            "from_name": "box",
            "to_name": "img",
            "value": {"x": 1, "rectanglelabels": ["cat"]},
        },
    ]
    data = {"tweet": "Ana sings", "note": "not this", "photo": "/data/local-files/?d=photos/7.jpg"}
    one = {"id": 5, "data": data, "annotations": [annotation(region(0, 3, "Ana", "PER", to_name="tweet"), *others)]}
    posts = read_posts(document(tmp_path / "a.json", [one]))
    assert (posts[0].id, posts[0].image_id, entities(posts[0])) == ("5", "7.jpg", [("Ana", "B-PER")])
    assert [note for note in posts.notes if "results" in note] == [
        "1 results of kind choices, not read", "1 results of kind relation, not read",
        "1 results of kind rectanglelabels, not read",
    ]  # fmt: skip
    rows = [{"tweet": "Ana sings", "ner": [{"start": 0, "end": 3, "labels": ["PER"]}], "annotator": 1, "lead_time": 2}]
    assert entities(read_posts(document(tmp_path / "b.json", rows))[0]) == [("Ana", "B-PER")]
    path = lines(tmp_path / "c.jsonl", {"headline": "Ana", "body": "Bo sings", "found": [[0, 2, "PER"]]})
    with pytest.raises(
        DataFormatError, match=r"c\.jsonl:1: found no field 'title' \(there are body, found, headline\)"
    ):
        read_posts(path, fields={"text": "title"})
    assert entities(read_posts(path, fields={"text": "body"})[0]) == [("Bo", "B-PER")]


def test_label_studio_html_and_uploads(tmp_path):
    value = {"start": "/p[1]/text()[1]", "end": "/p[1]/text()[1]", "globalOffsets": {"start": 0, "end": 3}}
    result = {"type": "hypertextlabels", "value": {**value, "text": "Ana", "hypertextlabels": ["PER"]}}
    data = {"text": "Ana sings", "image": "/data/upload/3/0a1b2c3d-my%20cat.jpg"}
    posts = read_posts(document(tmp_path / "a.json", [{"id": 1, "data": data, "annotations": [annotation(result)]}]))
    assert (posts[0].image_id, entities(posts[0])) == ("my cat.jpg", [("Ana", "B-PER")])


def test_escaped_html(tmp_path):
    tasks = [task(1, "AT&amp;T and Ana", annotation(region(0, 4, "AT&T", "ORG"), region(9, 12, "Ana", "PER")))]
    posts = read_posts(document(tmp_path / "a.json", tasks))
    assert entities(posts[0]) == [("AT&T", "B-ORG"), ("Ana", "B-PER")]
    assert posts.notes == ("1 texts with escapes of HTML, read as what they stand for",)


def test_prodigy_rejected_and_ignored(tmp_path):
    span = {"start": 0, "end": 3, "label": "PER", "token_start": 0, "token_end": 0}
    rows = [
        {"text": f"Ana {answer}", "_input_hash": n, "_task_hash": n, "spans": [span], "answer": answer}
        for n, answer in enumerate(("accept", "reject", "ignore"), start=1)
    ]
    posts = read_posts(lines(tmp_path / "a.jsonl", *rows, {"text": "no span", "_input_hash": 9, "answer": "accept"}))
    assert [post.tags for post in posts] == [("B-PER", "O"), None, None, ("O", "O")]
    assert posts.notes == (
        "1 annotations that were answered reject, not read as gold",
        "1 annotations that were answered ignore, not read as gold",
        "2 posts without gold",
    )
    two = [{**rows[0], "_session_id": "ner-ann"}, {**rows[0], "_session_id": "ner-bob", "spans": []}]
    with pytest.raises(DataFormatError, match=r"a\.jsonl:2: found annotators ner-ann and ner-bob who differ"):
        read_posts(lines(tmp_path / "a.jsonl", *two))


@pytest.mark.parametrize(
    "row",
    [
        {"labels": [[0, 3, "PER"]], "meta": {"image": "x.jpg"}},
        {"label": [[0, 3, "PER"]], "image": "x.jpg"},
        {"annotations": [{"label": 0, "start_offset": 0, "end_offset": 3, "user": 1}], "meta": {"image": "x.jpg"}},
        {"entities": [{"id": 0, "label": "PER", "start_offset": 0, "end_offset": 3}], "relations": [{"id": 0}],
         "Comments": ["?"], "image": "x.jpg"},
    ],
    ids=["labels", "label", "annotations", "entities"],
)  # fmt: skip
def test_three_generations_of_doccano(tmp_path, row):
    path = lines(tmp_path / "a.jsonl", {"id": 3, "text": "Ana sings", **row})
    if "annotations" in row:
        with pytest.raises(DataFormatError, match=r"the type 0 by its number; expected a name\. .*label_names"):
            read_posts(path)
    posts = read_posts(path, label_names=["PER"])
    assert posts.format == "doccano"
    assert (posts[0].id, posts[0].image_id, entities(posts[0])) == ("3", "x.jpg", [("Ana", "B-PER")])
    assert posts.notes == (("1 relations, not read", "1 comments, not read") if "relations" in row else ())


def test_doccano_users_who_differ(tmp_path):
    marks = [{"label": "PER", "start_offset": 0, "end_offset": 3, "user": user} for user in (1, 2)]
    marks[1]["end_offset"] = 9
    with pytest.raises(DataFormatError, match="annotators 1 and 2 who differ"):
        read_posts(lines(tmp_path / "a.jsonl", {"id": 1, "text": "Ana sings", "annotations": marks}))


def test_brat_in_full(tmp_path):
    (tmp_path / "a.txt").write_bytes("Ana of North and South Korea\r\nhas won\r\n😀 Bo".encode())
    (tmp_path / "a.ann").write_text(
        "T1\tPER 0 3\tAna\nT2\tLOC 7 12;23 28\tNorth Korea\nA1\tSure T1\n"
        "#1\tAnnotatorNotes T1\thm\nR1\tIn Arg1:T1 Arg2:T2\n"
        "T3\tPER 41 43\tBo\n"
    )
    posts = read_posts(tmp_path / "a.ann")
    assert [post.id for post in posts] == ["a/1", "a/2", "a/3"]
    assert entities(posts[0]) == [
        ("Ana", "B-PER"),
        *zip(["North", "and", "South", "Korea"], ["B-LOC", *["I-LOC"] * 3], strict=True),
    ]
    assert entities(posts[2]) == [("Bo", "B-PER")]
    assert posts.notes == (
        "1 discontinuous spans, read from their first to their last character",
        "1 attributes, not read", "1 notes, not read", "1 relations, not read",
    )  # fmt: skip
    counted_once = (tmp_path / "a.ann").read_text().replace("41 43", "39 41")  # as tools count that read \r\n as one
    (tmp_path / "a.ann").write_text(counted_once)
    posts = read_posts(tmp_path / "a.txt")
    assert entities(posts[2]) == [("Bo", "B-PER")]
    assert "1 texts whose line ends count otherwise, read so" in posts.notes


def test_brat_folder_with_an_unlabelled_text_and_a_bad_line(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("Ana\nsings")
    (tmp_path / "a.ann").write_text("T1\tPER 0 3\tAna\n")
    posts = read_posts(tmp_path)
    assert [(post.id, post.words, post.tags) for post in posts] == [
        ("a", ("Ana", "sings"), ("B-PER", "O")), ("b", ("Ana", "sings"), None)
    ]  # fmt: skip
    (tmp_path / "a.ann").write_text("T1 PER 0 3 Ana\n")
    with pytest.raises(DataFormatError, match=r"a\.ann:1: found 'T1 PER 0 3 Ana'; expected T<number>"):
        read_posts(tmp_path)


def test_argilla_of_each_version(tmp_path):
    span = {"label": "PER", "start": 0, "end": 3}
    versions = [
        {"id": "1", "text": "Ana sings", "tokens": ["Ana", "sings"], "annotation": [["PER", 0, 3]],
         "status": "Validated",         "annotation_agent": "ann", "prediction": None},
        {"id": "1", "fields": {"text": "Ana sings"}, "status": "completed", "suggestions": {},
         "responses": {"span": [{"value": [span], "user_id": "u", "status": "submitted"}],
                       "mood": [{"value": "good", "user_id": "u", "status": "submitted"}]}},
        {"id": "1", "fields": {"text": "Ana sings"}, "suggestions": [],
         "responses": [{"user_id": "u", "status": "submitted", "values": {"span": {"value": [span]}}}]},
        {"id": "1", "status": "completed", "text": "Ana sings", "span.responses": [[span]],
         "span.responses.users": ["u"], "span.responses.status": ["submitted"]},
    ]  # fmt: skip
    for version in versions:
        posts = read_posts(document(tmp_path / "a.json", [version]))
        assert (posts.format, posts[0].id, entities(posts[0])) == ("argilla", "1", [("Ana", "B-PER")])
    draft = {**versions[1], "responses": {"span": [{"value": [span], "user_id": "u", "status": "discarded"}]}}
    posts = read_posts(document(tmp_path / "a.json", [draft, {**versions[1], "id": "2", "responses": {}}]))
    assert [post.tags for post in posts] == [None, None]
    assert "1 annotations discarded, not read as gold" in posts.notes


def test_lighttag_reviewed(tmp_path):
    by = [{"annotator": "ann"}]
    marks = [
        {"start": 0, "end": 3, "tag": "PER", "value": "Ana", "annotated_by": by, "correct": True},
        {"start": 4, "end": 9, "tag": "ORG", "value": "sings", "annotated_by": by, "correct": False},
    ]
    value = {"examples": [{"example_id": "e", "content": "Ana sings", "annotations": marks, "seen_by": by}]}
    posts = read_posts(document(tmp_path / "a.json", value))
    assert entities(posts[0]) == [("Ana", "B-PER")]
    assert posts.notes == ("1 annotations that a reviewer called wrong, left out",)


def test_webanno_stacked_and_subtokens(tmp_path):
    head = "#FORMAT=WebAnno TSV 3.3\n#T_SP=webanno.custom.Mood|mood\n#T_SP=x.NamedEntity|identifier|value\n\n\n"
    rows = "#Text=😀 Ana-Bank\n1-1\t0-2\t😀\t_\t_\t_\t\n"
    rows += "1-2\t3-11\tAna-Bank\tgood\t*[1]\tORG[1]\t\n1-2.1\t3-6\tAna\t_\t*\tPER\t\n"
    path = tmp_path / "a.tsv"
    path.write_text(head + rows, encoding="utf-8")
    with pytest.raises(DataFormatError, match=r"spans that overlap: ORG at 2\.\.10 and PER at 2\.\.5"):
        read_posts(path)
    posts = read_posts(path, overlaps="outer")
    assert entities(posts[0]) == [("Ana-Bank", "B-ORG")]
    assert posts.notes[0] == "1 layer webanno.custom.Mood, not read"
    assert entities(read_posts(path, fields={"spans": "Mood"})[0]) == [("Ana-Bank", "B-good")]


def test_types_with_blanks(tmp_path):
    posts = read_posts(lines(tmp_path / "a.jsonl", {"text": "Ana", "label": [[0, 3, "Person name"]]}))
    assert posts[0].tags == ("B-Person_name",)
    assert posts.notes == ("1 spans whose type holds blanks, read with _",)


def test_scripts_without_spaces(tmp_path):
    posts = read_posts(lines(tmp_path / "a.jsonl", {"text": "我今天在北京大学学习", "label": [[4, 8, "ORG"]]}))
    assert posts[0].words == tuple("我今天在北京大学学习")
    assert posts[0].tags[3:9] == ("O", "B-ORG", "I-ORG", "I-ORG", "I-ORG", "O")
    assert "split into its characters" in posts.notes[0]
    assert read_posts(lines(tmp_path / "b.jsonl", {"text": "我 今天 在 北京", "label": [[7, 9, "LOC"]]}))[0].words == (
        "我",
        "今天",
        "在",
        "北京",
    )
    (tmp_path / "c.txt").write_text("我今天在北京大学学习我今天在北京大学学习我 O\n好 O\n", encoding="utf-8")
    assert "whole sentences as one word?" in read_posts(tmp_path / "c.txt").notes[0]


def test_spans_of_words_with_and_without_their_last_word(tmp_path):
    path = lines(tmp_path / "a.jsonl", {"tokens": ["Ana", "of", "Oslo"], "ner": [[0, 0, "PER"], [2, 2, "LOC"]]})
    assert entities(read_posts(path)[0]) == [("Ana", "B-PER"), ("Oslo", "B-LOC")]
    path = lines(
        tmp_path / "a.jsonl", {"tokens": ["Ana", "of", "Oslo"], "entities": [{"type": "LOC", "start": 2, "end": 3}]}
    )
    assert entities(read_posts(path)[0]) == [("Oslo", "B-LOC")]
    path = lines(tmp_path / "a.jsonl", {"tokens": ["A", "B"], "ner": [[0, 0, "PER"], [1, 2, "LOC"]]})
    with pytest.raises(DataFormatError, match="ends where it begins"):
        read_posts(path)


def test_numbered_tags(tmp_path):
    path = lines(tmp_path / "a.jsonl", {"id": "0", "tokens": ["In", "Oslo"], "ner_tags": [0, 1]})
    assert read_posts(path, label_names=["O", "B-LOC"])[0].tags == ("O", "B-LOC")
    with pytest.raises(DataFormatError, match=r"a\.jsonl:1: found the tag 0 under 'ner_tags', a number.*label_names"):
        read_posts(path)


def test_tables(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('id\tword\ttag\n1\t"\tO\n1\tAna\tB-PER\n2\t"\tO\n')
    posts = read_posts(path)
    assert [(post.id, post.words) for post in posts] == [("1", ('"', "Ana")), ("2", ('"',))]
    assert posts.notes == ("2 cells with quotes that quote nothing, read as they are",)
    path.write_text('text;label\n"Ana; Bo";"[{""start"": 0, ""end"": 3, ""labels"": [""PER""]}]"\n')
    (post,) = read_posts(path.rename(tmp_path / "a.csv"))
    assert (post.words, post.tags) == (("Ana", ";", "Bo"), ("B-PER", "O", "O"))
    (tmp_path / "b.csv").write_text("id,text,image\n1,Ana sings,x.jpg\n2,Bo,\n")
    posts = read_posts(tmp_path / "b.csv")
    assert [(post.id, post.image_id, post.words, post.tags) for post in posts] == [
        ("1", "x.jpg", ("Ana", "sings"), None), ("2", None, ("Bo",), None)
    ]  # fmt: skip
    (tmp_path / "b.csv").write_text("text,start,end,label\nAna,0,3\n")
    with pytest.raises(DataFormatError, match=r"b\.csv:2: found 3 columns in 'Ana,0,3'; expected 4"):
        read_posts(tmp_path / "b.csv")


def test_ids_may_be_numbered_and_images_be_the_ids(tmp_path):
    path = lines(tmp_path / "a.jsonl", {"id": 4, "text": "Ana", "label": [[0, 3, "PER"]]})
    (post,) = read_posts(path, fields={"id": None})
    assert (post.id, post.image_id) == ("a/1", None)
    (post,) = read_posts(path, fields={"image": "id"})
    assert (post.id, post.image_id) == ("4", "4")
    with pytest.raises(DataFormatError, match="after line 1; expected each id once"):
        read_posts(lines(tmp_path / "a.jsonl", *[{"id": 4, "text": "Ana", "label": []}] * 2))
