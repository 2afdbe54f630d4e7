import ast
import re
from pathlib import Path

import pytest

import mner.analysis
from mner.analysis import data_table
from mner.analysis.alignment import NotComparableError
from mner.analysis.presentation import html, markdown, text
from mner.analysis.report import build_sections, coloured, page
from mner.cli.evaluation import analyze_command
from mner.data.formats.predictions import write_predictions
from tests.analysis_posts import example, post, random_posts, run

EVIL = "<script>alert('x')</script>"
TRAIN = [example("t", "Kim/B-PER in Paris/B-LOC and Paris/B-ORG")]


def evil_posts():
    gold = f"Kim/B-PER {EVIL.replace('/', '-')}/B-LOC & <b>"
    return [post(gold, f"Kim/B-LOC {EVIL.replace('/', '-')} & <b>", "<i>1", scores=(0.7,)), *random_posts(15, seed=1)]


def test_page_is_self_contained_and_escaped():
    sections = build_sections({"<sys>": [run(evil_posts())]}, TRAIN)
    found = page(sections, "Analysis of <sys>")
    assert "<script" not in found
    assert "&lt;script&gt;" in found
    assert "&lt;sys&gt;" in found
    assert "<sys>" not in found
    assert "<i>1" not in found
    assert set(re.findall(r'(?:src|href)="([^",]{0,21})', found)) <= {
        "data:image/png;base64", *(f"#s{number}" for number in range(len(sections)))
    }  # fmt: skip
    assert found.count("<img ") >= 5


def test_every_section_explains_itself_and_has_something():
    systems = {"a": [run(random_posts(20, seed=1))], "b": [run(random_posts(20, seed=s), s) for s in (2, 3)]}
    sections = build_sections(systems, TRAIN)
    assert len(sections) == 9
    for section in sections:
        assert section.text
        assert section.text[0].endswith((".", "?"))
        assert section.parts


def test_without_train_the_tables_that_need_it_say_so(tmp_path):
    sections = build_sections({"a": [run(random_posts(20, seed=1))]}, None)
    titles = {section.title: section for section in sections}
    seen = next(section for title, section in titles.items() if "seen" in title)
    assert "--train" in " ".join(seen.text)
    assert not seen.parts
    ambiguous = next(section for title, section in titles.items() if "Ambiguous" in title)
    assert "--train" in " ".join(ambiguous.text)
    assert ambiguous.parts[0].table.index.get_level_values("definition").unique().tolist() == ["text"]


def test_command_writes_page_tables_and_figures(tmp_path, capsys):
    ours = tmp_path / "ours.jsonl"
    posts = random_posts(20, seed=1)
    write_predictions(ours, {"mner_predictions": 1, "model": "mner.fusion.TextOnly", "seed": 3, "labels": None}, posts)
    peer = tmp_path / "peer.conll"
    lines = ["\n".join(f"{w}\t{g}\t{g}" for w, g in zip(p.words, p.gold, strict=True)) for p in posts]
    peer.write_text("\n\n".join(lines), encoding="utf-8")
    train = tmp_path / "train.txt"
    train.write_text("IMGID:1\nw1\tB-PER\nw2\tB-LOC\n", encoding="utf-8")
    assert analyze_command([str(ours), str(peer)], train=train, out=tmp_path / "out", examples=3) == 0
    assert "index.html" in capsys.readouterr().out
    found = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "mner.fusion.TextOnly" in found
    assert "CoNLL output" in found
    assert "peer: the predictions have no confidences" in found
    assert found.count('class="post"') == 3
    tables = {path.name for path in (tmp_path / "out" / "tables").iterdir()}
    assert {"scores.csv", "seen_unseen.csv", "ambiguity.csv", "length.csv", "errors.csv", "parting_peer.csv"} <= tables
    assert (tmp_path / "out" / "figures" / "length.png").stat().st_size > 1000


def test_systems_on_other_posts_are_refused():
    with pytest.raises(NotComparableError):
        build_sections({"a": [run(random_posts(5, seed=1))], "b": [run(random_posts(6, seed=1))]}, None)


def test_forced_report_on_other_posts():
    systems = {"a": [run(random_posts(8, seed=1))], "b": [run(random_posts(7, seed=1))]}
    found = page(build_sections(systems, None, force=True), "x")
    assert "Forced although" in found
    assert "Systems on other posts are left out" in found


def test_perfect_predictions_make_a_report():
    posts = [post("Kim/B-PER ran", "Kim/B-PER ran", str(number)) for number in range(3)]
    assert "Nothing to show" in page(build_sections({"a": [run(posts)]}, TRAIN), "x")


def test_entities_are_marked_where_they_are():
    assert re.sub(r' style="[^"]*"', "", coloured(("a", "b", "<c>", "d"), ("O", "B-X", "I-X", "O"), ["X"])) == (
        "a <mark>b &lt;c&gt; <small>X</small></mark> d"
    )


def test_tables_in_words():
    import pandas as pd

    frame = pd.DataFrame(
        {"gold": [3, 2.5], "f1": [0.5, float("nan")], "f1_low": [0.4, float("nan")], "f1_high": [0.61, float("nan")],
         "p": [0.03, 1e-7], "difference": [0.012, -0.3], "note": ["a|b", "<c>"]},
        index=pd.MultiIndex.from_tuples([("s", "x"), ("s", "y")], names=["system", "kind"]),
    )  # fmt: skip
    assert markdown(frame).splitlines() == [
        "| system | kind | gold | F1 (%) | F1, 95 % interval | p | F1 difference (points) | note |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
        "| s | x | 3 | 50.00 | 40.00 to 61.00 | 0.0300 | +1.20 | a\\|b |",
        "| s | y | 2.5 | - | - | < 0.0001 | -30.00 | <c> |",
    ]
    assert "&lt;c&gt;" in html(frame)
    assert html(frame).count("<th>s</th>") == 1  # not repeated in the next row
    assert len({len(line.rstrip()) for line in text(frame).splitlines()[:1]}) == 1


def test_data_table_is_table_2():
    row = data_table({"train": TRAIN}).loc["train"]
    assert row[["posts", "words, most", "entities", "PER", "LOC", "ORG"]].tolist() == [1, 5, 3, 1, 1, 1]


def test_types_named_as_columns_keep_their_numbers():
    row = data_table({"train": [example("t", "Kim/B-posts in Rome/B-LOC"), example("u", "x")]}).loc["train"]
    assert row[["posts", "type posts", "LOC"]].tolist() == [2, 1, 1]


@pytest.mark.parametrize("path", sorted(Path(mner.analysis.__file__).parent.glob("*.py")), ids=lambda path: path.stem)
def test_heavy_packages_are_imported_when_needed_only(path):
    top = [
        node
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    names = [node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name for node in top]
    assert not [
        name for name in names if name.split(".")[0] in ("pandas", "matplotlib", "transformers", "pytorch_lightning")
    ]
