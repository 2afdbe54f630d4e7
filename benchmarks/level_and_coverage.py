"""Does `compare` claim what is not there? Its verdict, simulated beside the tests that take posts or seeds alone.

    python benchmarks/level_and_coverage.py [--trials 2000] [--only table|candidates|unequal] [--seed 0]

Two systems are drawn that have the same micro F1 over all posts and all seeds but differ in kind: one precise, one
complete. A third is better by two points. Each trial draws posts, trains every system with some seeds (a run's F1
over all posts lies around the system's, with a given standard deviation), and counts gold, predicted and correct
entities of each post. Some posts are hard for everybody, some entities too; the rest is chance of a system or a run.
A test that keeps its level says p <= .05 in 5 % of the trials with equal systems; a 95 % interval covers the true
difference in 95 %. One core, some minutes.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy starts its pools

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import ndtri

from mner.analysis.comparison import post_f1
from mner.analysis.scoring import f1_of
from mner.analysis.verdict import judge

Counts = NDArray[np.int16]  # (runs, posts, 3): correct, predicted, gold
GOLD = np.array([0.06, 0.43, 0.32, 0.13, 0.04, 0.015, 0.005])  # posts with 0, 1, … entities, about as on Twitter
MEAN_GOLD = float(GOLD @ np.arange(len(GOLD)))
SHARED = {"post": 0.25, "entity": 0.60, "system": 0.05, "run": 0.10}  # what decides whether an entity is found
F1, BETTER = 0.84, 0.02
SDS, RUNS, POSTS = (0.0, 0.5, 1.5, 3.0), (1, 3, 5, 10), (300, 700, 3000)
UNEQUAL = [  # runs of the two systems, and the spread of their seeds in points
    ((3, 5), (0.5, 0.5)), ((3, 5), (1.5, 1.5)), ((3, 10), (0.5, 0.5)), ((3, 10), (1.5, 1.5)), ((2, 2), (1.5, 1.5)),
    ((3, 3), (0.5, 1.5)), ((3, 3), (0.5, 3.0)), ((5, 5), (0.5, 3.0)), ((3, 10), (3.0, 0.5)), ((1, 3), (1.5, 1.5)),
]  # fmt: skip


class Kind(NamedTuple):
    """What makes a system precise or complete.

    Attributes:
        wrong: Share of the entities not found in whose place something wrong is predicted (other words, other type).
        spurious: Share of posts in which something is predicted where nothing is.
    """

    wrong: float
    spurious: float


PRECISE, COMPLETE, PLAIN = Kind(0.2, 0.03), Kind(0.8, 0.2), Kind(0.5, 0.11)
TWICE = 0.2  # of the posts with something spurious, those with two


class System(NamedTuple):
    """A kind of system with its F1 over all posts and seeds, and the spread of its seeds in points."""

    kind: Kind
    f1: float
    sd: float
    runs: int


class Posts:
    """Posts drawn by chance, hardest for everybody where `difficulty` is high. Those with most entities come first."""

    def __init__(self, rng: np.random.Generator, count: int) -> None:
        self.rng = rng
        self.gold = np.sort(rng.choice(len(GOLD), count, p=GOLD))[::-1]  # (n,)
        sizes = [int((self.gold > place).sum()) for place in range(len(GOLD))]
        self.slots = [size for size in sizes if size]  # posts with a first entity, a second, …
        post = SHARED["post"] ** 0.5 * self.normal(count)  # (n,)
        at = np.concatenate([np.arange(size) for size in self.slots])  # (e,), the post of each entity
        self.difficulty = post[at] + SHARED["entity"] ** 0.5 * self.normal(len(at))  # (e,)
        self.lure = post + SHARED["entity"] ** 0.5 * self.normal(count)  # (n,), to predict what is not there

    def normal(self, *shape: int) -> NDArray[np.float32]:
        """Standard normal numbers."""
        return self.rng.standard_normal(shape, dtype=np.float32)

    def by_post(self, entities: NDArray[np.bool_]) -> NDArray[np.int16]:
        """Sums (k, n) over the entities (k, e) of each post."""
        found = np.zeros((len(entities), len(self.gold)), dtype=np.int16)
        start = 0
        for size in self.slots:
            found[:, :size] += entities[:, start : start + size]
            start += size
        return found

    def run(self, system: System, taste: Taste) -> Counts:
        """Counts of each run of a system; its seeds move F1, and precision against recall a little."""
        k = system.runs
        spurious = system.kind.spurious * np.exp(0.1 * system.sd * self.rng.standard_normal(k))
        target = system.f1 + system.sd / 100 * self.rng.standard_normal(k)
        own, chance = (SHARED[part] ** 0.5 for part in ("system", "run"))
        limits = ndtri(np.clip(recall(target, system.kind, spurious), 1e-6, 1 - 1e-6)).astype(np.float32)
        found = self.difficulty + own * taste.entities + chance * self.normal(k, len(self.difficulty)) < limits[:, None]
        lured = self.lure + own * taste.posts + chance * self.normal(k, len(self.gold))  # (k, n)
        invented = sum(
            (lured < ndtri(share * spurious).astype(np.float32)[:, None]).astype(np.int16) for share in (1, TWICE)
        )
        correct = self.by_post(found)
        predicted = correct + self.by_post(~found & (taste.wrong < system.kind.wrong)) + invented
        return np.stack([correct, predicted, np.broadcast_to(self.gold, correct.shape)], axis=-1)


class Taste(NamedTuple):
    """Which entities and posts a system likes, whatever the seed."""

    entities: NDArray[np.float32]
    posts: NDArray[np.float32]
    wrong: NDArray[np.float32]

    @classmethod
    def of(cls, posts: Posts) -> Taste:
        """The taste of one more system."""
        entities = len(posts.difficulty)
        wrong = posts.rng.random(entities, dtype=np.float32)
        return cls(posts.normal(entities), posts.normal(len(posts.gold)), wrong)


def recall(f1: NDArray[np.float64], kind: Kind, spurious: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of entities that a system must find for its F1 = 2 correct / (gold + predicted) over all posts."""
    invented = (1 + TWICE) * spurious
    return f1 * (MEAN_GOLD * (1 + kind.wrong) + invented) / (MEAN_GOLD * (2 - f1 * (1 - kind.wrong)))


def trials(rng: np.random.Generator, count: int, posts: int, systems: Sequence[System]) -> Iterator[list[Counts]]:
    """Counts of each system, `count` times."""
    for _ in range(count):
        drawn = Posts(rng, posts)
        yield [drawn.run(system, Taste.of(drawn)) for system in systems]


def randomisation(pairs: NDArray[np.float32], rng: np.random.Generator, swaps: int = 399) -> NDArray[np.float64]:
    """The p of approximate randomisation of F1 for trials (m, n, 6) at once; the same swaps serve all trials."""
    one, two = pairs[..., :3], pairs[..., 3:]
    swapped = rng.integers(2, size=(swaps, pairs.shape[1])).astype(np.float32)
    moved = np.tensordot(swapped, two - one, axes=(1, 1))  # (swaps, m, 3)
    totals = one.sum(1, dtype=np.float64), two.sum(1, dtype=np.float64)  # (m, 3)
    seen = np.abs(f1_of(totals[1]) - f1_of(totals[0]))
    drawn = np.abs(f1_of(totals[1] - moved) - f1_of(totals[0] + moved))  # (swaps, m)
    return np.asarray((1 + (drawn >= seen - 1e-9).sum(0)) / (swaps + 1))


def over_posts(pairs: NDArray[np.float32]) -> NDArray[np.float64]:
    """The p of the paper's paired t-test, on the mean F1 of a post, for trials (m, n, 6)."""
    return np.asarray(stats.ttest_1samp(post_f1(pairs[..., 3:]) - post_f1(pairs[..., :3]), 0, axis=1).pvalue)


def cell(rng: np.random.Generator, count: int, posts: int, runs: int, sd: float) -> list[float]:
    """Level and coverage of the verdict, levels of the old tests, power of all three; in percent."""
    equal = System(PRECISE, F1, sd, runs), System(COMPLETE, F1, sd, runs)
    kept: list[NDArray[np.bool_]] = []
    means: list[NDArray[np.float32]] = []
    rejected: list[NDArray[np.float64]] = []
    systems = [*equal, equal[1]._replace(f1=F1 + BETTER)]
    for number, (one, two, best) in enumerate(trials(rng, count, posts, systems), 1):
        alike, better = judge(one, two), judge(one, best)
        kept.append(np.array([alike.p <= 0.05, better.low <= BETTER <= better.high, better.p <= 0.05]))
        means.append(np.concatenate([system.mean(0) for system in (one, two, best)], axis=1).astype(np.float32))
        if len(means) == 250 or number == count:
            block = np.stack(means)
            for pair in (block[..., :6], block[..., [0, 1, 2, 6, 7, 8]]):
                rejected += [randomisation(pair, rng) <= 0.05, over_posts(pair) <= 0.05]
            means = []
    level, coverage, power = 100 * np.mean(kept, axis=0)
    old = [float(100 * np.concatenate(rejected[place::4]).mean()) for place in range(4)]
    return [level, coverage, old[0], old[1], power, old[2], old[3]]


def hierarchical(rng: np.random.Generator, posts: int, draws: int = 400) -> Callable[[Counts, Counts], bool]:
    """Percentile interval of the hierarchical bootstrap, posts and runs drawn with replacement: is 0 outside?"""
    weights = rng.multinomial(posts, np.full(posts, 1 / posts), draws).astype(np.float32)  # (draws, n)

    def outside(one: Counts, two: Counts) -> bool:
        means = []
        for runs in (one, two):
            f1 = np.stack([f1_of(weights @ run.astype(np.float32)) for run in runs], axis=1)  # (draws, k)
            means.append(np.take_along_axis(f1, rng.integers(len(runs), size=f1.shape), 1).mean(1))
        low, high = np.quantile(means[1] - means[0], [0.025, 0.975])
        return not low <= 0 <= high

    return outside


def over_seeds(one: Counts, two: Counts) -> bool:
    """Welch's t-test on F1 of the runs: seeds alone."""
    return float(stats.ttest_ind(f1_of(two.sum(1)), f1_of(one.sum(1)), equal_var=False).pvalue) <= 0.05


def posts_alone(one: Counts, two: Counts) -> bool:
    """The verdict on the average of the runs, taken as if it were one run."""
    return judge(one.mean(0, keepdims=True), two.mean(0, keepdims=True)).p <= 0.05


def summed(one: Counts, two: Counts) -> bool:
    """The verdict without taking the chance of runs on single posts out of the variance over posts."""
    found, plain = judge(one, two), judge(one.mean(0, keepdims=True), two.mean(0, keepdims=True))
    seeds = [float(f1_of(runs.sum(1)).var(ddof=1)) / len(runs) for runs in (one, two)]
    variance = plain.se_posts**2 + sum(seeds)
    parts = [(plain.se_posts**2, one.shape[1]), (seeds[0], len(one)), (seeds[1], len(two))]
    df = variance**2 / sum(part**2 / (size - 1) for part, size in parts)
    return 2 * float(stats.t.sf(abs(found.value) / variance**0.5, df)) <= 0.05


def shipped(one: Counts, two: Counts) -> bool:
    """The verdict of `compare`."""
    return judge(one, two).p <= 0.05


def candidates(rng: np.random.Generator, count: int) -> list[list[object]]:
    """Levels of the ways that were thought of, on 700 posts."""
    rows: list[list[object]] = []
    for runs in (3, 5):
        for sd in SDS:
            ways = [shipped, hierarchical(rng, 700), summed, over_seeds, posts_alone]
            systems = [System(PRECISE, F1, sd, runs), System(COMPLETE, F1, sd, runs)]
            found = [[way(*pair) for way in ways] for pair in trials(rng, count, 700, systems)]
            rows.append([runs, sd, *(100 * np.mean(found, axis=0))])
    return rows


def unequal(rng: np.random.Generator, count: int) -> list[list[object]]:
    """Level and coverage of the verdict where runs, their spread or the kinds of systems are not alike; 700 posts."""
    rows: list[list[object]] = []
    for kinds, name in (((PRECISE, COMPLETE), "precise, complete"), ((PLAIN, PLAIN), "two of a kind")):
        for runs, sds in UNEQUAL:
            systems = [System(kind, F1, sd, k) for kind, sd, k in zip(kinds, sds, runs, strict=True)]
            wrong = [shipped(*pair) for pair in trials(rng, count, 700, systems)]
            rows.append([name, f"{runs[0]}, {runs[1]}", f"{sds[0]}, {sds[1]}", 100 * float(np.mean(wrong))])
    return rows


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown; percentages with one digit."""
    lines = [list(heads), ["---:"] * len(heads)]
    lines += [[f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Read the arguments, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--only", choices=["table", "candidates", "unequal"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    first, second, third = (np.random.default_rng(arguments.seed + table) for table in range(3))
    started = time.process_time()
    if arguments.only in (None, "table"):
        rows: list[list[object]] = [
            [posts, runs, sd, *cell(first, arguments.trials, posts, runs, sd)]
            for posts in POSTS for runs in RUNS for sd in SDS
        ]  # fmt: skip
        heads = ["posts", "runs", "sd of seeds", "level", "coverage", "level, randomisation", "level, t over posts"]
        print(table([*heads, "power", "power, randomisation", "power, t over posts"], rows), end="\n\n")
    if arguments.only in (None, "candidates"):
        heads = ["runs", "sd of seeds", "verdict", "hierarchical bootstrap", "plain sum", "seeds alone", "posts alone"]
        print(table(heads, candidates(second, arguments.trials)), end="\n\n")
    if arguments.only in (None, "unequal"):
        print(table(["systems", "runs", "sd of seeds", "level"], unequal(third, arguments.trials)), end="\n\n")
    print(f"{arguments.trials} trials a row; {(time.process_time() - started) / 60:.1f} minutes of one core")


if __name__ == "__main__":
    main()
