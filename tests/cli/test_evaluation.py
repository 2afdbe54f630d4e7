"""The commands of analysis as a user types them."""

import pytest

from mner.cli import main
from mner.data.formats.predictions import write_predictions
from tests.analysis_posts import random_posts


@pytest.fixture
def files(tmp_path):
    """A file of ours and a peer's CoNLL output on the same posts."""
    posts = random_posts(20, seed=1)
    ours = tmp_path / "ours.jsonl"
    write_predictions(ours, {"mner_predictions": 1, "model": "m", "labels": None}, posts)
    peer = tmp_path / "peer.conll"
    blocks = [
        "\n".join(f"{w}\t{g}\t{p}" for w, g, p in zip(post.words, post.gold, post.pred, strict=True)) for post in posts
    ]
    peer.write_text("\n\n".join(blocks), encoding="utf-8")
    return str(ours), str(peer)


def test_compare_takes_files_one_after_the_other(files, capsys):
    assert main(["compare", *files, "--resamples", "50"]) == 0
    printed = capsys.readouterr().out
    assert "ours" in printed
    assert "+0.00" in printed  # the same predictions
    assert main(["compare", files[0]]) == 2
    assert "two or more systems" in capsys.readouterr().err


def test_compare_refuses_other_posts_in_one_line(files, tmp_path, capsys):
    other = tmp_path / "other.jsonl"
    write_predictions(other, {"mner_predictions": 1, "labels": None}, random_posts(19, seed=1))
    assert main(["compare", files[0], str(other)]) == 2
    assert "20 and 19 posts" in capsys.readouterr().err
    assert main(["compare", files[0], str(other), "--force", "true", "--resamples", "50"]) == 0


def test_analyze_takes_one_or_several_files(files, tmp_path):
    for given in (files[:1], files[1:], files):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        assert main(["analyze", *given, "--out", str(out), "--examples", "2"]) == 0
        assert "<h2>Scores</h2>" in (out / "index.html").read_text(encoding="utf-8")


def test_files_that_are_not_there(capsys):
    assert main(["analyze", "nowhere.jsonl"]) == 2
    assert "nowhere.jsonl" in capsys.readouterr().err


def test_benchmark_and_probe_say_what_is_missing(tmp_path, capsys):
    assert main(["benchmark", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml"), "--seeds", "[0]"]) == 2
    assert "a.yaml" in capsys.readouterr().err
    assert main(["probe"]) == 2
    assert "checkpoint" in capsys.readouterr().err


def test_attention_needs_a_checkpoint(capsys):
    assert main(["attention"]) == 2
    assert "checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "name"), [("compare", "scores.csv"), ("analyze", "index.html"), ("compare", "ours.jsonl")]
)
def test_a_report_replaces_no_file_of_others(files, tmp_path, command, name, capsys):
    """Our own report may be written again; a folder of the user's gets files beside those that are there."""
    out = tmp_path if name == "ours.jsonl" else tmp_path / "out"
    out.mkdir(exist_ok=True)
    (out / "notes.txt").write_text("mine")
    before = [open(file, "rb").read() for file in files]
    arguments = [command, *files, "--out", str(out), *(["--resamples", "50"] if command == "compare" else [])]
    for _ in range(2):
        assert main(arguments) == 0
    assert (out / "notes.txt").read_text() == "mine"
    assert [open(file, "rb").read() for file in files] == before
    if name != "ours.jsonl":
        (out / name).write_text("mine")
        assert main(arguments) == 2
        assert "Move it away" in capsys.readouterr().err
        assert (out / name).read_text() == "mine"
