"""Timing for the benchmarks: variants take turns, and are compared within a turn.

Each round runs every variant, so that whatever else the machine does meets all of them alike. A variant runs twice in
its turn and the second run counts: the caches are then warm with its own work, not with that of the one before. Ratios
are taken within a round; what is printed is their median and quartiles. The default clock is this process's CPU time,
which time spent on other processes does not enter; with one thread it is what the work costs.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version

CLOCKS: dict[str, Callable[[], float]] = {"cpu": time.process_time, "wall": time.perf_counter}
SHORTEST, LONGEST = 7, 400  # rounds


def machine(*packages: str) -> str:
    """One line on where this ran."""
    cpu = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            cpu = next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return f"{cpu}; Python {platform.python_version()}; {', '.join(found)}"


def rounds_of(variants: Mapping[str, Callable[[], object]], seconds: float, clock: str) -> dict[str, list[float]]:
    """Time every variant once a round, for about so many seconds; the first two rounds are not counted."""
    now = CLOCKS[clock]
    taken: dict[str, list[float]] = {name: [] for name in variants}
    begin = time.perf_counter()
    done = 0
    while done < SHORTEST + 2 or (done < LONGEST and time.perf_counter() - begin < seconds):
        for name, run in variants.items():
            run()
            start = now()
            run()
            taken[name].append(now() - start)
        done += 1
    return {name: times[2:] for name, times in taken.items()}


def speed(taken: Mapping[str, list[float]], name: str, base: str) -> tuple[float, float, float]:
    """How many times as fast as `base` a variant is: median and quartiles of the ratios within rounds."""
    ratios = [slow / fast for slow, fast in zip(taken[base], taken[name], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return middle, low, high


def table(taken: Mapping[str, list[float]], base: str, notes: Mapping[str, str] | None = None) -> None:
    """Print a Markdown table of one comparison."""
    print("| | median ms | times as fast | quartiles | |")
    print("|---|---|---|---|---|")
    for name, times in taken.items():
        middle, low, high = speed(taken, name, base)
        note = (notes or {}).get(name, "")
        print(f"| {name} | {statistics.median(times) * 1e3:.2f} | {middle:.2f} | {low:.2f}-{high:.2f} | {note} |")
    print(flush=True)
