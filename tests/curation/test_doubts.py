"""Doubts: what models that did not see a label say of it, ranked, shown and put into a table."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from mner.cli import main
from mner.curation.cross_validation import cross_validate, fold_of
from mner.curation.doubts import Doubt, decode, doubts_of, find_doubts, thresholds
from mner.curation.doubts_page import page, why, write_doubts
from mner.curation.posteriors import Posteriors, mean, read_posteriors, write_posteriors
from mner.data.examples import Example, fingerprint
from mner.data.formats.posts import read_posts
from mner.errors import DataFormatError, MNERError
from mner.fusion import TextOnly
from mner.labels import Span, bio_labels, spans
from mner.nn.posteriors import decode_posteriors
from mner.training.checkpoint import KEY
from tests.conftest import WORDS, write_posts
from tests.tagging import save_checkpoint
from tests.tiny_sets import save_small_bert

LABELS = bio_labels(["PER", "LOC"])


def doubts_about(tags, rows, post=""):
    return doubts_of(tags, rows, LABELS, decode([rows], LABELS)[0], post)


def sure(tags, share=0.9):
    """Posteriors that give each of these tags `share`, and all others the rest."""
    rows = np.full((len(tags), len(LABELS)), (1 - share) / (len(LABELS) - 1), np.float32)
    rows[np.arange(len(tags)), [LABELS.index(tag) for tag in tags]] = share
    return rows


@pytest.mark.parametrize(
    ("tags", "said", "kind", "label", "proposal"),
    [
        (["B-PER", "O"], ["B-LOC", "O"], "type", Span(0, 1, "PER"), Span(0, 1, "LOC")),
        (["B-LOC", "O"], ["B-LOC", "I-LOC"], "edge", Span(0, 1, "LOC"), Span(0, 2, "LOC")),
        (["B-LOC", "I-LOC"], ["O", "B-PER"], "edge", Span(0, 2, "LOC"), Span(1, 2, "PER")),
        (["O", "B-PER"], ["O", "O"], "no entity", Span(1, 2, "PER"), None),
        (["O", "O"], ["O", "B-PER"], "missing", None, Span(1, 2, "PER")),
    ],
)
def test_kinds(tags, said, kind, label, proposal):
    (doubt,) = doubts_about(tags, sure(said), "7")
    assert (doubt.post, doubt.kind, doubt.label, doubt.proposal) == ("7", kind, label, proposal)
    assert doubt.margin > 0.5
    assert doubts_about(said, sure(said)) == []


def test_the_same_words_come_before_a_longer_overlap():
    # two predicted spans meet a label of three words; the one with two words is held against it
    (doubt,) = doubts_about(["B-LOC", "I-LOC", "I-LOC"], sure(["B-PER", "B-LOC", "I-LOC"]))
    assert doubt.proposal == Span(1, 3, "LOC")


def test_a_type_that_the_models_do_not_know_is_doubted():
    (doubt,) = doubts_about(["B-ORG"], sure(["B-PER"]))
    assert (doubt.kind, doubt.label_score) == ("type", 0.0)


def test_the_ranking_is_by_margin():
    posts = [Example(str(n), None, ("a",), ("B-PER",)) for n in range(3)]
    said = {"0": sure(["B-LOC"], 0.6), "1": sure(["B-LOC"], 0.9), "2": sure(["B-PER"])}
    found = find_doubts([*posts, Example("3", None, ("a",))], Posteriors(LABELS, said))
    assert [doubt.post for doubt in found] == ["1", "0"]
    assert found[0].score == pytest.approx(0.9 - 0.025)


def test_what_models_overlook_counts_half():
    posts = [Example("0", None, ("a",), ("B-PER",)), Example("1", None, ("a",), ("B-PER",))]
    found = find_doubts(posts, Posteriors(LABELS, {"0": sure(["O"], 0.95), "1": sure(["B-LOC"], 0.6)}))
    assert [doubt.post for doubt in found] == ["1", "0"]
    assert found[1].score == found[1].margin / 2


def test_thresholds_are_those_of_confident_learning():
    """Of one-word spans: the mean of a column where it is the label."""
    random = np.random.default_rng(0)
    rows = random.dirichlet([1.0] * 3, 40).astype(np.float32)
    said = Posteriors(["O", "B-PER", "B-LOC"], {str(n): rows[n : n + 1] for n in range(40)})
    tags = random.choice(said.labels, 40)
    posts = [Example(str(n), None, ("x",), (str(tag),)) for n, tag in enumerate(tags)]
    expected = {
        label.removeprefix("O").removeprefix("B-"): rows[tags == label, place].mean()
        for place, label in enumerate(said.labels)
    }
    assert thresholds(posts, said) == pytest.approx(expected)
    for doubt in find_doubts(posts, said):
        name = "" if doubt.proposal is None else doubt.proposal.type
        assert doubt.confident == (doubt.proposal_score >= expected[name])


def test_posts_are_decoded_together_as_alone():
    posts = [np.random.default_rng(n).dirichlet([0.4] * 5, 1 + n % 7).astype(np.float32) for n in range(600)]
    paths = [decode_posteriors(torch.tensor(rows)[None], None, LABELS)[0] for rows in posts]
    alone = [spans([LABELS[label] for label in path]) for path in paths]
    assert decode(posts, LABELS) == alone


# Posteriors


def test_posteriors_are_read_back(tmp_path):
    found = Posteriors(LABELS, {"a": sure(["O", "B-PER"]), "ü/1": sure(["O"])}, {"folds": "3"})
    write_posteriors(tmp_path / "p.npz", found)
    again = read_posteriors(tmp_path / "p.npz")
    assert (again.labels, again.about, list(again.of)) == (LABELS, {"folds": "3"}, ["a", "ü/1"])
    assert all(np.array_equal(again.of[id_], found.of[id_]) for id_ in found.of)


def write_archive(path, **arrays):
    with path.open("wb") as stream:
        np.savez(stream, **arrays)


def test_bad_posteriors_are_one_line(tmp_path):
    path = tmp_path / "p.npz"
    path.write_bytes(b"no archive")
    with pytest.raises(DataFormatError, match=r"p\.npz: found something else .*ids, labels, lengths, posteriors"):
        read_posteriors(path)
    good = {"ids": ["a"], "labels": LABELS, "lengths": [2], "posteriors": sure(["O", "O"])}
    write_archive(path, **{**good, "lengths": [3]})
    with pytest.raises(DataFormatError, match="for 1 posts of 3 words, 5 labels"):
        read_posteriors(path)
    write_archive(path, **{**good, "posteriors": 2 * sure(["O", "O"])})
    with pytest.raises(DataFormatError, match="no probabilities"):
        read_posteriors(path)
    write_archive(path, **{**good, "ids": np.array(["a", 1], dtype=object)})
    with pytest.raises(DataFormatError, match="something else"):
        read_posteriors(path)
    write_archive(path, ids=["a"])
    with pytest.raises(DataFormatError, match="something else"):
        read_posteriors(path)


def test_the_mean_is_of_labels_by_name():
    other = [LABELS[0], *LABELS[3:], *LABELS[1:3]]
    turned = sure(["O", "B-LOC"])[:, [LABELS.index(label) for label in other]]
    post = Example("a", None, ("x", "y"), ("O", "O"))
    found = mean([Posteriors(LABELS, {"a": sure(["O", "B-LOC"])}), Posteriors(other, {"a": turned})], [post])
    assert np.allclose(found.of["a"], sure(["O", "B-LOC"]))
    with pytest.raises(MNERError, match="No posteriors of post 'b'"):
        mean([Posteriors(LABELS, {"a": sure(["O", "O"])})], [Example("b", None, ("x",))])
    with pytest.raises(MNERError, match="of 1 words for post 'a', which has 2"):
        mean([Posteriors(LABELS, {"a": sure(["O"])})], [post])
    with pytest.raises(MNERError, match="the same labels"):
        mean([Posteriors(LABELS), Posteriors(["O", "B-X"])], [post])


# Folds


def test_folds_keep_images_and_near_duplicates_together():
    posts = [Example(str(n), str(n // 3), (f"word{n} of post number {n * 7919}",)) for n in range(30)]
    posts += [Example("x", None, posts[0].words), Example("y", None, (posts[4].words[0] + "!",))]
    folds = dict(zip([post.id for post in posts], fold_of(posts, 4), strict=True))
    for n in range(0, 30, 3):
        assert len({folds[str(n + k)] for k in range(3)}) == 1
    assert folds["x"] == folds["0"]
    assert folds["y"] == folds["4"]
    sizes = [list(folds.values()).count(fold) for fold in range(4)]
    assert max(sizes) - min(sizes) <= 5
    with pytest.raises(MNERError, match="Expected 2 folds or more, up to one for each of 10 groups of posts, got 99"):
        fold_of(posts, 99)


def test_cross_validation_trains_on_the_others_and_goes_on(tmp_path):
    posts = [Example(str(n), str(n), (f"word{n}", "x"), ("B-PER", "O")) for n in range(7)]
    calls = []

    def train(rest, held, fold):
        calls.append(fold)
        assert not {post.id for post in rest} & {post.id for post in held}
        assert len(rest) + len(held) == len(posts)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return Posteriors(LABELS, {post.id: sure(["B-LOC", "O"]) for post in held})

    with pytest.raises(KeyboardInterrupt):
        cross_validate(posts, train, tmp_path, folds=3)
    several = cross_validate(posts, train, tmp_path, folds=3)
    assert calls == [0, 1, 2, 2]  # the two that were done are not done again
    assert sorted(id_ for one in several for id_ in one.of) == [post.id for post in posts]
    assert [doubt.kind for doubt in find_doubts(posts, mean(several, posts))] == ["type"] * 7
    for options in ({"seed": 1}, {"about": {"config": "other"}}):
        with pytest.raises(DataFormatError, match="a fold made with"):
            cross_validate(posts, train, tmp_path, folds=3, **options)


# The page and the table


def test_the_page_shows_post_image_label_and_why(tmp_path):
    Image.new("RGB", (900, 600), (200, 30, 30)).save(tmp_path / "1.jpg")
    post = Example("1", "1", ("<b>Ana</b>", "&", "Oslo"), ("B-PER", "O", "B-LOC"), more_images=("gone",))
    doubt = Doubt("1", "type", Span(0, 1, "PER"), Span(0, 1, "LOC"), 0.04, 0.93)
    text = page([doubt, Doubt("1", "missing", None, Span(1, 2, "LOC"), 0.2, 0.7)], {"1": post}, "a<b>", tmp_path)
    assert "<b>Ana" not in text
    assert "&lt;b&gt;Ana&lt;/b&gt;" in text
    assert "class='doubted'" in text
    assert "class='new'" in text
    assert "data:image/jpeg;base64," in text
    assert "no image gone" in text
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text
    assert "are LOC to the models with 93 %, PER with 4 %" in text
    assert "http" not in text.replace("http-equiv", "")  # nothing is fetched


@pytest.mark.parametrize(
    ("doubt", "said"),
    [
        (Doubt("1", "edge", Span(0, 1, "PER"), Span(0, 2, "LOC"), 0.1, 0.6), "edges, with 60 %: “a b” as LOC; that"),
        (Doubt("1", "no entity", Span(0, 1, "PER"), None, 0.1, 0.6, True), "no entity here, with 60 %; PER has 10 %."),
        (Doubt("1", "missing", None, Span(0, 1, "PER"), 0.1, 0.6, True), "the models give PER a probability of 60 %."),
    ],
)
def test_why(doubt, said):
    assert said in why(doubt, Example("1", None, ("a", "b"), ("O", "O")))


def test_a_table_that_somebody_decided_in_stays(tmp_path):
    posts = [Example("1", None, ("Ana",), ("B-PER",))]
    write_doubts([Doubt("1", "no entity", Span(0, 1, "PER"), None, 0.1, 0.6)], posts, tmp_path, tmp_path / "p.txt")
    table = tmp_path / "doubts.csv"
    (row,) = csv.DictReader(table.read_text(encoding="utf-8-sig").splitlines())
    assert (row["decision"], row["start"], row["end"], row["type"], row["new_type"]) == ("", "0", "1", "PER", "")
    table.write_bytes(table.read_bytes().replace(b"\n,", b"\nyes,"))
    with pytest.raises(DataFormatError, match="somebody changed"):
        write_doubts([], posts, tmp_path, tmp_path / "p.txt")


# The command


@pytest.fixture
def posts_file(tmp_path):
    write_posts(tmp_path / "train.txt", [(f"{row}", words, tags) for row, (words, tags) in enumerate(WORDS)])
    return tmp_path / "train.txt"


def test_the_command_trains_the_folds_of_a_config(tmp_path, posts_file, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bert = save_small_bert(tmp_path / "bert")
    (tmp_path / "config.yaml").write_text(
        f"seed_everything: 1\nmodel:\n  class_path: TextOnly\n  init_args: {{text_encoder: {bert}}}\n"
        f"data:\n  class_path: Twitter2017DataModule\n  init_args: {{root: {tmp_path}}}\n"
        "trainer:\n  max_epochs: 1\n  accelerator: cpu\n  callbacks:\n"
        "  - class_path: EarlyStopping\n    init_args: {monitor: val/f1}\n"
    )
    arguments = ["data", "doubts", "train.txt", "--fit", "config.yaml", "--folds", "2", "--out", "out"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "Fold 2: training on" in said
    assert "about 9 labels of 6 posts" in said
    folds = [read_posteriors(tmp_path / "out" / "posteriors" / f"fold-{fold}.npz") for fold in range(2)]
    assert sorted(id_ for fold in folds for id_ in fold.of) == list("012345")
    assert (tmp_path / "config.yaml").read_text(encoding="utf-8").startswith("seed_everything: 1")
    assert main(arguments) == 0
    assert "Fold" not in capsys.readouterr().out  # nothing is trained again
    # the same from the files
    files = [str(tmp_path / "out" / "posteriors" / f"fold-{fold}.npz") for fold in range(2)]
    assert main(["data", "doubts", "train.txt", "--posteriors", str(files).replace("'", '"'), "--out", "two"]) == 0
    assert (tmp_path / "two" / "doubts.csv").read_bytes() == (tmp_path / "out" / "doubts.csv").read_bytes()


def test_a_checkpoint_of_other_posts_and_of_these(tmp_path, posts_folder, bert_folder, capsys):
    path = save_checkpoint(tmp_path / "a.ckpt", TextOnly, posts_folder, bert_folder)
    content = torch.load(path, weights_only=True)
    content[KEY]["data"]["fingerprints"] = {"train": fingerprint(read_posts(posts_folder / "train.txt"))}
    torch.save(content, path)
    for split, told in (("valid", False), ("train", True)):
        posts, out = posts_folder / f"{split}.txt", tmp_path / split
        arguments = ["data", "doubts", str(posts), "--checkpoints", f"[{path}]", "--out", str(out)]
        assert main([*arguments, "--images", str(posts_folder / "images")]) == 0
        assert ("trained on these very posts" in capsys.readouterr().out) == told
        assert "data:image/jpeg;base64," in (out / "doubts.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ([], "Expected one of --fit, --checkpoints and --posteriors, but got none"),
        (["--fit", "a", "--posteriors", "[b]"], "but got --fit and --posteriors"),
        (["--posteriors", "[gone.npz]"], "Expected a file of posteriors (.npz), but there is none at gone.npz"),
    ],
)
def test_bad_options_are_one_line(posts_file, options, error, capsys):
    assert main(["data", "doubts", str(posts_file), *options]) == 2
    said = capsys.readouterr().err
    assert error in said
    assert said.count("\n") == 1


def test_posts_without_labels_cannot_be_doubted(tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text('{"id": "1", "tokens": ["a"]}\n')
    assert main(["data", "doubts", str(tmp_path / "p.jsonl"), "--posteriors", "[x.npz]"]) == 2
    assert "no post with labels" in capsys.readouterr().err
