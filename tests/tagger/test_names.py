"""Names that are always or never entities: the best path among those that keep to them, by enumeration."""

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mner.cli import main
from mner.data.word_splitter import Word, split_words
from mner.errors import DataFormatError, DataNotFoundError, MNERError
from mner.fusion import FusionModule, TextOnly
from mner.labels import Span, allowed_transitions, spans
from mner.nn import CRF
from mner.tagger.names import Names, Rule
from mner.tagger.post import Post
from mner.tagger.tagger import Tagger
from tests.tagging import save_checkpoint

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def rules(*given):
    return Names([Rule(name, always, type_, "list", line) for line, (name, always, type_) in enumerate(given, 1)])


def words_of(*texts):
    found, start = [], 0
    for text in texts:
        found.append(Word(text, start, start + len(text)))
        start += len(text) + 1
    return found


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, posts_folder, bert_folder):
    return save_checkpoint(tmp_path_factory.mktemp("names") / "text.ckpt", TextOnly, posts_folder, bert_folder)


@pytest.mark.parametrize("constrain", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_path_among_those_that_keep_to_the_names(seed, constrain):
    torch.manual_seed(seed)
    crf = CRF(5, batch_first=True, labels=LABELS, constrain=constrain).double()
    words = words_of("Anna", "Old", "Town", "Jo")
    names = rules(("Old Town", True, "LOC"), ("Anna", False, "*"), ("Jo", False, "LOC"))
    emissions = 3 * torch.randn(1, 4, 5, dtype=torch.float64)
    allowed = names.allowed([words], LABELS, 4)
    restricted = emissions.masked_fill(~torch.from_numpy(allowed), -torch.inf)
    start, follow = allowed_transitions(LABELS)
    scores = {}
    for path in itertools.product(range(5), repeat=4):
        tags = [LABELS[index] for index in path]
        bio = start[path[0]] and all(follow[a][b] for a, b in itertools.pairwise(path))
        # The rules in words, not in masks of labels.
        town = (tags[1], tags[2]) == ("B-LOC", "I-LOC") and tags[3] != "I-LOC"
        if (constrain and not bio) or not town or tags[0] != "O" or tags[3][2:] == "LOC":
            continue
        with torch.no_grad():
            score = crf.start_transitions[path[0]] + crf.end_transitions[path[-1]]
            score = score + sum(emissions[0, word, label] for word, label in enumerate(path))
            scores[path] = float(score + sum(crf.transitions[a, b] for a, b in itertools.pairwise(path)))
    (best,) = crf.decode(restricted)
    assert tuple(best) == max(scores, key=scores.get)
    total = np.exp(list(scores.values())).sum()
    for span in (Span(1, 3, "LOC"), Span(3, 4, "PER")):
        if constrain:  # else an I- may open an entity, which the product along the span does not count
            inside = sum(np.exp(s) for path, s in scores.items() if span in spans([LABELS[i] for i in path]))
            found = crf.span_probabilities(restricted, None, [[span]])[0][0]
            assert found == pytest.approx(inside / total, abs=1e-9)


def test_no_names_restrict_nothing():
    names = rules(("Anna", True, "PER"))
    assert names.allowed([words_of("Bo", "sings")], LABELS, 2) is None
    allowed = names.allowed([words_of("Bo"), words_of("so", "Anna")], LABELS, 3)
    assert allowed[0].all()
    assert allowed[1, 0].all()
    assert allowed[1, 1].tolist() == [False, True, False, False, False]
    assert allowed[1, 2].tolist() == [True, True, False, True, True]


def test_the_longest_counts_and_of_equals_the_first():
    names = rules(("Big Apple", True, "LOC"), ("Apple", False, "LOC"), ("a b", True, "PER"), ("b c", True, "LOC"))
    found = names.find(words_of("Big", "Apple", "Apple", "a", "b", "c"))
    assert [(start, end, str(some[0])) for start, end, some in found] == [
        (0, 2, "always LOC"),
        (2, 3, "never LOC"),
        (3, 5, "always PER"),
    ]


def test_how_names_are_found():
    names = rules(*((name, True, "LOC") for name in ("Old  Town", "東京", "Zu\u0308rich", "U.S.")))

    def found(text, style="twitter2017"):
        words = split_words(text, style)
        return [text[words[start].start : words[end - 1].end] for start, end, _ in names.find(words)]

    assert found("in Old\nTown!") == ["Old\nTown"]
    assert found("old town, OldTown, Old Townsend") == []
    assert found("私は東京へ", "characters") == ["東京"]
    assert found("私は東京へ") == []  # one word, of which the name is a part
    assert found("Zürich Z\u00ad\u00fcrich") == ["Zürich", "Z\u00adürich"]
    assert found("the U.S. of") == ["U.S."]
    assert names.find(words_of("U", ".", "S", ".")) == []
    names.also_as(lambda text: split_words(text, "twitter2017"))
    assert [one[:2] for one in names.find(words_of("U", ".", "S", "."))] == [(0, 4)]
    loose = Names([Rule("Straße", True, "LOC", "list", 1)], ignore_case=True)
    assert [one[:2] for one in loose.find(words_of("STRASSE", "strasse", "strase"))] == [(0, 1), (1, 2)]


@given(
    texts=st.lists(st.sampled_from(["a", "b", "ab", "\u200b"]), min_size=1, max_size=7),
    gaps=st.lists(st.booleans(), min_size=7, max_size=7),
    listed=st.sets(st.sampled_from(["a", "b", "ab", "a b", "b a", "a ab", "a b a"]), min_size=1),
)
def test_found_as_by_trying_all(texts, gaps, listed):
    """Each span of words is looked up in the list; the longest first, then the first."""
    names = rules(*((name, True, "PER") for name in sorted(listed)))
    words, text = [], ""
    for one, gap in zip(texts, gaps, strict=False):
        text += " " if gap and text else ""
        words.append(Word(one, len(text), len(text) + len(one)))
        text += one
    spans_of = [
        (start, end, " ".join(text[words[start].start : words[end - 1].end].replace("\u200b", "").split()))
        for start in range(len(words))
        if words[start].text != "\u200b"
        for end in range(start + 1, len(words) + 1)
    ]
    taken: set[int] = set()
    expected = []
    for start, end, found in sorted(spans_of, key=lambda one: (-len(one[2]), one[0])):
        if found in listed and taken.isdisjoint(range(start, end)):
            taken |= set(range(start, end))
            expected.append((found, start))
    ours = [(rules_[0].name, start) for start, _, rules_ in names.find(words)]
    assert {name for name, _ in ours} == {name for name, _ in expected}
    assert [name for name, _ in ours] == [name for name, _ in sorted(expected, key=lambda one: one[1])]


FAULTS = [
    ("Anna\tB-PER\tx\n", ":1: .*expected NAME<TAB>always or never<TAB>TYPE"),
    ("# names\n\nAnna\n", ":3: .*For a plain list"),
    ("Anna\talways\t*\n", ":1: "),
    ("\u200b\talways\tPER\n", ":1: .*nothing is seen"),
    ("Anna\tPER\nAnna\talways\tLOC\n", r":2: .*'Anna' as always LOC, which is always PER in .*:1"),
    ("Anna\tPER\nAnna\tnever\t*\n", r":2: .*never \*, which is always PER"),
    ("Anna\tCITY\n", ":1: found the type 'CITY'; expected one of"),
]


@pytest.mark.parametrize(("content", "message"), FAULTS)
def test_faults_are_told_with_file_and_line(tmp_path, content, message):
    path = tmp_path / "names.tsv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataFormatError, match=r"names\.tsv" + message):
        Names.read(path).check(LABELS)


def test_files(tmp_path):
    people, places = tmp_path / "people.txt", tmp_path / "a=b.tsv"
    people.write_text("# Anna\n\nJo  Doe\n", encoding="utf-8")
    places.write_text("# comment\n#Oslo\tLOC\nLagos\tnever\tPER\n", encoding="utf-8")
    read = Names.read([f"never:PER={people}", places])
    assert [(rule.name, str(rule), rule.line) for rule in read.rules] == [
        ("# Anna", "never PER", 1),
        ("Jo  Doe", "never PER", 3),
        ("#Oslo", "always LOC", 2),
        ("Lagos", "never PER", 3),
    ]
    assert [str(rule) for rule in Names.read(f"PER={people}").rules] == ["always PER"] * 2
    assert read.digest != Names.read([f"never:PER={people}", places], ignore_case=True).digest
    for wrong in (f"sometimes:PER={people}", f"={people}", f"*={people}"):
        with pytest.raises(MNERError):
            Names.read(wrong)
    with pytest.raises(DataFormatError, match="without tabs"):
        Names.read(f"PER={places}")
    with pytest.raises(DataNotFoundError):
        Names.read(tmp_path / "nothing.tsv")


def test_a_tagger_keeps_to_them(tmp_path, checkpoint):
    path = tmp_path / "names.tsv"
    path.write_text("visits\talways\tLOC\nAnna\tnever\t*\nof Old\tPER\n", encoding="utf-8")
    free = Tagger.from_checkpoint(checkpoint, device="cpu")
    tagger = Tagger.from_checkpoint(checkpoint, device="cpu", names=path, min_score=0.2)
    texts = ["Anna visits Town", "Lagos", "king of Old Town visits"]
    first, second, third = tagger(texts)
    assert ("visits", "LOC", 1.0) in [(e.text, e.type, e.score) for e in first]
    assert first.tags[0] == "O"
    assert list(second) == [e for e in free("Lagos") if e.score >= 0.2]
    assert {("of Old", "PER"), ("visits", "LOC")} <= {(e.text, e.type) for e in third}
    again = tagger([Post(words=text.split()) for text in texts])
    assert [tagged.tags for tagged in again] == [first.tags, second.tags, third.tags]
    posts, out = tmp_path / "posts.jsonl", tmp_path / "out.jsonl"
    posts.write_text(json.dumps({"text": "anna Visits"}) + "\n", encoding="utf-8")
    options = ["--checkpoint", str(checkpoint), "--output", str(out), "--device", "cpu", "--names", f'["{path}"]']
    assert main(["tag", str(posts), *options, "--names_ignore_case", "true"]) == 0
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["tags"] == ["O", "B-LOC"]
    assert main(["tag", str(posts), *options]) == 2  # was begun with others


def test_in_windows_of_a_long_post(checkpoint):
    names = Names([Rule("Old Town", True, "LOC", "list", 1)])
    tagger = Tagger.from_checkpoint(checkpoint, device="cpu", names=names)
    tagged = tagger(words=["Anna", "visits", "Old", "Town"] * 150)
    assert [e.word_start for e in tagged if (e.text, e.type) == ("Old Town", "LOC")] == list(range(2, 600, 4))


def test_with_onnx(tmp_path, checkpoint):
    pytest.importorskip("onnxruntime")
    out = tmp_path / "onnx"
    assert main(["export", str(checkpoint), str(out)]) == 0
    names = Names([Rule("visits", True, "LOC", "list", 1), Rule("Anna", False, "*", "list", 2)])
    torch_tagged = Tagger.from_checkpoint(checkpoint, device="cpu", names=names)("Anna visits Old Town")
    tagged = Tagger.from_onnx(out, names=names)("Anna visits Old Town")
    assert tagged.tags == torch_tagged.tags
    assert [e.score for e in tagged] == pytest.approx([e.score for e in torch_tagged], abs=1e-4)


def test_a_decoder_of_its_own_is_refused(checkpoint):
    model = FusionModule.load_from_checkpoint(checkpoint)
    model.decode = lambda scores, batch: [[0] * len(words) for words in batch["words"]]
    tagger = Tagger(model, device="cpu", names=Names([Rule("Anna", True, "PER", "list", 1)]))
    with pytest.raises(MNERError, match="TextOnly decodes in a way of its own, which names cannot restrict"):
        tagger("Anna visits")
