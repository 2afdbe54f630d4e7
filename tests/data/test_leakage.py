import json

import pytest

from mner.cli import main
from mner.data.examples import Example
from mner.data.leakage import leakage, plain
from mner.errors import DataNotFoundError

POSTS = [
    Example("1", "a.jpg", ("Anna", "visits", "Old", "Town", "!"), ("B-PER", "O", "B-LOC", "I-LOC", "O")),
    Example("2", "b.jpg", ("L.A.", "Lakers", "win"), ("B-ORG", "I-ORG", "O")),
    Example("3", None, ("Town", "rain"), ("B-LOC", "O")),
    Example("4", None, ("no", "gold"), None),
]


def test_named_entities_are_counted():
    texts = {"a": "ANNA is in the old quarter of the town and visits it.", "2": "The l a lakers!", "3": ""}
    found = leakage(POSTS, texts)
    assert (found.posts, found.with_text) == (3, 2)
    assert found.entities == {"LOC": 2, "ORG": 1, "PER": 1}
    assert found.named == {"LOC": 0, "ORG": 1, "PER": 1}  # `Old Town` is not side by side
    assert (found.other_words, found.other_named) == (3, 1)  # visits, win, rain; `!` is no word
    assert found.report() == (
        "2 of 3 posts have a text; the texts name 2 of 4 gold entities (50.0 %: LOC 0.0 %, ORG 100.0 %, PER 100.0 %) "
        "and 33.3 % of the posts' other words"
    )
    assert "nobody knows" in leakage(POSTS[3:], {"4": "gold"}).report()
    assert leakage([Example("1", None, ("!!",), ("B-ORG",))], {"1": "!!"}).named == {"ORG": 0}
    assert leakage([Example("1", None, ("Ann",), ("B-PER",))], {"1": "Annabel"}).named == {"PER": 0}


def test_plain():
    assert plain("Köln's  ÄRZTE—2024") == "köln s ärzte 2024"


def test_as_a_command(posts_folder, tmp_path, capsys):
    file = tmp_path / "notes.jsonl"
    file.write_text(json.dumps({"id": "00", "text": "Anna and the Old Town"}) + "\n")
    assert main(["data", "leakage", str(posts_folder), "--context", f'["{file}"]']) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("train, notes.jsonl: 1 of 6 posts have a text; the texts name 2 of ")
    assert told[1].startswith("valid, notes.jsonl: 0 of 6 posts have a text; the texts name 0 of ")
    from mner.data.leakage import leakage_command

    with pytest.raises(DataNotFoundError, match="Expected files of context"):
        leakage_command(posts_folder, [])
