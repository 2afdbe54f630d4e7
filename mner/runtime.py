"""What results depend on besides the code: the machine and the versions."""

from __future__ import annotations

import os
import platform
import random
import threading
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import mner
from mner.errors import MNERError


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
    """`auto` is the machine's accelerator where there is one, else the processor; other names are torch's.

    Raises:
        MNERError: If there is no such device here.
    """
    if name != "auto":
        try:
            device = torch.device(name)
            torch.empty(0, device=device)  # whether it is there is only known once it is used
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise MNERError(
                f"Expected a device of this machine, such as 'auto' or 'cpu', but got {name!r}: "
                f"{(str(error).splitlines() or [type(error).__name__])[0]}"
            ) from error
        return device
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def slow_bfloat16(device: torch.device) -> bool:
    """Whether a device has no instructions for bfloat16, so that it is emulated and slower than float32."""
    if device.type != "cpu":
        return False
    # torch names the instructions of x86; of an Arm processor it says only whether its kernels take bfloat16 at all.
    x86 = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    if platform.machine().lower() in ("x86_64", "amd64"):
        limited = "AVX2" in os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
        return limited or not any(check() for check in x86 if check is not None)
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and not supported()


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


def random_state() -> dict[str, Any]:
    """Where the random numbers of torch (on every device) and of Python are; tensors and plain data."""
    version_, numbers, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version_, list(numbers), gauss],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Go on from what `random_state` gave.

    >>> state = random_state()
    >>> first = torch.rand(3)
    >>> set_random_state(state)
    >>> torch.equal(torch.rand(3), first)
    True
    """
    torch.set_rng_state(state["torch"].cpu())
    if len(state["cuda"]) == torch.cuda.device_count() and state["cuda"]:
        torch.cuda.set_rng_state_all([each.cpu() for each in state["cuda"]])
    version_, numbers, gauss = state["python"]
    random.setstate((version_, tuple(numbers), gauss))
