"""One run: fit, predict with the best checkpoint, record. A run that is recorded is never done again."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mner.benchmark.plan import BenchmarkError, Job
from mner.data.examples import Split
from mner.errors import DataFormatError
from mner.files import is_draft, lock, write_json
from mner.runtime import hardware, versions

RECORD = "run.json"
PREDICTIONS = "predictions.jsonl"

Command = Callable[[list[str]], Any]
"""Takes the arguments of `mner fit`; gives the LightningCLI, or an exit code."""


def recorded(job: Job, out: Path) -> dict[str, Any] | None:
    """What a finished run recorded, or None if it is not finished.

    Raises:
        BenchmarkError: If the folder holds a run, finished or begun, with another config, options or split.
    """
    folder = out / "runs" / job.name
    for name in (RECORD, "begun.json"):
        path = folder / name
        if path.is_file():
            found = _read_record(path)
            if found["digest"] != job.digest:
                raise BenchmarkError(
                    f"{folder} holds a run with another config, overrides or split than asked for now. "
                    "Choose another --out, or remove that folder to do the run again"
                )
            if name == RECORD:
                return found
            return None
    if folder.is_dir() and any(not is_draft(entry.name) for entry in folder.iterdir()):
        raise BenchmarkError(f"{folder} holds files that no benchmark wrote. Choose another --out, or move them away")
    return None


def _read_record(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _ = found["digest"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        advice = f"Remove the folder {path.parent} to do the run again."
        raise DataFormatError(path, None, f"something else ({error!r})", "what a benchmark noted", advice) from None
    return found


def execute(job: Job, out: Path, split: Split, run: Command, keep_checkpoints: bool = False) -> bool:
    """Do one run; what it prints goes into `log.txt` of its folder.

    A run that was killed goes on from its last finished epoch.

    Args:
        job: The run.
        out: Folder of the benchmark.
        split: The split to predict.
        run: Runs `mner fit`: takes its arguments and gives the LightningCLI, or raises.
        keep_checkpoints: Keep the best checkpoint.

    Returns:
        Whether it came to its end; if not, the log says why.
    """
    folder = out / "runs" / job.name
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "begun.json", {"digest": job.digest})
    with printing_to(folder / "log.txt"):
        try:
            _run(job, folder, split, run)
        except Exception:  # the log has the traceback, and the other runs are to be done
            traceback.print_exc()
            return False
        finally:
            free_memory()
    if not keep_checkpoints:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return True


def _run(job: Job, folder: Path, split: Split, run: Command) -> None:
    started = time.monotonic()
    last = folder / "checkpoints" / "last.ckpt"
    resumed = last.is_file()
    cli = run(arguments(job, folder, last if resumed else None))
    if not cli.trainer.checkpoint_callback.best_model_path:
        raise BenchmarkError(f"{job.name} was never validated, so there is no best checkpoint to predict with")
    fitted = time.monotonic()
    cli.trainer.predict(
        cli.model, datamodule=cli.datamodule, ckpt_path="best", output=str(folder / PREDICTIONS), split=split
    )
    record = {
        "dataset": job.dataset,
        "system": job.system,
        "seed": job.seed,
        "fraction": job.fraction,
        "split": split,
        "config": job.config.read_text(encoding="utf-8"),
        "overrides": list(job.overrides),
        "digest": job.digest,
        "training_posts": len(cli.datamodule.datasets["train"]),
        "parameters": sum(parameter.numel() for parameter in cli.model.parameters()),
        "epochs": int(cli.trainer.current_epoch),
        "fit_seconds": round(fitted - started, 1),
        "resumed": resumed,  # then fit_seconds is the last part's, and dropout drew other numbers than without a break
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "hardware": hardware(),
    }
    write_json(folder / RECORD, record)


def arguments(job: Job, folder: Path, resume: Path | None) -> list[str]:
    """The arguments of `mner fit` for a run. What the benchmark must control comes last."""
    options = [
        *job.overrides,
        f"data.seed={job.seed}",
        f"data.train_fraction={job.fraction:g}",
        *controlled(job.seed, folder, resume),
    ]
    return ["fit", "--config", str(job.config), *(f"--{option}" for option in options)]


def controlled(seed: int, folder: Path, resume: Path | None) -> list[str]:
    """Options of a run in a folder of its own that goes on from `resume`, if there is one."""
    return [
        f"seed_everything={seed}",
        f"trainer.default_root_dir={folder}",
        "trainer.logger=false",
        "trainer.enable_progress_bar=false",
        "trainer.enable_model_summary=false",
        f"checkpoint.dirpath={folder / 'checkpoints'}",
        "checkpoint.save_last=true",
        "checkpoint.enable_version_counter=false",
        *([f"ckpt_path={resume}"] if resume is not None else []),
    ]


@contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Let no second process work in the same folder; a killed process leaves nothing behind that blocks.

    Raises:
        BusyError: If another process is at work there.
        BenchmarkError: If there is a file.
    """
    if out.exists() and not out.is_dir():
        raise BenchmarkError(f"Expected a folder as --out, but {out} is a file")
    out.mkdir(parents=True, exist_ok=True)
    held = lock(out / ".lock", f"{out} (a benchmark)")
    try:
        yield
    finally:
        held.release()


@contextmanager
def printing_to(path: Path) -> Iterator[None]:
    """Send everything that this process prints to a file, also what does not go through `sys.stdout`."""
    # Logging keeps the stream that it first saw; these write wherever descriptors 1 and 2 point, and stay open.
    streams = [open(descriptor, "w", encoding="utf-8", buffering=1, closefd=False) for descriptor in (1, 2)]
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    with path.open("a", encoding="utf-8") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        try:
            with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
                yield
        finally:
            for descriptor, copy, stream in zip((1, 2), kept, streams, strict=True):
                stream.flush()
                os.dup2(copy, descriptor)
                os.close(copy)


def free_memory() -> None:
    """Let go of what a run left on the accelerator."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
