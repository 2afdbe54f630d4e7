"""Annotators compared: the numbers are those of counting by hand and of scikit-learn's kappa."""

from __future__ import annotations

import io
import json
import random

import pytest

from mner.cli import main
from mner.curation.agreement import compare


def posts_of(seed):
    draw = random.Random(seed)
    found = {}
    for number in range(30):
        words = [f"w{n}" for n in range(6)]
        annotations = {}
        for who in ("ann", "bob"):
            marks = {(3 * n, 3 * n + 2, draw.choice(["PER", "LOC"])) for n in range(6) if draw.random() < 0.4}
            annotations[who] = (" ".join(words), frozenset(marks))
        found[str(number)] = annotations
    return found


@pytest.mark.parametrize("seed", range(3))
def test_kappa_and_f1_by_hand(seed):
    posts = posts_of(seed)
    pair = compare(posts, "ann", "bob")
    tags = {who: [] for who in ("ann", "bob")}
    for by in posts.values():
        for who, (_, marks) in by.items():
            at = {start: type_ for start, _, type_ in marks}
            tags[who] += [at.get(3 * n, "O") for n in range(6)]
    total = len(tags["ann"])
    same = sum(a == b for a, b in zip(tags["ann"], tags["bob"], strict=True)) / total
    chance = sum(tags["ann"].count(t) * tags["bob"].count(t) for t in ("O", "PER", "LOC")) / total**2
    assert pair.kappa == pytest.approx((same - chance) / (1 - chance))
    both = sum(a == b != "O" for a, b in zip(tags["ann"], tags["bob"], strict=True))
    counts = [total - tags[who].count("O") for who in ("ann", "bob")]
    assert pair.spans == tuple(counts)
    assert pair.f1 == pytest.approx(2 * both / sum(counts))


def test_an_export_with_annotators(tmp_path, capsys):
    def annotation(by, *results):
        results = [
            {"type": "labels", "value": {"start": a, "end": b, "text": "Ana of Oslo"[a:b], "labels": [t]}}
            for a, b, t in results
        ]
        return {"completed_by": by, "result": results}

    tasks = [
        {"id": 1, "data": {"text": "Ana of Oslo"}, "annotations": [
            annotation("ann", (0, 3, "PER"), (7, 11, "LOC")), annotation("bob", (0, 3, "PER"), (7, 11, "ORG"))]},
        {"id": 2, "data": {"text": "Ana of Oslo"}, "annotations": [annotation("ann", (0, 3, "PER"))]},
    ]  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(tasks))
    assert main(["data", "agreement", str(tmp_path / "a.json")]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[1].split() == ["ann", "/", "bob", "1", "2", "2", "50.0", "100.0", "0.571"]
    assert said.splitlines()[-1].split() == ["LOC", "/", "ORG", "1"]


def test_a_file_for_each(tmp_path, capsys):
    (tmp_path / "ann.txt").write_text("Ana B-PER\nof O\nOslo B-LOC\n")
    (tmp_path / "bob.jsonl").write_text(json.dumps({"text": "Ana of Oslo", "label": [[0, 3, "PER"]]}) + "\n")
    assert main(["data", "agreement", str(tmp_path / "ann.txt"), str(tmp_path / "bob.jsonl")]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[1].split()[:7] == ["ann", "/", "bob", "1", "2", "1", "66.7"]
    assert "(none) / LOC" in said
    assert main(["data", "agreement", str(tmp_path / "ann.txt")]) == 2
    assert "Expected two annotators or more, but found ann" in capsys.readouterr().err


def test_annotators_of_one_file_are_not_one_of_several_files(tmp_path, capsys):
    """Two annotations of a post in a file that stands for one annotator: neither is taken in silence."""
    row = {"text": "Ana of Oslo", "_input_hash": 1, "_view_id": "ner_manual", "answer": "accept"}
    first = {**row, "spans": [{"start": 0, "end": 3, "label": "PER"}], "_session_id": "s-ann"}
    (tmp_path / "both.jsonl").write_text("".join(json.dumps(one) + "\n" for one in (first, {**row, "spans": []})))
    (tmp_path / "bob.jsonl").write_text(json.dumps(first) + "\n")
    assert main(["data", "agreement", str(tmp_path / "both.jsonl"), str(tmp_path / "bob.jsonl")]) == 2
    said = capsys.readouterr().err
    assert "both: found post '1' twice by 'both'; expected one annotation a post. Annotators of one file" in said


def test_a_text_that_comes_again_is_another_post(tmp_path, capsys):
    for name, tags in (("ann", ["B-PER", "O"]), ("bob", ["B-PER", "B-LOC"])):
        rows = [{"tokens": ["Ana", "Oslo"], "ner_tags": [tag, "O"]} for tag in tags]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["data", "agreement", str(tmp_path / "ann.jsonl"), str(tmp_path / "bob.jsonl")]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:7] == ["ann", "/", "bob", "2", "1", "2", "66.7"]


def test_a_file_of_the_standard_input(tmp_path, capsys, monkeypatch):
    rows = json.dumps({"id": 1, "tokens": ["Ana"], "ner_tags": ["B-PER"]}) + "\n"
    (tmp_path / "ann.jsonl").write_text(rows)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(rows.encode())))
    assert main(["data", "agreement", "-", str(tmp_path / "ann.jsonl")]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:7] == ["-", "/", "ann", "1", "1", "1", "100.0"]
