"""Ways to disturb a command: kills, a full disk, a second writer, a folder that may not be written to."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Whole:
    """A command, and what an undisturbed run of it took and left."""

    run: Callable[[Path], Any]
    content: Callable[[Path], Any]
    reference: Any
    seconds: float
    size: int

    def left_by(self, out: Path) -> str:
        """Run it to its end; what is then not as the undisturbed run left it."""
        code = wait(fork(lambda: self.run(out)))
        return f"it ended with {code}" if code else self.differs(out)

    def differs(self, out: Path) -> str:
        """What is not as the undisturbed run left it; nothing where all is."""
        try:
            found = self.content(out)
        except Exception as error:  # whatever is wrong with what lies there, it is reported
            return f"what lies there cannot be read: {error!r}"
        return "" if found == self.reference else f"it left something else: {found!r:.300}"


def fork(work: Callable[[], Any]) -> int:
    """Run something in a child that says nothing; its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        result = work()
        code = result if isinstance(result, int) else 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    finally:
        os._exit(code)


def wait(child: int) -> int:
    """Its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def size(place: Path) -> int:
    """Bytes of all files below a folder, as far as they can be counted while they come and go."""
    total = 0
    for folder, _, names in os.walk(place):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_size
            except OSError:
                continue
    return total


def killed(whole: Whole, out: Path, draw: random.Random, counts: Counter[str]) -> str:
    """Kill it once or more, then let it come to its end.

    Half of the kills come at a random time; half once the output has grown to a random share of its size, so that they
    hit the work and not the start, however busy the machine is.
    """
    for _ in range(draw.choice((1, 1, 2, 3))):
        child = fork(lambda: whole.run(out))
        moment = time.monotonic() + draw.uniform(0, whole.seconds)
        grown, by_size = draw.random() * whole.size, draw.random() < 0.5
        gone = 0
        while not gone and not (size(out.parent) > grown if by_size else time.monotonic() >= moment):
            time.sleep(0.002)
            gone, status = os.waitpid(child, os.WNOHANG)
        how = draw.choice((signal.SIGKILL, signal.SIGTERM))
        if not gone:
            os.kill(child, how)
            _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        counts["kills"] += 1
        counts[f"by {how.name}"] += 1
        counts["while it wrote"] += size(out.parent) > 0 and code != 0
        counts["after its end"] += code == 0
    return whole.left_by(out)


def limited(whole: Whole, out: Path, draw: random.Random, counts: Counter[str]) -> str:
    """No file may grow beyond some size; then it may."""
    most = draw.choice((0, 100, 1000, 10_000, 30_000, 100_000))

    def run() -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
        return whole.run(out)

    counts["files that may not grow"] += 1
    counts["which ended it"] += wait(fork(run)) != 0
    return whole.left_by(out)


def full(whole: Whole, out: Path, draw: random.Random, counts: Counter[str]) -> str:
    """A disk that is full at a random write; then there is room. It is a small tmpfs: needs the right to mount."""
    place = out.parent / "disk"
    place.mkdir()
    pages = max(1, int(draw.random() * whole.size) // 4096)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={4 * pages}k", "tmpfs", str(place)]
    if subprocess.run(mount, check=False).returncode:
        counts["full disks that could not be made"] += 1
        return ""
    try:
        counts["full disks"] += 1
        counts["which ended it, too"] += wait(fork(lambda: whole.run(place / "out"))) != 0
        subprocess.run(["mount", "-o", "remount,size=1g", str(place)], check=True)
        return whole.left_by(place / "out")
    finally:
        subprocess.run(["umount", str(place)], check=True)


def two(whole: Whole, out: Path, draw: random.Random, counts: Counter[str]) -> str:
    """Two at once: one does it, the other waits or is refused."""
    children = [fork(lambda: whole.run(out)) for _ in range(2)]
    codes = [wait(child) for child in children]
    counts["two at once"] += 1
    counts["one of them refused"] += 2 in codes
    return whole.differs(out) if 0 in codes and set(codes) <= {0, 2} else f"they ended with {codes}"


def read_only(whole: Whole, out: Path, draw: random.Random, counts: Counter[str]) -> str:
    """A folder that may not be written to: an error, and nothing of it stays."""
    out.parent.chmod(0o555)

    def unprivileged() -> Any:
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        return whole.run(out)

    code = wait(fork(unprivileged))
    out.parent.chmod(0o755)
    counts["read-only folders"] += 1
    return f"it ended with {code}" if code != 2 else ", ".join(path.name for path in out.parent.iterdir())
