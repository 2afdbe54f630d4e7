"""The suite under the conditions that users' machines have, each with pytest's closing line.

    python benchmarks/conditions.py [CONDITION ...] [--python PYTHON] [--pytest="-n 2"] [--out FOLDER]

Each runs in a clone of the last commit. `reader` needs root, to become another user. `--python` is another interpreter
(3.11 to 3.13, or one with the lowest versions that pyproject.toml allows) that has what the tests need.
"""

import argparse
import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
ONE, TWO = {"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "2"}

# Name: what it is, its environment.
CONDITIONS: dict[str, tuple[str, dict[str, str]]] = {
    "avx2": ("no instructions beyond AVX2, 1 thread", AVX2 | ONE),
    "native": ("all instructions of this processor, 1 thread", ONE),
    "threads": ("2 threads", TWO),
    "busy": ("four busy loops beside it", ONE),
    "path": ("in a path with spaces and letters that are not ASCII", ONE),
    "locale": ("PYTHONUTF8=0 LC_ALL=C", ONE | {"PYTHONUTF8": "0", "LC_ALL": "C"}),
    "reader": ("as another user, the checkout read-only", ONE),
}
NOBODY = 65534


@contextlib.contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """`count` processes that do nothing but turn round."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def clone_for(condition: str, work: Path) -> Path:
    """A clone of the last commit, where `condition` wants it."""
    clone = work / ("mit Leerzeichen und Ümläuten 数据" if condition == "path" else "checkout")
    root = Path(__file__).resolve().parents[1]
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", str(root), str(clone)], check=True)
    if condition == "reader":
        subprocess.run(["chmod", "-R", "a-w,a+rX", str(clone)], check=True)
        work.chmod(0o755)
    return clone


def run_suite(condition: str, python: str, options: list[str], work: Path, log: Path) -> str:
    """Pytest's closing line under `condition`; its whole output goes to `log`."""
    clone = clone_for(condition, work)
    home = work / "home"
    home.mkdir()
    environment = os.environ | CONDITIONS[condition][1]
    environment |= {"PYTHONPATH": str(clone), "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"HOME": str(home), "TMPDIR": str(home)}
    # pyproject.toml has `-q`, which with another one leaves the closing line out.
    command = [python, "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", "--tb=short", "-rf", *options]
    if condition == "reader":
        os.chown(home, NOBODY, NOBODY)
        command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *command]
    with log.open("w") as output, busy_loops(4) if condition == "busy" else contextlib.nullcontext():
        subprocess.run(command, cwd=clone, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False)
    lines = [line.strip("= ") for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if re.match(r"\d+ (passed|failed|error)", line)), "no closing line")


def main() -> None:
    """Run the conditions that were asked for, one after the other, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("conditions", nargs="*", metavar="CONDITION", help=f"of {', '.join(CONDITIONS)} (default: all)")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--pytest", default="-n 2", help="options for pytest")
    parser.add_argument("--out", type=Path, default=Path("conditions"), help="folder for pytest's outputs")
    options = parser.parse_args()
    if unknown := [name for name in options.conditions if name not in CONDITIONS]:
        parser.error(f"no such condition: {', '.join(unknown)}; there are {', '.join(CONDITIONS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, text=True)
    version = subprocess.check_output([options.python, "--version"], text=True)
    print(f"commit {commit.strip()}, {version.strip()}, pytest {options.pytest}", flush=True)
    for condition in options.conditions or CONDITIONS:
        work = Path(tempfile.mkdtemp(prefix="mner-conditions-"))
        log, begun = options.out / f"{condition}.txt", time.time()
        try:
            line = run_suite(condition, options.python, shlex.split(options.pytest), work, log)
        finally:
            subprocess.run(["chmod", "-R", "u+w", str(work)], check=False)
            shutil.rmtree(work, ignore_errors=True)
        print(f"| `{condition}` | {CONDITIONS[condition][0]} | {line} | {time.time() - begun:.0f} s |", flush=True)


if __name__ == "__main__":
    main()
