"""Files of posts in any format: one data set exported in many ways is the same posts; what is written reads back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mner.data.examples import Example
from mner.data.formats.lines import Source
from mner.data.formats.posts import FORMATS, find_format, read_posts, write_posts
from mner.data.word_splitter import Word
from mner.errors import DataFormatError, DataNotFoundError, MNERError

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
from exports import EXPORTS, content  # noqa: E402

# Emoji before an entity, a no-break space as a word, signs that formats use, an entity at either end, two side by side.
WORDS = [
    (["Ana", "Sol", "loves", "Oslo", "😀", "#", "x"], ["B-PER", "I-PER", "O", "B-LOC", "O", "O", "O"]),
    (["😀👍🏽", "in", "New", "York", "\xa0", "!"], ["O", "O", "B-LOC", "I-LOC", "O", "O"]),
    (["[", "Bo", "]", "A|B", "a_b->c;", "\\", "*", '"'], ["O", "B-PER", "O", "B-ORG", "O", "O", "O", "O"]),
    (["nothing", "here", "&amp;", "'", ",", "-"], ["O"] * 6),
    (["Ann", "Bo", "EU"], ["B-PER", "B-PER", "B-ORG"]),
]
POSTS = [Example(f"p{n}", f"i{n}", tuple(words), tuple(tags)) for n, (words, tags) in enumerate(WORDS)]


@pytest.mark.parametrize("name", EXPORTS)
def test_exports_of_one_data_set_are_the_same_posts(tmp_path, name):
    EXPORTS[name](POSTS, tmp_path / name)
    assert content(read_posts(tmp_path / name)) == content(POSTS)


def test_the_command_compares_them(tmp_path, capfd):
    write_posts(tmp_path / "posts.jsonl", POSTS, "json_lines")
    command = [sys.executable, str(BENCHMARKS / "exports.py"), str(tmp_path / "posts.jsonl")]
    subprocess.run(command, check=True)
    assert f"{len(EXPORTS)} of {len(EXPORTS)} exports of 5 posts are read as the same posts" in capfd.readouterr().out


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level("ERROR", logger="mner")


WRITTEN = [name for name, format in FORMATS.items() if format.write is not None]
WITHOUT_IDS = ("spacy_iob",)
WITHOUT_IMAGES = ("spacy_iob", "brat", "webanno")
ALL_LABELLED = ("spacy_iob", "csv_spans", "conll", "webanno")
ONE_KIND = ("conllu",)
word = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=4)
type_ = st.sampled_from(["PER", "LOC", "a_b", "geo-loc"])


@st.composite
def post(draw: st.DrawFn, id_: str, labelled: bool, images: bool) -> Example:
    words = draw(
        st.lists(word | st.sampled_from(["😀", "\xa0", '"', "|", "#", "_", "O", "&lt;"]), min_size=1, max_size=6)
    )
    tags: list[str] = []
    while labelled and len(tags) < len(words):
        length = draw(st.integers(1, len(words) - len(tags)))
        name = draw(type_)
        tags += draw(st.sampled_from([["O"] * length, [f"B-{name}", *[f"I-{name}"] * (length - 1)]]))
    return Example(id_, f"{id_}.jpg" if images else None, tuple(words), tuple(tags) if labelled else None)


@st.composite
def some_posts(draw: st.DrawFn, name: str) -> list[Example]:
    ids = [f"id {n}" if name not in ("conll", "brat") else f"id{n}" for n in range(draw(st.integers(1, 4)))]
    mixed = name not in (*ALL_LABELLED, *ONE_KIND)
    images = name not in WITHOUT_IMAGES and name != "conll" and draw(st.booleans())
    return [draw(post(id_, not mixed or draw(st.booleans()), images and draw(st.booleans()))) for id_ in ids]


@pytest.mark.parametrize("name", WRITTEN)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_what_is_written_reads_back_equal(tmp_path_factory, name, data):
    pytest.importorskip({"spacy": "spacy", "parquet": "pyarrow"}.get(name, "json"))
    posts = data.draw(some_posts(name))
    path = tmp_path_factory.mktemp("posts") / f"valid{FORMATS[name].suffix}"
    try:
        write_posts(path, posts, name)
    except MNERError:
        assert name == "spacy_iob"
        assert all("|" in word for post in posts for word in post.words)
        return
    read = read_posts(path, name, words="spaces")
    expected = posts
    if name in WITHOUT_IDS:
        expected = [Example(f"valid/{n}", None, post.words, post.tags) for n, post in enumerate(posts, start=1)]
    assert read == expected
    assert read.format == name


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_is_found_by_its_content(tmp_path, name):
    pytest.importorskip({"spacy": "spacy", "parquet": "pyarrow"}.get(name, "json"))
    posts = [Example(post.id, post.id, post.words, post.tags) for post in POSTS]
    path = tmp_path / f"posts{FORMATS[name].suffix}"
    write_posts(path, posts, name)
    assert find_format(Source(path)) == name
    read = read_posts(path)
    assert content(read) == content(posts)
    if name not in (*WITHOUT_IDS, *WITHOUT_IMAGES):
        assert read == posts


@pytest.mark.parametrize("name", [name for name in WRITTEN if name not in ("parquet", "spacy", "json_lines", "conllu")])
def test_a_format_of_texts_refuses_words_with_blanks(tmp_path, name):
    if name in ("conll", "csv_tokens"):
        write_posts(tmp_path / "a", [Example("1", None, ("a b",), ("O",))], name)
        assert read_posts(tmp_path / "a", name)[0].words == ("a b",)
        return
    with pytest.raises(MNERError, match="blank"):
        write_posts(tmp_path / "a", [Example("1", None, ("a b",), ("O",))], name)
    assert not (tmp_path / "a").is_file()


@pytest.mark.parametrize("name", ["saved_dataset", "label_studio_min", "docbin"])
def test_unknown_formats_are_refused_with_the_known(tmp_path, name):
    with pytest.raises(MNERError, match="there are spacy, parquet"):
        write_posts(tmp_path / "a", POSTS, name)
    assert list(tmp_path.iterdir()) == []


def test_words_are_split_as_asked(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "don\'t go to Oslo-Bergen!", "spans": [[12, 16, "LOC"]]}\n')
    assert read_posts(path)[0].words == ("don't", "go", "to", "Oslo", "-Bergen!")
    assert read_posts(path).notes == ("1 words cut at the edges of spans",)
    assert read_posts(path, words="treebank")[0].words == ("do", "n't", "go", "to", "Oslo", "-Bergen", "!")
    found = read_posts(path, words=lambda text: [Word(text, 0, len(text))])
    assert found[0].words == ("don't go to ", "Oslo", "-Bergen!")
    assert found[0].tags == ("O", "B-LOC", "O")
    with pytest.raises(ValueError, match="'spaces', 'twitter2015'"):
        read_posts(path, words="space")


def test_types_are_renamed_merged_and_dropped(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a B-OTHER\nb I-OTHER\nc B-PER\nd B-ORG\ne I-LOC\n\nf O\n")
    read = read_posts(path, type_map={"OTHER": "MISC", "PER": None, "LOC": "ORG"})
    assert read[0].tags == ("B-MISC", "I-MISC", "O", "B-ORG", "B-ORG")
    assert read[1].tags == ("O",)
    assert read.notes == (
        "1 entities of type OTHER read as MISC", "1 entities of type PER dropped", "1 entities of type LOC read as ORG",
    )  # fmt: skip


def test_a_function_of_the_users_own_with_types(tmp_path):
    posts = read_posts(tmp_path / "a", lambda path: [Example("1", None, ("a",), ("B-X",))], type_map={"X": "Y"})
    assert posts == [Example("1", None, ("a",), ("B-Y",))]


def test_folders_that_are_no_posts(tmp_path):
    with pytest.raises(DataNotFoundError, match="is a folder"):
        read_posts(tmp_path)


@pytest.mark.parametrize(("option", "value"), [("overlaps", "inner"), ("offsets", "utf8"), ("fields", {"txt": "a"})])
def test_wrong_options_are_refused(tmp_path, option, value):
    with pytest.raises(ValueError, match=f"`?{option}`?"):
        read_posts(tmp_path / "a.txt", **{option: value})


def test_a_pipe_is_read_once(tmp_path):
    write_posts(tmp_path / "a.jsonl", POSTS, "doccano")
    code = "import sys; from mner.data import read_posts; print(len(read_posts(sys.argv[1])), len(read_posts('-')))"
    command = f'{sys.executable} -c "{code}" <(cat a.jsonl) < a.jsonl'
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["5", "5"]


@pytest.mark.parametrize("name", [name for name in EXPORTS if name != "brat"])
def test_every_export_cut_anywhere_is_read_or_refused(tmp_path, name):
    """Half of a file gives posts, or one line with the place, what was found and what was expected."""
    EXPORTS[name](POSTS, tmp_path / name)
    raw = (tmp_path / name).read_bytes()
    for end in range(1, len(raw), max(1, len(raw) // 40)):
        (tmp_path / name).write_bytes(raw[:end])
        try:
            read_posts(tmp_path / name)
        except (DataFormatError, MNERError) as error:
            assert name in str(error)  # noqa: PT017
            assert "\n" not in str(error) and "expected" in str(error).lower()  # noqa: PT017, PT018


@pytest.mark.parametrize("separator", [" ", "\t", "|"])
@pytest.mark.parametrize("word", ["{", "[", "{}", "[]", "[Photo]"])
def test_a_first_word_of_brackets_is_no_json(tmp_path, word, separator):
    end = " " if separator == "|" else "\n"
    (tmp_path / "a.txt").write_text(f"{word}{separator}O{end}Ana{separator}B-PER\n")
    (post,) = read_posts(tmp_path / "a.txt")
    assert (post.words, post.tags) == ((word, "Ana"), ("O", "B-PER"))


def test_a_word_that_lost_its_tab_is_no_comment(tmp_path):
    (tmp_path / "a.txt").write_text("IMGID:1\nAna\tB-PER\n# I-PER\n\nIMGID:2\nBo\tB-PER\n")
    with pytest.raises(DataFormatError, match=r"a.txt:3: found 1 column in '# I-PER'"):
        read_posts(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_text("# text = Ana O\nAna\tB-PER\n")
    assert read_posts(tmp_path / "b.txt")[0].words == ("Ana",)


def test_names_of_parquet_columns_that_are_no_text(tmp_path):
    pytest.importorskip("pyarrow")
    write_posts(tmp_path / "o" / "a.parquet", [Example("1", "7.jpg", ("Ana",), ("B-PER",))], "parquet")
    raw = (tmp_path / "o" / "a.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(raw.replace(b"image_ids", b"image\xedids"))
    with pytest.raises(DataFormatError, match=r"b.parquet: found no Parquet \('utf-8' codec"):
        read_posts(tmp_path / "b.parquet")
