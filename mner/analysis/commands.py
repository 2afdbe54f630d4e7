"""The commands `mner compare` and `mner analyze`; typed functions that jsonargparse runs."""

from __future__ import annotations

from pathlib import Path

from mner.analysis.comparison import compare
from mner.analysis.loading import ArgumentError, load_systems
from mner.analysis.plots import plot_comparison
from mner.analysis.report import build_sections, write_report
from mner.analysis.tables import markdown, text
from mner.data.readers import read_posts
from mner.labels import Mode


def compare_command(
    predictions: list[str],
    baseline: str | None = None,
    mode: Mode = "lenient",
    force: bool = False,
    out: Path | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> int:
    """Compare systems on the same posts: F1 with intervals, a verdict over posts and seeds, older tests beside it.

    Args:
        predictions: Two or more systems: prediction files (ours, or CoNLL columns `token gold predicted`), folders of
            runs with several seeds, or quoted patterns; `NAME=` before one names the system.
        baseline: Compare each other system with this one only; without it all pairs.
        mode: Reading of tag sequences.
        force: Compare although data fingerprints, posts or gold tags differ.
        out: Folder for the tables (CSV, Markdown) and the figure.
        resamples: Random swaps of the randomisation test.
        seed: Seed of the swaps.

    Returns:
        Exit code 0.
    """
    systems = load_systems(predictions)
    if len(systems) < 2:
        raise ArgumentError(f"Expected two or more systems to compare, but got {len(systems)}: {list(systems)}")
    if baseline is not None and baseline not in systems:
        raise ArgumentError(f"Expected --baseline to be one of {list(systems)}, but got {baseline!r}")
    found = compare(systems, baseline, mode, force, resamples, seed=seed)
    notes = [f"Differences are second minus first, in points of F1 ({mode}); intervals are 95 %.", *found.notes]
    tables = found.tables()
    print(text(found.scores), *(f"{sentence}\n{text(frame)}" for _, sentence, frame in tables), *notes, sep="\n\n")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name in ("scores", "tests", "post_means"):
            getattr(found, name).to_csv(out / f"{name}.csv")
        parts = [f"{sentence}\n\n{markdown(frame)}" for _, sentence, frame in tables]
        page = [markdown(found.scores), *parts, *notes]
        (out / "comparison.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
        plot_comparison(found.scores, found.tests).savefig(out / "comparison.png", dpi=200)
        print(f"Written to {out}")
    return 0


def analyze_command(
    predictions: list[str],
    train: Path | None = None,
    out: Path = Path("report"),
    mode: Mode = "lenient",
    force: bool = False,
    examples: int = 40,
    seed: int = 0,
) -> int:
    """Write a report on one or several systems: one HTML page with all tables and figures, and these as files.

    Args:
        predictions: Prediction files (ours, or CoNLL columns `token gold predicted`), folders of runs with several
            seeds, or quoted patterns; `NAME=` before one names the system. The first is what others are held against.
        train: The training posts (.txt or .jsonl), for what is seen in training and what is ambiguous there.
        out: Folder for the report.
        mode: Reading of tag sequences.
        force: Compare although data fingerprints, posts or gold tags differ.
        examples: Number of posts with errors to show.
        seed: Seed of their draw.

    Returns:
        Exit code 0.
    """
    systems = load_systems(predictions)
    if not systems:
        raise ArgumentError("Expected at least one prediction file, but got none")
    posts = None if train is None else read_posts(train)
    found = build_sections(systems, posts, mode, force, examples, seed)
    path = write_report(found, out, "Analysis of " + ", ".join(systems))
    print(f"Report: {path}\nTables and figures as files: {out / 'tables'}, {out / 'figures'}")
    return 0
