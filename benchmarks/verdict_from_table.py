"""What can be said of a difference of F1 by the verdict of `compare`, where a table is all that was kept.

    python benchmarks/verdict_from_table.py --posts 723 --runs 3 -- "-0.15 -0.85 0.57 0.20 0.29" ...

Each row is a difference, its 95 % interval over posts, and the standard deviations of the two systems over seeds, all
in points of F1. The verdict needs one more number, how far chance moves a run on single posts, which only predictions
show. So all that it can be is gone through, and the widest interval and the range of p are printed.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import stats


def bounds(
    difference: float, low: float, high: float, first_sd: float, second_sd: float, posts: int, runs: int
) -> tuple[float, float, float]:
    """Half the width of the widest interval that the verdict can have, the least and the largest p.

    Args:
        difference: Second system less first.
        low: Lower end of the 95 % interval over posts.
        high: Upper end.
        first_sd: Standard deviation over seeds.
        second_sd: The same of the second system.
        posts: Number of posts.
        runs: Runs of each system.
    """
    alone = ((high - low) / 2 / stats.norm.ppf(0.975)) ** 2
    seeds = first_sd**2 / runs, second_sd**2 / runs
    over_posts = np.linspace(0, alone, 200)  # the part of the variance over posts that is not chance of single runs
    variance = over_posts + sum(seeds)
    df = variance**2 / (over_posts**2 / (posts - 1) + sum(part**2 for part in seeds) / (runs - 1))
    reach = np.maximum(stats.t.ppf(0.975, df) * variance**0.5, stats.t.ppf(0.975, posts - 1) * alone**0.5)
    p = np.maximum(
        2 * stats.t.sf(abs(difference) / variance**0.5, df), 2 * stats.t.sf(abs(difference) / alone**0.5, posts - 1)
    )
    return float(reach.max()), float(p.min()), float(p.max())


def main() -> None:
    """Read the arguments, print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", help="difference, low, high, sd of the first system, sd of the second")
    parser.add_argument("--posts", type=int, required=True)
    parser.add_argument("--runs", type=int, required=True)
    arguments = parser.parse_args()
    print("| difference | widest interval | p |\n| ---: | ---: | ---: |")
    for row in arguments.rows:
        difference, *rest = (float(number) for number in row.split())
        reach, least, largest = bounds(difference, *rest, arguments.posts, arguments.runs)
        interval = f"{difference - reach:.2f} to {difference + reach:.2f}"
        print(f"| {difference:+.2f} | {interval} | {least:.4f} to {largest:.4f} |")


if __name__ == "__main__":
    main()
