from dataclasses import replace

import numpy as np
import pytest
from seqeval.metrics import precision_score, recall_score

from mner.analysis import compare, holm, paired_t, score
from mner.analysis.alignment import NotComparableError, align
from mner.analysis.systems import ArgumentError, load_systems
from mner.cli.evaluation import compare_command
from mner.data.formats.predictions import read_predictions, write_predictions
from mner.errors import DataNotFoundError
from tests.analysis_posts import post, random_posts, run

HEADER = {"mner_predictions": 1, "model": "m", "fingerprint": "f" * 16, "labels": None, "seed": 1}


def f1(posts):
    return score(posts, resamples=0)["f1"].iloc[0]


def test_better_system_is_found_better():
    good, bad = random_posts(80, seed=1, noise=0.1), random_posts(80, seed=2, noise=0.5)
    found = compare({"bad": run(bad), "good": run(good)}, resamples=500)
    row = found.tests.loc[("bad", "good")]
    assert row["difference"] == pytest.approx(f1(good) - f1(bad))
    assert 0 < row["low"] < row["difference"] < row["high"]
    assert row["p_randomisation"] == pytest.approx(1 / 501)
    assert row["p"] < 0.001
    means = found.post_means.loc[("bad", "good")]
    assert means["p_posts"] < 0.001
    assert means["dz_posts"] > 0.5
    assert not [column for column in found.tests if "posts" in column and column.startswith(("p_", "dz", "t_"))]
    assert np.isnan(row["p_seeds"])
    assert found.scores.loc["good", "f1"] == pytest.approx(f1(good))
    assert any("Seeds were not taken into account" in note for note in found.notes)


def test_scores_are_means_of_seqevals():
    runs = [random_posts(30, seed=1, noise=noise) for noise in (0.2, 0.4)]
    by_seqeval = [
        [of([list(p.gold) for p in posts], [list(p.pred) for p in posts]) for of in (precision_score, recall_score)]
        for posts in runs
    ]
    scores = compare({"one": [run(posts) for posts in runs], "two": run(runs[0])}, resamples=20).scores
    assert scores.loc["one", ["precision", "recall"]].tolist() == pytest.approx(np.mean(by_seqeval, axis=0))
    assert scores.loc["two", ["precision", "recall"]].tolist() == pytest.approx(by_seqeval[0])
    assert scores["runs"].tolist() == [2, 1]
    assert np.isnan(scores.loc["two", "sd"])


def test_names_of_the_numbers():
    """Tables, pages and scripts of users go by them (docs/statistics.md)."""
    found = compare({name: run(random_posts(10, seed=1)) for name in "ab"}, resamples=10)
    assert found.scores.index.name == "system"
    assert list(found.tests.index.names) == list(found.post_means.index.names) == ["first", "second"]
    assert list(found.scores) == ["runs", "precision", "recall", "f1", "sd", "low", "high"]
    verdict = ["difference", "low", "high", "p", "df", "se_posts", "se_seeds", "posts"]
    assert list(found.tests) == [
        *verdict, "p_randomisation", "t_seeds", "p_seeds", "dz_seeds", "seeds", "p_holm", "p_randomisation_holm",
        "p_seeds_holm",
    ]  # fmt: skip
    assert list(found.post_means) == [
        "post_f1_difference", "t_posts", "p_posts", "dz_posts", "posts", "p_posts_holm"
    ]  # fmt: skip


def test_systems_too_alike_to_be_tested_are_named():
    right = [post("Kim/B-PER", "Kim/B-PER", str(number)) for number in range(4)]
    wrong = [post("Kim/B-PER", "Kim", str(number)) for number in range(4)]
    alike = "b and a: the difference is the same on every post, too alike to be tested."
    assert alike in compare({"b": run(wrong), "a": run(right)}, resamples=10).notes
    for posts in (right, right[:1], wrong):  # no difference at all
        found = compare({"b": run(posts), "a": run(posts)}, resamples=10)
        assert alike not in found.notes


def test_nothing_predicted_is_no_division_by_nothing():
    posts = random_posts(10, seed=1, noise=0.2)
    nothing = [replace(p, pred=("O",) * len(p.words), entities=()) for p in posts]
    scores = compare({"nothing": run(nothing), "some": run(posts)}, resamples=20).scores
    assert scores.loc["nothing", ["precision", "recall", "f1"]].tolist() == [0, 0, 0]


def test_what_the_notes_say_of_single_runs():
    one = [run(random_posts(20, seed=n), n) for n in (1, 2)]
    found = compare({"one": one, "two": run(random_posts(20, seed=3))}, resamples=20)
    sd = 100 * found.scores.loc["one", "sd"]
    assert found.notes[0] == (
        "Seeds of two were not taken into account: there is one run. For pairs with it, intervals and p hold for this "
        "very training and are too sure where the system is meant: another seed of it may move F1 as seeds move the "
        f"others (standard deviation in points: one {sd:.2f})."
    )
    assert found.notes[1] == (
        "The systems have different numbers of runs (one 2, two 1). The verdict reckons with that; the randomisation "
        "test takes two systems as exchangeable, and is only a guide for averages over unlike numbers of runs."
    )


def test_pairs_baseline_and_holm():
    systems = {name: run(random_posts(40, seed=seed, noise=noise)) for seed, (name, noise) in enumerate(
        [("a", 0.2), ("b", 0.3), ("c", 0.5)])}  # fmt: skip
    found = compare(systems, resamples=200)
    every, means = found.tests, found.post_means
    assert every.index.tolist() == [("a", "b"), ("a", "c"), ("b", "c")]
    assert every["p_holm"].tolist() == pytest.approx(holm(every["p"].tolist()))
    assert means["p_posts_holm"].tolist() == pytest.approx(holm(means["p_posts"].tolist()))
    against = compare(systems, baseline="b", resamples=200).tests
    assert against.index.tolist() == [("b", "a"), ("b", "c")]
    assert against.loc[("b", "a"), "difference"] == pytest.approx(-every.loc[("a", "b"), "difference"])


def test_seeds_are_paired_by_the_header():
    one = [run(random_posts(30, seed=seed, noise=0.3), seed) for seed in (1, 2, 3)]
    two = [run(random_posts(30, seed=seed + 10, noise=0.25), seed) for seed in (3, 1, 2)]  # another order
    found = compare({"one": one, "two": two}, resamples=100)
    scores = [f1(r.posts) for r in one], [f1(two[place].posts) for place in (1, 2, 0)]
    expected = paired_t(*scores)
    row = found.tests.iloc[0]
    assert (row["p_seeds"], row["dz_seeds"], row["seeds"]) == pytest.approx((expected.p, expected.dz, 3))
    assert found.scores.loc["one", ["runs", "f1", "sd"]].tolist() == pytest.approx(
        [3, np.mean(scores[0]), np.std(scores[0], ddof=1)]
    )
    assert found.notes == []


@pytest.mark.parametrize(
    ("seeds", "pairs", "note"),
    [
        (((1, 2), (1, 2)), 2, None),
        (((1, 2), (3, 4)), 2, "in the order given"),
        (((None, None), (1, 2)), 2, "in the order given"),
        (((1, 2, 3), (1, 3)), 2, "2 common seeds"),
        (((1, 2, 3), (4, 5)), 0, "cannot be paired"),
    ],
)
def test_how_seeds_are_paired_is_said(seeds, pairs, note):
    one, two = ([run(random_posts(20, seed=n), s) for n, s in enumerate(of)] for of in seeds)
    found = compare({"one": one, "two": two}, resamples=50)
    assert found.tests.iloc[0]["seeds"] == pairs
    assert note is None or any(note in text for text in found.notes)
    assert (len(seeds[0]) != len(seeds[1])) == any("different numbers of runs" in text for text in found.notes)


def test_other_data_is_refused_unless_forced():
    posts = random_posts(10, seed=1)
    first, other = run(posts), run(random_posts(10, seed=2), fingerprint="e" * 16)
    with pytest.raises(NotComparableError, match=r"fingerprints differ.*one, run 1 0123456789abcdef.*two, run 1 eeee"):
        compare({"one": first, "two": other})
    found = compare({"one": first, "two": other}, force=True, resamples=20)
    assert "fingerprints differ" in found.notes[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda posts: posts[:-1], "10 and 9 posts"),
        (lambda posts: posts[::-1], "post 1 is '0'"),
        (lambda posts: [replace(posts[0], gold=("O",) * len(posts[0].words)), *posts[1:]], "gold tags of post 1"),
    ],
)
def test_other_posts_or_gold_are_refused(change, reason):
    posts = random_posts(10, seed=1)
    changed = change(random_posts(10, seed=1))
    with pytest.raises(NotComparableError, match=reason):
        align({"one": posts, "two": changed})
    aligned = align({"one": posts, "two": changed}, force=True)
    one, two = aligned.runs["one"][0], aligned.runs["two"][0]
    assert [p.words for p in one] == [p.words for p in two]
    assert len(one) == len(changed)
    assert reason in aligned.notes[0]


def test_ids_do_not_matter_where_words_agree():
    posts = random_posts(6, seed=1)
    peer = [replace(p, id=f"line {n}") for n, p in enumerate(random_posts(6, seed=2))]
    assert align({"ours": posts, "peer": peer}).notes == []


def test_a_text_posted_twice_is_kept_twice():
    twice = [post("a b/B-PER", "a b", "1"), post("a b/B-PER", "a b/B-PER", "2"), post("c", "c", "3")]
    aligned = align({"one": twice, "two": twice[:2]}, force=True)
    assert [p.id for p in aligned.runs["one"][0]] == ["1", "2"]


def test_forced_posts_without_common_words_go_by_id():
    ours = [post("Kim/B-PER ran", "Kim ran", "1"), post("x y", "x y", "2")]
    theirs = [post("kim/B-PER ran", "kim/B-PER ran", "1"), post("x y z", "x y z", "2")]  # lower case; another length
    aligned = align({"ours": ours, "theirs": theirs}, force=True)
    assert [p.id for p in aligned.runs["theirs"][0]] == ["1"]
    with pytest.raises(NotComparableError, match="common posts"):
        align({"ours": ours, "theirs": [post("q", "q", "9")]}, force=True)


def test_arguments_of_compare():
    posts = random_posts(3, seed=1)
    with pytest.raises(ValueError, match="two systems"):
        compare({"one": posts})
    with pytest.raises(ValueError, match="baseline"):
        compare({"one": posts, "two": posts}, baseline="three")


def write(path, seed, number=1, fingerprint="f" * 16):
    path.parent.mkdir(exist_ok=True)
    write_predictions(path, HEADER | {"seed": number, "fingerprint": fingerprint}, random_posts(20, seed=seed))
    return path


def test_files_folders_patterns_and_names(tmp_path):
    for number in (1, 2):
        write(tmp_path / "text" / f"seed{number}.jsonl", number, number)
        write(tmp_path / "caps" / f"seed{number}.jsonl", number + 5, number)
    found = load_systems(
        [str(tmp_path / "text"), f"captions={tmp_path}/caps/*.jsonl", str(tmp_path / "text/seed1.jsonl")]
    )
    assert {name: [r.header["seed"] for r in runs] for name, runs in found.items()} == {
        "text": [1, 2], "captions": [1, 2], "seed1": [1]
    }  # fmt: skip
    same = load_systems([str(tmp_path / "text/seed1.jsonl"), str(tmp_path / "caps/seed1.jsonl")])
    assert list(same) == ["text/seed1", "caps/seed1"]
    for number in (3, 4):
        (tmp_path / f"runs/seed{number}").mkdir(parents=True)
        write(tmp_path / f"runs/seed{number}" / "predictions.jsonl", number, number)
    assert [runs.header["seed"] for runs in load_systems([str(tmp_path / "runs")])["runs"]] == [3, 4]
    with pytest.raises(ArgumentError, match="NAME=PATH"):
        load_systems([f"a={tmp_path}/text", f"a={tmp_path}/caps"])
    with pytest.raises(DataNotFoundError, match="nowhere"):
        load_systems([str(tmp_path / "nowhere.jsonl")])


def test_command_compares_ours_with_a_peers_conll(tmp_path, capsys):
    ours = write(tmp_path / "ours.jsonl", seed=1)
    posts = read_predictions(ours).posts
    lines = ["\n".join(f"{w} {g} {g}" for w, g in zip(p.words, p.gold, strict=True)) for p in posts]
    peer = tmp_path / "peer.conll"
    peer.write_text("\n\n".join(lines))
    assert compare_command([str(ours), str(peer)], out=tmp_path / "out", resamples=100) == 0
    printed = capsys.readouterr().out
    assert "100.00" in printed
    assert "p of F1, randomisation over posts" in printed
    assert {file.name for file in (tmp_path / "out").glob("[!.]*")} == {
        "scores.csv", "tests.csv", "post_means.csv", "comparison.md", "comparison.png"
    }  # fmt: skip


def test_command_refuses_other_data_and_single_systems(tmp_path):
    one = write(tmp_path / "one.jsonl", seed=1)
    two = write(tmp_path / "two.jsonl", seed=2, fingerprint="0" * 16)
    with pytest.raises(NotComparableError, match="force"):
        compare_command([str(one), str(two)])
    assert compare_command([str(one), str(two)], force=True, resamples=20) == 0
    with pytest.raises(ArgumentError, match="two or more"):
        compare_command([str(one)])
    with pytest.raises(ArgumentError, match="baseline"):
        compare_command([str(one), str(two)], baseline="three")
