"""Mutation testing: of small faults put into the code at random, how many do the tests catch?

    pip install -e ".[test,mutants]"
    python benchmarks/mutants.py --draw 1000 --seed 0 --work FOLDER

The faults are those of mutmut, a kept library. Its own runner is not used, since it leaves out functions with
decorators (decoding by the CRF, the locks of files) and what a module does when it is imported. Here each mutant is a
file of a copy of the repository, and the tests that run the mutant's line are run in a fork of this process, which has
imported torch and the rest beforehand. They are run until one fails, quick ones first, among them those of the file's
own test module, and no more than `--seconds` of them as measured without a mutant: what only later tests would
have caught counts as survived.

`--work` keeps which test runs which line, how long it takes, and `results.jsonl`, a line a mutant; a second call goes
on where the first was stopped, and measures tests that are new. `--again survived` runs those mutants anew. After a
change of the code take another folder: mutants are known by their place.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import contextlib
import difflib
import gc
import inspect
import json
import os
import py_compile
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import types
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import coverage
import libcst as cst
import pytest
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import MutationVisitor
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import IgnoredCode

ROOT = Path(__file__).resolve().parents[1]
MODULES = (
    "mner/labels.py mner/metrics.py mner/nn/crf.py mner/nn/_crf_*.py mner/nn/posteriors.py "
    "mner/data/formats/*.py mner/data/tokenizer.py mner/data/windows.py mner/data/word_*.py "
    "mner/tagger/post.py mner/tagger/preprocessor.py mner/analysis/verdict.py mner/analysis/resampling.py "
    "mner/analysis/comparison.py mner/analysis/systems.py mner/files.py mner/growing_file.py"
).split()
TESTS = (
    "tests/test_labels.py tests/test_metrics.py tests/test_metrics_properties.py tests/test_files.py tests/nn "
    "tests/data tests/tagger tests/analysis tests/preprocessing tests/probing tests/cli "
    "tests/training/test_checkpoint.py tests/encoders/test_characters.py tests/encoders/test_word_level.py "
    "tests/docs/test_docs.py::test_examples_in_docstrings_run"
).split()
# What makes up most of a start; none of it imports mner.
IMPORTED = (
    "torch torchvision transformers pytorch_lightning timm torchmetrics torchcrf seqeval.metrics scipy.stats pandas "
    "matplotlib.pyplot jsonargparse datasets peft PIL.Image onnxruntime hypothesis regex safetensors.torch lazy_loader "
    "transformers.models.bert.modeling_bert transformers.models.roberta.modeling_roberta"
).split()
# Plugins that a run of a few tests has no use for, and that take longer to start than it.
WITHOUT = [f"-pno:{plugin}" for plugin in ("cacheprovider", "anyio", "xdist", "pytest_cov", "unraisableexception")]
CAUGHT = ("caught", "hung")
QUICK = 0.3  # seconds of a test that comes before slower ones, whichever file it is about


class EveryFunction(MutationVisitor):
    """mutmut's choice of what to mutate, functions with decorators included."""

    def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
        decorated = isinstance(node, cst.FunctionDef) and bool(node.decorators)
        return False if decorated else super()._skip_node_and_children(node)


def mutants(name: str) -> Iterator[tuple[str, int, Callable[[], str]]]:
    """The mutants of a file: name, line, and what gives the mutated code."""
    wrapper = MetadataWrapper(cst.parse_module((ROOT / name).read_text(encoding="utf-8")))
    visitor = EveryFunction(mutation_operators, IgnoredCode(set(), set(), set()))
    module = wrapper.visit(visitor)
    lines = wrapper.resolve(PositionProvider)
    for number, mutation in enumerate(visitor.mutations):
        line = lines[mutation.original_node].start.line if mutation.original_node in lines else 1
        old, new = mutation.original_node, mutation.mutated_node
        yield f"{name}:{line}:{number}", line, lambda old=old, new=new: module.deep_replace(old, new).code


class Measured:
    """A plugin of pytest: which test runs which line, and the seconds of processor time that it takes."""

    def __init__(self, recorder: coverage.Coverage, known: Collection[str]) -> None:
        self.recorder, self.known = recorder, known
        self.seconds, self.failed = dict[str, float](), set[str]()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Those that were measured before are left out."""
        items[:] = [item for item in items if item.nodeid not in self.known]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """A test with its fixtures."""
        self.recorder.switch_context(item.nodeid)
        start = os.times()
        result = yield
        end = os.times()
        self.seconds[item.nodeid] = sum(end[:4]) - sum(start[:4])
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Leave out what does not pass."""
        if not report.passed:  # failed, skipped or expected to fail: it says nothing about a mutant
            self.failed.add(report.nodeid)


class Chosen:
    """A plugin of pytest: these tests alone, in this order."""

    def __init__(self, tests: list[str]) -> None:
        self.place = {test: place for place, test in enumerate(tests)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Pick and sort."""
        items[:] = sorted((item for item in items if item.nodeid in self.place), key=lambda i: self.place[i.nodeid])


def forked(work: Callable[[], int], log: Path, seconds: float) -> int:
    """The exit code of something run in a child, or minus the signal that ended it.

    A child that takes more processor time than this, or ten times as long by the clock (it may wait for ever), is
    ended with all that it has started.
    """
    sys.stdout.flush()
    child = os.fork()
    if not child:
        code = 70
        try:
            os.setsid()
            with log.open("wb") as out:
                os.dup2(out.fileno(), 1), os.dup2(out.fileno(), 2), os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 5))
            code = work()
        finally:
            os._exit(code)
    end = time.monotonic() + 10 * seconds
    while not (found := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.killpg(child, signal.SIGXCPU)
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):  # what it has started
        os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(found[1])


def pytest_in(tree: Path, files: list[str], plugin: Any, *options: str) -> int:
    """Run tests within this process, on the copy of the repository."""
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    os.environ["PYTHONPATH"] = str(tree)  # for what the tests start
    sys.argv = ["pytest"]
    return int(pytest.main([*WITHOUT, "-m", "not slow", *options, *files], plugins=[plugin]))


def copy_repository(tree: Path) -> None:
    """What git knows of the working tree. Compiled files go by what the source says: mutants may share its time."""
    shutil.rmtree(tree, ignore_errors=True)
    for name in subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")[:-1]:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name)
    compileall.compile_dir(tree / "mner", quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)


def measure(tree: Path, work: Path) -> None:
    """Which test runs which line, and for how long, in files of the folder; of tests that are not there yet."""
    kept = work / "seconds.json"
    known: dict[str, float | None] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}

    def run() -> int:
        new = work / "coverage.new"
        new.unlink(missing_ok=True)
        recorder = coverage.Coverage(data_file=str(new), include=[str(tree / name) for name in MODULES])
        measured = Measured(recorder, known)
        recorder.start()
        pytest_in(tree, TESTS, measured)
        recorder.stop()
        both = coverage.CoverageData(str(work / "coverage"))
        both.read()
        both.update(recorder.get_data())
        both.write()
        # Of those that do not pass nothing is to be learnt.
        seconds = {test: None if test in measured.failed else taken for test, taken in measured.seconds.items()}
        kept.write_text(json.dumps(known | seconds, indent=1), encoding="utf-8")
        return 0

    if forked(run, work / "measured.txt", 10000):
        raise SystemExit(f"{work / 'measured.txt'} says why the tests could not be measured")


def own_tests(name: str) -> str:
    """The stem of the path of the test module that mirrors a file."""
    path = Path(name)
    return str(Path("tests", *path.parts[1:-1], f"test_{path.stem.lstrip('_')}"))


def statement(code: str, line: int) -> range:
    """The lines of the innermost statement at a line, without those of its body."""
    found = range(line, line + 1)
    for node in ast.walk(ast.parse(code)):  # outer ones first
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or line):
            body = getattr(node, "body", None)
            last = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or line
            if line <= last:
                found = range(node.lineno, last + 1)
    return found


def choose(
    name: str, code: str, line: int, lines: dict[int, list[str]], seconds: dict[str, float], limit: float
) -> list[str]:
    """The tests for a mutant, those most likely to catch it first. A line run on import concerns all of its file's."""
    found = {test for each in statement(code, line) for test in lines.get(each, ())}
    if "" in found:
        found = {test for tests in lines.values() for test in tests}
    own = own_tests(name)
    ordered = sorted(found & seconds.keys(), key=lambda t: (seconds[t] > QUICK, not t.startswith(own), seconds[t], t))
    chosen: list[str] = []
    for test in ordered:
        if limit > 0:
            chosen.append(test)
        limit -= seconds[test]
    return chosen


def test_mutant(tree: Path, log: Path, name: str, code: str, tests: list[str], seconds: dict[str, float]) -> str:
    """What came of it: caught, hung, survived or without a test."""
    if not tests:
        return "not covered"
    files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
    (tree / name).write_text(code, encoding="utf-8")
    try:
        limit = 60 + 10 * sum(seconds[test] for test in tests)
        result = forked(lambda: pytest_in(tree, files, Chosen(tests), "-x", "--tb=line"), log, limit)
    finally:
        shutil.copy2(ROOT / name, tree / name)
    return {0: "survived", 5: "not covered", -signal.SIGXCPU: "hung", -signal.SIGKILL: "hung"}.get(result, "caught")


def run_share(drawn: list[tuple[str, str, int, Callable[[], str]]], work: Path, job: int, limit: float) -> int:
    """Run some of the mutants on a copy of the repository, and append what came of each to the results."""
    tree = work / f"repository-{job}"
    copy_repository(tree)
    measured = json.loads((work / "seconds.json").read_text(encoding="utf-8"))
    seconds = {test: taken for test, taken in measured.items() if taken is not None}
    data = coverage.CoverageData(str(work / "coverage"))
    data.read()
    for name, mutant, line, make in drawn:
        code, original = make(), (ROOT / name).read_text(encoding="utf-8")
        tests = choose(name, original, line, data.contexts_by_lineno(str(work / "repository" / name)), seconds, limit)
        outcome = test_mutant(tree, work / f"last-{job}.txt", name, code, tests, seconds)
        change = list(difflib.unified_diff(original.splitlines(), code.splitlines(), lineterm="", n=0))[3:]
        record = {"mutant": mutant, "outcome": outcome, "change": change, "tests": len(tests)}
        with (work / "results.jsonl").open("a", encoding="utf-8") as out:
            out.write(json.dumps(record) + "\n")
        print(f"{mutant} {outcome}", flush=True)
    return 0


def outcomes(results: Path) -> dict[str, str]:
    """The last outcome of each mutant."""
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    return {record["mutant"]: record["outcome"] for record in map(json.loads, lines)}


def main() -> None:
    """Draw, run, and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", type=int, default=1000, help="mutants at random, out of all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True, help="folder for what is measured and found")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument("--seconds", type=float, default=15, help="of tests a mutant, as measured without it")
    parser.add_argument("--again", choices=("survived", "caught", "hung", "not covered"), nargs="*", default=())
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)

    everything = [
        (name, *mutant)
        for pattern in MODULES
        for name in sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))
        for mutant in mutants(name)
    ]
    drawn = random.Random(options.seed).sample(everything, options.draw)
    print(f"{len(drawn)} of {len(everything)} mutants drawn with seed {options.seed}", flush=True)

    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", HYPOTHESIS_PROFILE="same")
    for module in IMPORTED:
        __import__(module)
    if "mner" in sys.modules:
        raise SystemExit("mner is imported already, so that mutants would not be: take it out of IMPORTED")
    sys.dont_write_bytecode = False  # tests are compiled once
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    inspect.getmodule(types.CodeType.replace(main.__code__, co_filename="unknown"))  # fills a cache that torch uses
    gc.freeze()  # what is imported is not looked through by each child
    copy_repository(work / "repository")
    measure(work / "repository", work)
    results = work / "results.jsonl"
    known = outcomes(results)
    left = [found for found in drawn if known.get(found[1]) in (None, *options.again)]
    children = []
    for job in range(options.jobs):
        child = os.fork()
        if not child:
            try:
                os._exit(run_share(left[job :: options.jobs], work, job, options.seconds))
            finally:
                os._exit(70)
        children.append(child)
    ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(ended):
        raise SystemExit("not all mutants were run; run the same command again to go on where it stopped")
    known = outcomes(results)
    counts = Counter(known[mutant] for _, mutant, _, _ in drawn)
    caught = sum(counts[outcome] for outcome in CAUGHT)
    print(f"{dict(counts)}: {caught} of {len(drawn)} caught, {caught / len(drawn):.1%}")


if __name__ == "__main__":
    main()
