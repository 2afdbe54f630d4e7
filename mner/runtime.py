"""What results depend on besides the code: the machine and the versions."""

from __future__ import annotations

import os
import platform
import threading
from importlib.metadata import version
from pathlib import Path

import torch

import mner


class Turns:
    """A lock for `with`: threads take turns. What holds it can be copied and pickled; a copy has a lock of its own."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[Turns], tuple[()]]:
        return Turns, ()


def hardware() -> dict[str, str]:
    """Processor, cores, memory, accelerators, system."""
    import torch

    accelerators = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "threads of torch": str(torch.get_num_threads()),
        "memory": _memory(),
        "accelerators": ", ".join(accelerators) or "none",
        "system": platform.platform(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next((name for name in named if name), platform.processor() or platform.machine())


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (AttributeError, ValueError, OSError):  # not on every system
        return "unknown"


def pick_device(name: str) -> torch.device:
    """`auto` is the machine's accelerator where there is one, else the processor; other names are torch's."""
    if name != "auto":
        return torch.device(name)
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    import transformers

    return {
        "mner": mner.__version__,
        "torch": torch.__version__,
        "pytorch_lightning": version("pytorch-lightning"),
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def run_seed() -> int | None:
    """The seed that `seed_everything` was given."""
    seed = os.environ.get("PL_GLOBAL_SEED")
    return None if seed is None else int(seed)
