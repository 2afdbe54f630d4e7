"""Tag schemes: both ways for any tags, and the same in every kind of file."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mner.cli import main
from mner.data.examples import Example
from mner.data.formats.conll import read_conll, write_conll
from mner.data.formats.json_lines import read_jsonl
from mner.data.formats.predictions import read_predictions
from mner.data.formats.schemes import SCHEMES, SchemeOf, from_iob2, is_iob1, split_any_tag, to_iob2
from mner.errors import DataFormatError
from mner.labels import repair, spans

TYPES = st.sampled_from(["PER", "LOC", "E-1"])
ANY = st.lists(st.builds("{}-{}".format, st.sampled_from("BI"), TYPES) | st.just("O"), min_size=1, max_size=12)
GOLD = [["B-PER", "I-PER", "I-PER", "O", "B-LOC", "B-LOC"], ["O", "B-PER", "B-PER", "I-PER", "B-LOC"]]
WORDS = [["a", "b", "c", "d", "e", "f"], ["g", "h", "i", "j", "k"]]


def in_scheme(scheme):
    return [from_iob2(tags, scheme) for tags in GOLD]


@pytest.mark.parametrize("letter", "ESMLUBI")
def test_a_letter_alone_is_no_tag(letter):
    assert split_any_tag(f"{letter}-PER") == (letter, "PER")
    for tag in (letter, f"{letter}-", f"-{letter}", f"{letter}PER", f"{letter.lower()}-PER", f"X{letter}-PER", "X-PER"):
        with pytest.raises(ValueError, match="BIO tag"):
            split_any_tag(tag)


@pytest.mark.parametrize(
    ("first", "second"), [("M-PER", "U-PER"), ("U-PER", "M-LOC"), ("I-PER", "M-PER"), ("E-PER", "L-LOC")]
)
def test_letters_of_two_schemes_are_refused(first, second):
    found = SchemeOf("file")
    found.check(1, first)
    with pytest.raises(DataFormatError) as caught:
        found.check(2, second)
    schemes = "tags of one scheme: IOB1, IOB2, IOBES (B I E S, or B M E S) or BILOU"
    assert str(caught.value) == (
        f"file:2: found the tag {second!r}, after {first!r} in line 1; expected {schemes}. "
        "Convert the parts to one scheme."
    )


@pytest.mark.parametrize("scheme", SCHEMES)
@given(tags=ANY.map(repair))
def test_there_and_back(scheme, tags):
    assert list(to_iob2(from_iob2(tags, scheme), scheme)) == tags


@pytest.mark.parametrize("scheme", ["IOBES", "BILOU"])
@given(data=st.data())
def test_any_tags_of_a_scheme_become_well_read_ones(scheme, data):
    letters = "BIES" if scheme == "IOBES" else "BILU"
    tag = st.builds("{}-{}".format, st.sampled_from(letters), TYPES) | st.just("O")
    tags = data.draw(st.lists(tag, min_size=1, max_size=12))
    found = to_iob2(tags, scheme)
    assert [tag.partition("-")[2] for tag in found] == [tag.partition("-")[2] for tag in tags]
    starts = {span.start for span in spans(found)}
    for place, tag in enumerate(tags):
        if tag[0] in "BSU" or (place and tags[place - 1][0] in "ESLU" and tag != "O"):
            assert place in starts


@given(sequences=st.lists(ANY, min_size=1, max_size=4))
def test_iob1_is_what_can_be_written_so(sequences):
    again = [list(from_iob2(repair(tags), "IOB1")) for tags in sequences]
    entities = any(spans(tags) for tags in sequences)
    assert is_iob1(sequences) == (entities and again == sequences)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", ["conll", "jsonl", "predictions"])
def test_every_kind_of_file(tmp_path, caplog, scheme, kind):
    tags = in_scheme(scheme)
    caplog.set_level("INFO", logger="mner")
    if kind == "jsonl":
        path = tmp_path / "a.jsonl"
        lines = [{"id": str(n), "tokens": w, "label": t} for n, (w, t) in enumerate(zip(WORDS, tags, strict=True))]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        posts = read_jsonl(path)
        found, named = [list(post.tags) for post in posts], posts.scheme
    else:
        path = tmp_path / "a.txt"
        more = kind == "predictions"
        blocks = []
        for n, (words, own) in enumerate(zip(WORDS, tags, strict=True)):
            rows = ["\t".join([word, *[tag] * (1 + more)]) + "\n" for word, tag in zip(words, own, strict=True)]
            blocks.append(f"IMGID:{n}\n" + "".join(rows))
        path.write_text("\n".join(blocks))
        if more:
            read = read_predictions(path)
            found, named = [list(post.gold) for post in read.posts], read.header["scheme"]
            assert [list(post.pred) for post in read.posts] == found
        else:
            posts = read_conll(path)
            found, named = [list(post.tags) for post in posts], posts.scheme
    assert found == GOLD
    assert named == scheme
    assert [f"tags in {scheme}, read as IOB2" in record.message for record in caplog.records] == [True] * (
        scheme != "IOB2"
    )


def test_bmes(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("IMGID:1\na\tB-PER\nb\tM-PER\nc\tE-PER\nd\tS-LOC\n")
    (post,) = posts = read_conll(path)
    assert post.tags == ("B-PER", "I-PER", "I-PER", "B-LOC")
    assert posts.scheme == "IOBES"


@pytest.mark.parametrize(
    ("tags", "line"),
    [("L-PER E-PER", 3), ("S-PER O U-PER", 4), ("M-PER I-PER", 3), ("I-PER M-PER", 3), ("M-PER L-PER", 3), ("X", 2)],
)
def test_letters_of_two_schemes_are_an_error_with_the_line(tmp_path, tags, line):
    path = tmp_path / "a.txt"
    path.write_text("IMGID:1\n" + "".join(f"a\t{tag}\n" for tag in tags.split()))
    with pytest.raises(DataFormatError, match=rf"a\.txt.*line {line}|a\.txt:{line}"):
        read_conll(path)


def test_a_few_strays_stay(tmp_path):
    path = tmp_path / "a.txt"
    write_conll(path, [Example("1", "1", ("a", "b", "c"), ("I-PER", "O", "B-PER"))])
    posts = read_conll(path)
    assert posts[0].tags == ("I-PER", "O", "B-PER")
    assert posts.scheme == "IOB2"


def test_predictions_beside_gold_are_in_its_scheme(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a B-PER I-PER\nb O O\n")
    (post,) = read_predictions(path).posts
    assert post.pred == ("I-PER", "O")


def test_verify_and_stats_name_it(tmp_path, capsys):
    for number, split in enumerate(("train", "valid", "test")):
        posts = [
            Example(f"{number}{row}", f"{number}{row}", tuple(words), tuple(tags))
            for row, (words, tags) in enumerate(zip(WORDS, GOLD, strict=True))
        ]
        blocks = []
        for post in posts:
            rows = zip(post.words, from_iob2(post.tags, "IOB1"), strict=True)
            blocks.append(f"IMGID:{post.id}\n" + "".join(f"{word}\t{tag}\n" for word, tag in rows))
        (tmp_path / f"{split}.txt").write_text("\n".join(blocks))
    assert main(["data", "verify", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.count("tags: IOB1, read as IOB2") == 3
    assert "stray" not in said
    main(["data", "stats", str(tmp_path)])
    assert "IOB1" in next(line for line in capsys.readouterr().out.splitlines() if line.startswith("tag scheme"))


def test_tags_are_checked_once():
    scheme = SchemeOf("file")
    scheme.check(1, "B-PER")
    scheme.check(2, "B-PER")
    assert scheme.convert([None, ["B-PER"]]) == ("IOB2", [None, ("B-PER",)])
