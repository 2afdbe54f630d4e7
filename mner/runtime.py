"""What results depend on besides the code: the machine and the versions."""

from __future__ import annotations

import atexit
import ctypes
import functools
import logging
import os
import platform
import random
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

import mner
from mner.errors import MNERError

log = logging.getLogger(__name__)
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
LOWER: dict[str, torch.dtype | None] = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""What `torch.autocast` computes in under each precision."""
GAIN = 1.1
"""Times as fast as float32 that bf16 has to be measured, so that noise alone does not choose it."""


def leave_group_at_exit() -> None:
    """End the process group, where there is one, before the interpreter does.

    Lightning ends NCCL's only; the threads of a gloo group that is left to the interpreter's end may abort the process
    after its work is done and written.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        _leave_once()


@functools.cache
def _leave_once() -> None:
    atexit.register(_leave_group)


def _leave_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


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


LARGEST_KEPT = 1 << 30
"""Bytes of a buffer that `keep_memory` has the C library reuse: more than a layer's of 32 images take."""
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""glibc's numbers of its settings, from malloc.h."""


def keep_memory() -> bool:
    """Have the C library keep the buffers of image encoders, for what a command runs from here on.

    The outputs of a layer for a batch of images are tens of megabytes. glibc gives so large a buffer back to the system
    as soon as it is free, and the next layer's is faulted in again page by page, which took most of the time. The price
    is that memory, once used, stays with the process until it ends; importing mner therefore sets nothing.

    Returns:
        Whether it was set: only with glibc (Linux), and not over what the environment says (`MALLOC_…_THRESHOLD_`,
        `GLIBC_TUNABLES`).
    """
    given = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in given):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # 1 for each setting that was taken; a trim threshold of -1 gives nothing back.
    return bool(mallopt and mallopt(_MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(_TRIM_THRESHOLD, -1))


def automatic_precision(
    device: torch.device,
    width: int = 768,
    training: bool = True,
    measure: Callable[[torch.device, int, bool], tuple[float, float]] | None = None,
    of: str = "",
) -> Precision:
    """What a device does best: float32 on a processor, unless bf16 was measured to be faster; on a GPU bf16 or float16.

    A processor without instructions for bf16 is not measured. What was found holds for the process and those that it
    starts, so that the processes of one run agree.

    Args:
        device: The device.
        width: Of the text encoder.
        training: Whether gradients are computed too.
        measure: Gives seconds in float32 and in bf16; None for `layer_seconds`.
        of: What that measures, where it is not a layer of this width.
    """
    key = f"MNER_PRECISION_{device.type}_{width}_{of or ('training' if training else 'tagging')}"
    kept = os.environ.get(key)
    if kept in ("32-true", "bf16-mixed", "16-mixed"):
        return kept  # type: ignore[return-value]  # it is one of them
    found: Precision
    if device.type == "cuda":
        found = "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
        why = "what this GPU has instructions for"
    elif device.type != "cpu":
        found, why = "32-true", f"lower ones were not tried on {device.type}"
    elif slow_bfloat16(device):
        found, why = "32-true", "this processor has no instructions for bfloat16"
    else:
        full, lower = (measure or layer_seconds)(device, width, training)
        found = "bf16-mixed" if lower * GAIN <= full else "32-true"
        what = of or f"a layer of width {width}"
        why = f"{what} takes {1000 * full:.1f} ms in float32 and {1000 * lower:.1f} in bf16 here"
    log.info("precision auto: %s (%s)", found, why)
    os.environ[key] = found
    return found


def layer_seconds(device: torch.device, width: int, training: bool) -> tuple[float, float]:
    """Least seconds of an encoder layer's feed-forward part, in float32 and under bf16; they take turns.

    Training is measured on 128 pieces, tagging on the 32 of one post: converting the weights, which is done for each
    batch, weighs most there.
    """
    rows = 128 if training else 32
    with torch.random.fork_rng(devices=[]):  # a run goes on with the random numbers that it would have had
        layer = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)).to(device)
        given = torch.randn(rows, width, device=device)
    times: tuple[list[float], list[float]] = [], []
    with torch.inference_mode(False), torch.set_grad_enabled(training):
        for _ in range(4):
            for lower in (False, True):
                start = time.perf_counter()
                with torch.autocast(device.type, torch.bfloat16, enabled=lower):
                    out = layer(given)
                if training:
                    out.float().sum().backward()
                times[lower].append(time.perf_counter() - start)
    return min(times[0]), min(times[1])


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
