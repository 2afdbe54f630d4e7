"""What a user reads of a file that is wrong, word for word: place, what was found, what was expected, what to do."""

from pathlib import Path

import pytest

from mner.data.examples import Example
from mner.data.formats.conll import read_conll
from mner.data.formats.context import read_context
from mner.data.formats.json_lines import read_jsonl
from mner.data.formats.posts import FORMATS, read_posts
from mner.data.formats.predictions import read_predictions
from mner.data.formats.relations import read_relations
from mner.data.formats.word_vectors import read_vectors
from mner.errors import DataFormatError, DataNotFoundError


def vectors(path):
    return read_vectors(path, {"the"})


CASES = [
    (
        read_conll,
        b"IMGID:1\nZ\xfcrich\tB-LOC\n",
        "a.txt:2: found the byte 0xfc, which is not UTF-8; expected text in UTF-8. Convert the file, for instance"
        " `iconv -f LATIN1 -t UTF-8` (or `-f UTF-16`, as its encoding is).",
    ),
    (
        read_conll,
        "",
        "a.txt:1: found an empty file; expected at least one post or text. Was the download cut off?",
    ),
    (
        read_conll,
        "a\tO\n\nIMGID:1\nb\tO\n",
        "a.txt:1: found 'a\\tO'; expected 'IMGID:<id>' as the first line of a post, as others of the file have one. "
        "One blank line ends a post.",
    ),
    (
        read_conll,
        "IMGID:\na\tO\n",
        "a.txt:1: found 'IMGID:', without an id; expected 'IMGID:<id>'.",
    ),
    (
        read_conll,
        "IMGID:1\n\n",
        "a.txt:1: found post '1' without words; expected at least one word. Remove the post, or the blank line "
        "after its id.",
    ),
    (
        read_conll,
        "IMGID:1\na\n",
        "a.txt:2: found 1 column in 'a'; expected two columns, word<TAB>tag. Columns are separated by one tab, "
        "posts by a line with nothing in it.",
    ),
    (
        read_conll,
        "IMGID:1\na\tO\nb\tO\nc\tO\tO\n",
        "a.txt:4: found 3 columns in 'c\\tO\\tO'; expected two columns, word<TAB>tag. Columns are separated by one "
        "tab, posts by a line with nothing in it.",
    ),
    (
        read_conll,
        "IMGID:1\n\tO\n",
        "a.txt:2: found no word before the tab in '\\tO'; expected word<TAB>tag.",
    ),
    (
        read_conll,
        "IMGID:1\na\tPER\n",
        "a.txt:2: found the tag 'PER'; expected O, B-TYPE or I-TYPE (or E-, S-, M- as in IOBES, L-, U- as in "
        "BILOU). Plain types have to become BIO tags first.",
    ),
    (
        read_conll,
        "IMGID:1\na\tO\n\nIMGID:1\na\tO\n",
        "a.txt:4: found the id '1' again, after line 1, before the same words; expected each post once. Remove one of "
        "the two.",
    ),
    (
        read_conll,
        "IMGID:1\na\tS-PER\nb\tU-PER\n",
        "a.txt:3: found the tag 'U-PER', after 'S-PER' in line 2; expected tags of one scheme: IOB1, IOB2, IOBES "
        "(B I E S, or B M E S) or BILOU. Convert the parts to one scheme.",
    ),
    (
        read_conll,
        "IMGID:1\na\tB-PER\nb\tI-PER\nc\tM-PER\n",
        "a.txt:4: found the tag 'M-PER', after 'I-PER' in line 3; expected tags of one scheme: IOB1, IOB2, IOBES "
        "(B I E S, or B M E S) or BILOU. Convert the parts to one scheme.",
    ),
    (
        read_jsonl,
        '{"id": "1",\n',
        'a.txt:1: found \'{"id": "1",\' (Expecting property name enclosed in double quotes, column 12); expected '
        "one JSON object a line. Write one object a line, without line breaks inside, and no brackets or commas "
        "around the lines.",
    ),
    (
        read_jsonl,
        '[{"id": "1"}]\n',
        'a.txt:1: found a list (\'[{"id": "1"}]\'); expected one JSON object a line. Write each element of the list'
        " on its own line.",
    ),
    (
        read_jsonl,
        "0.5\n",
        "a.txt:1: found a number ('0.5'); expected one JSON object a line.",
    ),
    (
        read_jsonl,
        "3\n",
        "a.txt:1: found a number ('3'); expected one JSON object a line.",
    ),
    (
        read_jsonl,
        '{"id": "1", "id": "2"}\n',
        'a.txt:1: found \'{"id": "1", "id": "2"}\' (the key \'id\' twice in one object); expected one JSON object a '
        "line.",
    ),
    (
        read_jsonl,
        '{"id": "\\ud83d", "tokens": ["a"]}\n',
        "a.txt:1: found half of a surrogate pair; expected text. Such an escape comes from text cut inside an "
        "emoji; remove it.",
    ),
    (
        read_jsonl,
        '{"tokens": ["a"]}\n',
        "a.txt:1: found no 'id' (the keys are ['tokens']); expected a string 'id'.",
    ),
    (
        read_jsonl,
        '{"id": 1, "tokens": ["a"]}\n',
        'a.txt:1: found a number as \'id\'; expected a string. Put it in quotes: "1".',
    ),
    (
        read_jsonl,
        '{"id": true, "tokens": ["a"]}\n',
        "a.txt:1: found true as 'id'; expected a string.",
    ),
    (
        read_jsonl,
        '{"id": "", "tokens": ["a"]}\n',
        "a.txt:1: found an empty 'id'; expected a string with content.",
    ),
    (
        read_jsonl,
        '{"id": "1"}\n',
        "a.txt:1: found no 'tokens' (the keys are ['id']); expected a list of strings 'tokens'.",
    ),
    (
        read_jsonl,
        '{"id": "1", "tokens": "a"}\n',
        "a.txt:1: found a string as 'tokens'; expected a list of strings.",
    ),
    (
        read_jsonl,
        '{"id": "1", "tokens": ["a", null]}\n',
        "a.txt:1: found null among 'tokens'; expected a list of strings.",
    ),
    (
        read_jsonl,
        '{"id": "1", "tokens": []}\n',
        "a.txt:1: found post '1' without words; expected at least one word. Remove the post.",
    ),
    (
        read_jsonl,
        '{"id": "1", "tokens": [""]}\n',
        "a.txt:1: found an empty word in post '1'; expected words with content.",
    ),
    (
        read_jsonl,
        '{"id": "1", "tokens": ["a"], "tags": ["O"]}\n',
        "a.txt:1: found tags under 'tags'; expected tags under 'label'. Rename the key.",
    ),
    *(
        (
            read_jsonl,
            f'{{"id": "1", "tokens": ["a"], "{key}": ["O"]}}\n',
            f"a.txt:1: found tags under '{key}'; expected tags under 'label'. Rename the key.",
        )
        for key in ("labels", "tag", "ner_tags")
    ),
    (
        read_jsonl,
        '{"id": "1", "tokens": ["a"], "label": ["O", "O"]}\n',
        "a.txt:1: found 1 tokens and 2 tags; expected as many tags as tokens. Words and tags belong together one "
        "by one.",
    ),
    (
        read_jsonl,
        '{"id": "1", "tokens": ["a"], "image_ids": ["7", "7"]}\n',
        "a.txt:1: found the image ids ['7', '7']; expected different ids with content. Name each image once.",
    ),
    (
        read_jsonl,
        '{"id": "1", "tokens": ["a"], "image_id": "8", "image_ids": ["7", "8"]}\n',
        "a.txt:1: found image_id '8' beside image_ids ['7', '8']; expected the first of them, or none.",
    ),
    (
        read_context,
        '{"caption": "a man"}\n',
        "a.txt:1: found neither 'id' nor 'image_id' (the keys are ['caption']); expected the id of a post or of "
        "an image.",
    ),
    (
        read_context,
        '{"id": "1", "words": "a man"}\n',
        "a.txt:1: found neither 'caption' nor 'text' (the keys are ['id', 'words']); expected the text under one "
        "of the two.",
    ),
    (
        read_context,
        '{"id": "1", "caption": null}\n',
        "a.txt:1: found null as 'caption'; expected a string. Leave the line out where there is no text.",
    ),
    (
        read_context,
        "a man\n",
        "a.txt:1: found 'a man'; expected '<id> :<text>', or JSON lines throughout. A text of several lines needs"
        " JSON lines.",
    ),
    (
        read_context,
        "1.jpg :a man\n1.jpg :a dog\n",
        "a.txt:2: found another text for image_id '1' than at a.txt:1; expected one text for each id. Keep one of"
        " the two; several sources belong in several files.",
    ),
    (
        read_context,
        '{"id": "1", "image_id": "7", "text": "a man"}\n{"image_id": "7", "text": "a dog"}\n',
        "a.txt:2: found another text for image_id '7' than at a.txt:1; expected one text for each id. Keep one of the "
        "two; several sources belong in several files.",
    ),
    (
        read_relations,
        "7\t0.5\n8\t1.5\n",
        "a.txt:2: found the value 1.5 of image '8'; expected a number from 0 (the image adds nothing to the text)"
        " to 1 (it does).",
    ),
    (
        read_relations,
        "7\t0.5\n7.jpg\t0.25\n",
        "a.txt:2: found the values 0.5 and 0.25 of image '7.jpg'; expected one value an image. Keep one of the "
        "two lines.",
    ),
    (
        read_relations,
        '{"image_id": "7", "relation": true}\n',
        "a.txt:1: found true as 'relation'; expected a number from 0 (the image adds nothing to the text) to 1 "
        "(it does).",
    ),
    (
        read_relations,
        "7 0.5\n",
        "a.txt:1: found '7 0.5'; expected image id, tab, value; or JSON lines throughout.",
    ),
    (
        read_relations,
        "7\thalf\n",
        "a.txt:1: found the value 'half' of image '7'; expected a number from 0 (the image adds nothing to the "
        "text) to 1 (it does).",
    ),
    (
        read_predictions,
        '{"mner_predictions": 1}\n',
        "a.txt:1: found a header without posts; expected at least one post. Was the prediction interrupted?",
    ),
    (
        read_predictions,
        '{"id": "1"}\n',
        "a.txt:1: found a first line without 'mner_predictions' (the keys are ['id']); expected the header of a "
        "prediction file. A file of posts is no prediction file; `mner predict` writes one.",
    ),
    (
        read_predictions,
        '{"mner_predictions": 2}\n',
        "a.txt:1: found format 2; expected format 1. Read it with the version of mner that wrote it, or write it "
        "again.",
    ),
    (
        read_predictions,
        '{"mner_predictions": 1}\n{"id": "1", "words": ["a"], "pred": ["PER"]}\n',
        "a.txt:2: found the tag 'PER'; expected O, B-TYPE or I-TYPE. Convert other schemes (BIOES, IO) to BIO "
        "first.",
    ),
    (
        read_predictions,
        '{"mner_predictions": 1, "labels": ["O"]}\n{"id": "1", "words": ["a"], "pred": ["B-PER"]}\n',
        "a.txt:2: found predicted tags ['B-PER']; expected the header's labels ['O'].",
    ),
    (
        read_predictions,
        '{"mner_predictions": 1}\n{"id": "1", "words": ["a"], "pred": ["O"], "has_image": 1}\n',
        "a.txt:2: found a number as 'has_image'; expected true or false.",
    ),
    (
        read_predictions,
        '{"mner_predictions": 1}\n{"id": "1", "words": ["a"], "pred": ["O", "O"]}\n',
        "a.txt:2: found 1 words and 2 predicted tags in post '1'; expected one gold and one predicted tag a word.",
    ),
    (
        read_predictions,
        '{"mner_predictions": 1}\n{"id": "1", "words": ["a"], "gold": ["O", "O"], "pred": ["O"]}\n',
        "a.txt:2: found 1 words and 2 gold tags in post '1'; expected one gold and one predicted tag a word.",
    ),
    (
        read_predictions,
        '{"mner_predictions": 1}\n{"id": "1", "words": [], "pred": []}\n',
        "a.txt:2: found no words in post '1'; expected one gold and one predicted tag a word.",
    ),
    (
        read_predictions,
        '{"mner_predictions": 1}\n{"id": "1", "words": ["a"], "pred": ["O"], "entities": {}}\n',
        'a.txt:2: found an object as \'entities\'; expected a list of {"start", "end", "type", "score"}, the score '
        "from 0 to 1 or null.",
    ),
    (
        read_predictions,
        '{"mner_predictions": 1}\n{"id": "1", "words": ["a"], "pred": ["O"], "entities": [{"start": 0}]}\n',
        'a.txt:2: found the entity \'{"start": 0}\'; expected {"start", "end", "type", "score"}, the score from 0 '
        "to 1 or null.",
    ),
    (
        read_predictions,
        '{"mner_predictions": 1}\n{"id": "1", "words": ["a"], "pred": ["O"], "entities": '
        '[{"start": 0, "end": 2, "type": "PER", "score": 0.5}]}\n',
        "a.txt:2: found an entity at 0..2 of 1 words in post '1'; expected one gold and one predicted tag a word.",
    ),
    (
        read_predictions,
        "IMGID:1\na O O\n\nb O O\n",
        "a.txt:4: found 'b O O'; expected 'IMGID:<id>', since other posts have an id.",
    ),
    (
        read_predictions,
        "IMGID:1\n\nIMGID:2\na O\n",
        "a.txt:1: found post '1' without words; expected at least one word.",
    ),
    (
        read_predictions,
        "a O O\nb O\n",
        "a.txt:2: found 2 columns in 'b O'; expected the columns 'token gold pred' or 'token pred', as many in "
        "every line.",
    ),
    (
        vectors,
        "the 0.5 1\ncat 2\n",
        "a.txt:2: found 'cat 2'; expected a word and 2 numbers, parted by single spaces. Is the file cut off, or "
        "mixed with another?",
    ),
    (
        vectors,
        "the 0.5 1\ncat 2 3\t\n",
        "a.txt:2: found 'cat 2 3\\t'; expected a word and 2 numbers, parted by single spaces. Is the file cut off, or "
        "mixed with another?",
    ),
    (
        vectors,
        "the\n",
        "a.txt:1: found 'the'; expected a word and the numbers of its vector. GloVe's and word2vec's files are "
        "read, as text or binary, gzipped or not.",
    ),
    (
        vectors,
        "3 2\nthe 0.5 1\n",
        "a.txt:2: found 1 rows; expected 3, as line 1 says. Was the download cut off?",
    ),
    (
        vectors,
        "0 2\n",
        "a.txt:1: found 0 rows of width 2; expected at least 1 of each.",
    ),
    (
        vectors,
        "the 0.5 inf\n",
        "a.txt:1: found 'the 0.5 inf'; expected a word and 2 numbers, parted by single spaces. Is the file cut "
        "off, or mixed with another?",
    ),
    (
        vectors,
        "the 0.5 1e999\n",
        "a.txt:1: found a number that is not finite in the vector of 'the'; expected numbers.",
    ),
    (
        vectors,
        b"a 1 2\n\xff 1 2\n",
        "a.txt:2: found the byte 0xff, which is not UTF-8; expected text in UTF-8. Convert the file, for instance"
        " `iconv -f LATIN1 -t UTF-8`.",
    ),
    (
        vectors,
        b"2 1\nthe \x00\x00\x80?cat \x00",
        "a.txt: found no whole row at row 2; expected 2 rows of 1 floats, as the start says. Was the download cut"
        " off?",
    ),
    (
        vectors,
        b"1 1\nthe \x00\x00\x80?cat \x00\x00\x80?",
        "a.txt: found more than 1 rows; expected 1 rows, as the start says.",
    ),
    (
        vectors,
        b"\x1f\x8bnothing",
        "a.txt: found broken gzip (Compressed file ended before the end-of-stream marker was reached); expected a"
        " whole file. Download it again.",
    ),
    (
        vectors,
        "the 0.5 1-\n",
        "a.txt:1: found 'the 0.5 1-'; expected a word and the numbers of its vector. GloVe's and word2vec's files"
        " are read, as text or binary, gzipped or not.",
    ),
]


@pytest.mark.parametrize(("read", "content", "message"), CASES)
def test_the_whole_line(tmp_path, monkeypatch, read, content, message):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataFormatError) as caught:
        read("a.txt")
    assert str(caught.value) == message


def test_the_format_of_a_file_of_posts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("a,O", encoding="utf-8")

    def refused(format=None):
        with pytest.raises(DataFormatError) as caught:
            read_posts("a.csv", format)
        return str(caught.value)

    assert refused() == (
        "a.csv:1: found 'a,O'; expected names of columns: sentence, word, tag; or text, start, end, label; or id, text."
        " Say which is which: format='csv_tokens' (or csv_spans), fields={'words': COLUMN, 'tags': COLUMN, …}."
    )
    for name, reason in (
        ("jsonlines", "Empty module name"),
        ("no_such_module.read", "No module named 'no_such_module'"),
        ("json.read_x", "module 'json' has no attribute 'read_x'"),
    ):
        assert refused(name) == (
            f"a.csv: found the format {name!r} ({reason}); "
            f"expected one of {', '.join(FORMATS)}, or the import path of a function (my_module.read_x)."
        )

    def rows(path):
        return [Example("1", None, ("a",), ("O",)), {"id": "2"}]

    def twice(path):
        return [Example(id_, None, ("a",), ("O",)) for id_ in "121"]

    def plain(path):
        return [Example("1", None, ("a",), ("O",)), Example("2", None, ("a",), ("PER",))]

    assert refused(rows) == "a.csv: found dict from rows; expected a list of mner.data.Example."
    assert refused(twice) == "a.csv: found the id '1' twice; expected each id once."
    assert refused(plain).startswith("a.csv, post '2': found the tag 'PER'; expected O, B-TYPE or I-TYPE (or")


def test_texts_of_two_files_for_one_image(tmp_path):
    (tmp_path / "a.txt").write_text("7.jpg :a man\n7.png :a dog\n", encoding="utf-8")
    with pytest.raises(DataFormatError) as caught:
        read_context(tmp_path / "a.txt").find(Example("1", "7", ("a",)))
    assert str(caught.value) == (
        "context: found texts of 7.jpg and 7.png for the image '7'; expected one text. "
        "Give the image id with its suffix."
    )


def test_a_format_by_name(tmp_path):
    (tmp_path / "a").write_text('{"id": "1", "tokens": ["a"], "label": ["O"]}\n', encoding="utf-8")
    (tmp_path / "b").write_text("IMGID:1\na\tO\n", encoding="utf-8")
    assert read_posts(tmp_path / "a", "json_lines") == [Example("1", None, ("a",), ("O",))]
    assert read_posts(tmp_path / "b", "conll") == [Example("1", "1", ("a",), ("O",))]


@pytest.mark.parametrize(
    ("read", "of_nothing", "of_a_folder"),
    [
        (
            read_conll,
            "No file a.txt; check the path (it is relative to {here})",
            "Expected a file, but folder is a folder",
        ),
        (
            vectors,
            "No file a.txt; expected word vectors (GloVe or word2vec)",
            "Expected a file of word vectors, but folder is a folder",
        ),
    ],
)
def test_what_is_no_file(tmp_path, monkeypatch, read, of_nothing, of_a_folder):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    for path, message in (("a.txt", of_nothing), ("folder", of_a_folder)):
        with pytest.raises(DataNotFoundError) as caught:
            read(path)
        assert str(caught.value) == message.format(here=tmp_path)
