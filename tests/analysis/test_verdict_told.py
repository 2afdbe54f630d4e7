"""What `compare`, `analyze` and their page say about one run, several, and unlike numbers of runs."""

import re

import numpy as np
import pytest

from mner.analysis import compare, judge, score
from mner.analysis.report import build_sections, page
from mner.analysis.scoring import marked, post_counts
from mner.cli.evaluation import compare_command
from mner.data.formats.predictions import write_predictions
from tests.analysis_posts import post, random_posts, run

SINGLE = "Seeds were not taken into account: there is one run of each system."


def runs_of(count, first_seed, noise):
    return [run(random_posts(40, seed=first_seed + n, noise=noise), n) for n in range(count)]


def counts(runs, mode="lenient"):
    return np.stack([post_counts(marked(of, mode)) for of in runs])


def written(folder, name, runs):
    (folder / name).mkdir()
    for of in runs:
        write_predictions(folder / name / f"seed{of.header['seed']}.jsonl", of.header, of.posts)
    return str(folder / name)


def tables_of(printed):
    """Blocks of the output by their first line."""
    return {block.splitlines()[0]: block for block in printed.split("\n\n") if block}


@pytest.mark.parametrize("mode", ["lenient", "strict"])
@pytest.mark.parametrize(("one", "two"), [(3, 3), (2, 5), (1, 4), (1, 1)])
def test_compare_gives_the_verdict(one, two, mode):
    systems = {"one": runs_of(one, 1, 0.3), "two": runs_of(two, 50, 0.25)}
    found = compare(systems, mode=mode, resamples=50)
    expected = judge(counts(systems["one"], mode), counts(systems["two"], mode))
    row = found.tests.loc[("one", "two")]
    assert row["difference"] == pytest.approx(found.scores.loc["two", "f1"] - found.scores.loc["one", "f1"])
    assert row[["difference", "low", "high", "p"]].tolist() == pytest.approx(list(expected[:4]))
    f1 = [score(of, resamples=0).loc[(mode, "all"), "f1"] for of in systems["two"]]
    assert found.scores.loc["two", "f1"] == pytest.approx(np.mean(f1))
    assert found.scores.loc["two", "low"] < found.scores.loc["two", "f1"] < found.scores.loc["two", "high"]


def test_one_run_of_each_says_what_that_means():
    notes = " ".join(compare({"a": runs_of(1, 1, 0.3), "b": runs_of(1, 9, 0.3)}, resamples=20).notes)
    assert SINGLE in notes
    assert "these very trainings" in notes
    assert "the other way round" in notes
    assert "three or more runs" in notes


def test_several_runs_have_nothing_to_say():
    assert compare({"a": runs_of(3, 1, 0.3), "b": runs_of(3, 9, 0.3)}, resamples=20).notes == []


def test_one_run_beside_several_is_named():
    found = compare({"a": runs_of(1, 1, 0.3), "b": runs_of(3, 9, 0.3), "c": runs_of(3, 19, 0.3)}, resamples=20)
    (note,) = [note for note in found.notes if "not taken into account" in note]
    assert note.startswith("Seeds of a were not taken into account: there is one run.")
    assert f"b {100 * found.scores.loc['b', 'sd']:.2f}, c {100 * found.scores.loc['c', 'sd']:.2f}" in note
    assert "b were" not in note
    assert not [note for note in found.notes if "common seeds" in note]
    (note,) = [note for note in found.notes if "different numbers of runs" in note]
    assert "(a 1, b 3, c 3). The verdict reckons with that" in note


def test_unlike_numbers_of_runs():
    notes = compare({"a": runs_of(2, 1, 0.3), "b": runs_of(4, 9, 0.3)}, resamples=20).notes
    assert not [note for note in notes if "not taken into account" in note]
    assert [note for note in notes if "(a 2, b 4). The verdict reckons with that" in note]


def test_same_on_every_post_is_said():
    right = [post("Kim/B-PER ran", "Kim/B-PER ran", str(number)) for number in range(4)]
    wrong = [post("Kim/B-PER ran", "Kim ran/B-PER", str(number)) for number in range(4)]
    found = compare({"right": right, "wrong": wrong}, resamples=20)
    assert found.tests["p"].isna().all()
    assert any("too alike to be tested" in note for note in found.notes)


@pytest.mark.parametrize("runs", [1, 3])
def test_command_keeps_the_test_over_posts_away_from_f1(tmp_path, capsys, runs):
    systems = [written(tmp_path, name, runs_of(runs, first, 0.3)) for name, first in (("a", 1), ("b", 20))]
    assert compare_command(systems, out=tmp_path / "out", resamples=20) == 0
    printed = capsys.readouterr().out
    assert (SINGLE in printed) == (runs == 1)
    blocks = tables_of(printed)
    (verdict,) = [block for head, block in blocks.items() if head.startswith("Verdict on F1")]
    (means,) = [block for head, block in blocks.items() if head.startswith("The paper's t-test over posts")]
    assert re.search(r"F1 difference \(points\) +interval +p +se, posts", verdict)
    assert ("se, seeds" in verdict) == (runs > 1)
    assert "t-test" not in verdict
    assert "tests the mean F1 of a post and not F1" in means
    assert "difference of the mean F1 of a post (points)" in means
    assert "F1 difference" not in means
    assert printed.count("p of the mean F1 of a post, paired t-test") == 1
    written_page = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert "| first | second | F1 difference (points) | interval | p |" in written_page
    assert "p_posts" not in (tmp_path / "out" / "tests.csv").read_text(encoding="utf-8")
    assert "p_posts" in (tmp_path / "out" / "post_means.csv").read_text(encoding="utf-8")


def test_several_pairs_show_corrected_p():
    found = compare({name: runs_of(2, 10 * n, 0.3) for n, name in enumerate("abc")}, resamples=20)
    tables = {name: frame for name, _, frame in found.tables()}
    assert list(tables) == ["verdict", "given", "post_means"]
    assert tables["verdict"].columns.tolist() == ["difference", "low", "high", "p_holm", "se_posts", "se_seeds"]
    assert tables["given"].columns.tolist() == ["p_randomisation_holm", "p_seeds_holm", "dz_seeds"]
    assert tables["post_means"].columns.tolist() == ["post_f1_difference", "p_posts_holm", "dz_posts"]


@pytest.mark.parametrize("runs", [1, 2])
def test_report_says_the_same(runs):
    systems = {"a": runs_of(runs, 1, 0.3), "b": runs_of(runs, 20, 0.3)}
    (section,) = [section for section in build_sections(systems) if section.title == "Comparison"]
    names = [part.name.removeprefix("comparison_") for part in section.parts]
    assert names == ["scores", "verdict", "given", "post_means", "comparison"]
    assert (SINGLE in " ".join(section.text)) == (runs == 1)
    html = page([section], "x")
    assert "Verdict on F1" in html
    assert "It tests the mean F1 of a post and not F1" in html
