"""What people have goes in: texts, tables, exports, several files, a folder, a pipe; what stands beside stays."""

import io
import json
import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mner.cli import main
from mner.cli.tagging import tag
from mner.data.formats.posts import FORMATS, read_posts, write_posts
from mner.errors import DataFormatError, DataNotFoundError, MNERError
from mner.tagger.bulk_files import inputs_of
from mner.tagger.tagger import Tagger


@pytest.fixture(autouse=True)
def once(monkeypatch):
    """A checkpoint is read once for all tests."""
    load = Tagger.load

    def cached(name, **options):
        key = (name, *sorted(map(str, options.items())))
        if key not in LOADED:
            LOADED[key] = load(name, **options)
        return LOADED[key]

    monkeypatch.setattr(Tagger, "load", cached)


LOADED = {}


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tagged(tmp_path, checkpoint, given, **options):
    out = tmp_path / "out.jsonl"
    assert tag(given if isinstance(given, list) else str(given), checkpoint, str(out), device="cpu", **options) == 0
    return lines(out)


def test_a_text_a_line(tmp_path, checkpoint):
    path = tmp_path / "posts.txt"
    path.write_bytes(b"\xef\xbb\xbfAnna visits Lagos\r\n\n\xff bad\n#Bo {x} IMGID:7\n")
    found = tagged(tmp_path, checkpoint, path)
    assert [(record.get("text"), record["number"]) for record in found] == [
        ("Anna visits Lagos", 1),
        (None, 3),
        ("#Bo {x} IMGID:7", 4),
    ]
    assert "0xff" in found[1]["error"]
    before = (tmp_path / "out.jsonl").read_bytes()
    tagged(tmp_path, checkpoint, path)
    assert (tmp_path / "out.jsonl").read_bytes() == before


def test_a_table_of_texts(tmp_path, checkpoint):
    path = tmp_path / "posts.csv"
    first = b'7,"Doe, Jo","Anna\nvisits ""Lagos"""'
    path.write_bytes(b"\r\n".join([b"tweet_id,author,tweet", first, b"8,Bo,\xff", b"9,Bo", b"10,Bo,", b"7,Bo,x"]))
    found = tagged(tmp_path, checkpoint, path)
    assert found[0]["id"] == "7"
    assert found[0]["text"] == 'Anna\nvisits "Lagos"'
    assert found[0]["author"] == "Doe, Jo"
    assert "tweet" not in found[0]
    assert "tweet_id" not in found[0]
    assert "0xff" in found[1]["error"]
    assert "2 columns" in found[2]["error"]
    assert ":5:" in found[2]["error"]
    assert (found[3]["text"], found[3]["words"]) == ("", [])
    assert "id '7' again" in found[4]["error"]


def test_columns_by_their_names(tmp_path, checkpoint, image_checkpoint):
    path = tmp_path / "posts.tsv"
    path.write_text('key\tinhalt\ttext\tbild\tcap\n1\tAnna "in Lagos\tother\ta.png\ta dog\n', encoding="utf-8")
    Image.new("RGB", (70, 70), (200, 10, 10)).save(tmp_path / "a.png")
    fields = {"text": "inhalt", "id": "key", "image": "bild"}
    out = tmp_path / "out.jsonl"
    options = [f"--fields.{what}={column}" for what, column in fields.items()]
    options += ["--output", str(out), "--images", str(tmp_path), "--device", "cpu"]
    assert main(["tag", str(path), "--checkpoint", image_checkpoint, *options]) == 0
    (found,) = lines(out)
    assert (found["id"], found["text"], found["bild"], found["cap"]) == ("1", 'Anna "in Lagos', "a.png", "a dog")
    assert found["given"] == {"text": "other"}
    assert found["has_image"]
    with pytest.raises(DataFormatError, match="no column 'nothing'"):
        tagged(tmp_path / "new", checkpoint, path, fields={"text": "nothing"})
    with pytest.raises(MNERError, match="fields among text, words, id, image, context, but got colour"):
        inputs_of(str(path), fields={"colour": "x"})


def test_a_table_without_texts(tmp_path, checkpoint):
    path = tmp_path / "posts.csv"
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(DataFormatError, match=r"Say which column holds the texts: --fields\.text COLUMN"):
        tagged(tmp_path, checkpoint, path)
    rows = ["words,n", "\"['Anna', 'in']\",1", "Anna in,2", '"[""Anna"", ""in Lagos""]",3']
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    bad, plain, listed = tagged(tmp_path, checkpoint, path)
    assert "is no list" in bad["error"]
    assert (plain["words"], listed["words"], listed["n"]) == (["Anna", "in"], ["Anna", "in Lagos"], "3")


def test_parquet(tmp_path, checkpoint, image_checkpoint):
    picture = io.BytesIO()
    Image.new("RGB", (70, 70), (200, 10, 10)).save(picture, "PNG")
    rows = {
        "text": ["Anna visits Lagos", "Bo", None],
        "id": [3, 4, 5],
        "likes": [1.5, None, 2.0],
        "image": [{"bytes": picture.getvalue(), "path": "a.png"}, None, None],
    }
    pq.write_table(pa.table(rows), tmp_path / "posts.parquet")
    found = tagged(tmp_path, image_checkpoint, tmp_path / "posts.parquet")
    assert [record["id"] for record in found] == ["3", "4", "5"]
    assert [record["has_image"] for record in found[:2]] == [True, False]
    assert [record["likes"] for record in found] == [1.5, None, 2.0]
    assert "neither 'text' nor 'tokens'" in found[2]["error"]
    pq.write_table(pa.table({"tokens": [["Anna", "in", "Lagos"]], "ner_tags": [[1, 0, 2]]}), tmp_path / "b.parquet")
    (found,) = tagged(tmp_path / "b", checkpoint, tmp_path / "b.parquet")
    assert (found["words"], found["ner_tags"]) == (["Anna", "in", "Lagos"], [1, 0, 2])
    (tmp_path / "c.parquet").write_text("no table")
    with pytest.raises(DataFormatError, match="a Parquet file"):
        tagged(tmp_path / "c", checkpoint, tmp_path / "c.parquet")


@pytest.mark.parametrize("name", [name for name, one in FORMATS.items() if one.write is not None])
def test_every_format_that_is_written(tmp_path, checkpoint, posts_folder, name):
    posts = [post for post in read_posts(posts_folder / "test.txt") if "\ufe0f" not in post.words]
    path = tmp_path / f"given{FORMATS[name].suffix}"
    write_posts(path, posts, name)
    found = tagged(tmp_path, checkpoint, path, input_format=name, words="whitespace")
    assert [record["words"] for record in found] == [list(post.words) for post in posts]
    assert not any("error" in record for record in found)
    # and without saying which it is
    auto = tagged(tmp_path / "auto", checkpoint, path, words="whitespace")
    assert [record.get("words") for record in auto] == [record["words"] for record in found]


def test_what_stands_beside_stays(tmp_path, checkpoint):
    tasks = [
        {
            "id": 1,
            "data": {"text": "Anna  visits Lagos", "author": "x"},
            "annotations": [{"result": [], "completed_by": 1}, {"result": [], "completed_by": 2}],
        }
    ]
    path = tmp_path / "export.json"
    path.write_text(json.dumps(tasks), encoding="utf-8")
    (found,) = tagged(tmp_path, checkpoint, path)
    assert (found["text"], found["author"], len(found["annotations"])) == ("Anna  visits Lagos", "x", 2)
    conll = tmp_path / "gold.conll"
    conll.write_text("IMGID:9\nAnna\tB-PER\nsings\tO\n", encoding="utf-8")
    (found,) = tagged(tmp_path / "conll", checkpoint, conll)
    assert (found["id"], found["words"], found["label"], found["image_ids"]) == (
        "9", ["Anna", "sings"], ["B-PER", "O"], ["9"],
    )  # fmt: skip
    conll.write_text("IMGID:9\nAnna\tB-PER\nsings\tB-\n", encoding="utf-8")
    with pytest.raises(DataFormatError, match=":3:"):
        tagged(tmp_path / "bad", checkpoint, conll)


def test_several_files_and_folders(tmp_path, checkpoint):
    given = tmp_path / "given"
    given.mkdir()
    (given / "a.jsonl").write_text('{"id": "1", "text": "Anna"}\n{\n', encoding="utf-8")
    (given / "b.csv").write_text("id,text\n1,Bo\n", encoding="utf-8")
    (given / "notes.md").write_text("no post", encoding="utf-8")
    more = tmp_path / "more.txt"
    more.write_text("Jo Doe\n", encoding="utf-8")
    out = tmp_path / "out.jsonl"
    arguments = ["tag", str(given), str(more), "--checkpoint", checkpoint, "--output", str(out), "--device", "cpu"]
    assert main(arguments) == 0
    found = lines(out)
    assert [(record["id"], record["source_file"], record.get("text")) for record in found] == [
        ("1", str(given / "a.jsonl"), "Anna"),
        (None, str(given / "a.jsonl"), None),
        ("1", str(given / "b.csv"), "Bo"),
        (None, str(more), "Jo Doe"),
    ]
    whole = out.read_bytes()
    for cut in (0, len(whole) // 3, len(whole) // 2, len(whole) - 5):  # goes on where it stopped
        out.write_bytes(whole[:cut])
        assert main(arguments) == 0
        assert out.read_bytes() == whole
    with pytest.raises(DataFormatError, match="made otherwise"):
        tagged(tmp_path, checkpoint, str(more))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataNotFoundError, match=r"No \.txt files"):
        inputs_of(str(tmp_path / "empty"))
    with pytest.raises(DataNotFoundError, match="but got none"):
        inputs_of([])
    with pytest.raises(MNERError, match="no input format 'word'"):
        inputs_of(str(more), "word")


def test_a_split_that_save_to_disk_wrote(tmp_path, checkpoint):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": ["Anna sings", "Bo"]}).save_to_disk(tmp_path / "split")
    found = tagged(tmp_path, checkpoint, tmp_path / "split")
    assert [record["text"] for record in found] == ["Anna sings", "Bo"]


def test_a_pipe(tmp_path, checkpoint, monkeypatch):
    pipes = {"text": b"Anna sings\nBo\n", "csv": b"text\nAnna sings\nBo\n", "conll": b"Anna\tO\n\nBo\tO\n"}
    for kind, given in pipes.items():
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(given)))
        found = tagged(tmp_path / kind, checkpoint, "-", input_format=kind)
        assert [record["text"].split()[0] for record in found] == ["Anna", "Bo"]
