"""Damaged checkpoints and shared models: a model, or an error in one line; nothing of a file is ever run.

The files are real: `mner fit` and `save_pretrained` wrote them. They are broken in three depths: bytes of the archive;
bytes and names within its pickle, put into a whole archive again; and values of what it holds, written anew.
"""

from __future__ import annotations

import copy
import io
import json
import os
import random
import warnings
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from outcomes import Outcome, Target, broken, tried

from mner.cli import main
from mner.data.sample.texts import write_sample
from mner.tagger.tagger import Tagger
from mner.training.checkpoint import KEY, read_checkpoint

PROGRAMS = (b"os\nsystem", b"builtins\neval", b"posix\nsystem", b"subprocess\nPopen", b"builtins\nexec")
FIT = ["fit", "--model=TextOnly", "--model.text_encoder=tiny", "--data=Twitter2017DataModule", "--trainer.max_steps=2"]
FIT += ["--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
FIT += ["--trainer.accelerator=cpu", "--checkpoint.save_last=true"]


def trained(folder: Path) -> bytes:
    """The last checkpoint of a small run of `mner fit`, without its optimiser's state."""
    write_sample(folder / "sample", 20, 6, 6)
    places = [f"--data.root={folder / 'sample'}", f"--checkpoint.dirpath={folder}"]
    places += [f"--trainer.default_root_dir={folder}"]
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        if isinstance(main([*FIT, *places]), int):
            raise RuntimeError("no checkpoint to break")
    content = torch.load(folder / "last.ckpt", weights_only=True)
    content["optimizer_states"] = []  # two thirds of its bytes
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def in_pickle(pick: random.Random, raw: bytes) -> bytes:
    """The archive with a broken member, most often the pickle; what is named there may become a program."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(stream, "w") as new:
        names = old.namelist()
        pickles = [name for name in names if name.endswith("data.pkl")]
        chosen = pick.choice(pickles if pick.random() < 0.8 else names)
        for name in names:
            content = old.read(name)
            if name == chosen and pick.random() < 0.3:
                known = [b"torch._utils\n_rebuild_tensor_v2", b"torch\nFloatStorage", b"collections\nOrderedDict"]
                old_name, new_name = pick.choice(known), pick.choice(PROGRAMS)
                content = content.replace(old_name, new_name, pick.choice((1, -1)))
            elif name == chosen and content:
                content = _some_bytes(pick, content) if pick.random() < 0.7 else broken(pick, content, [raw])
            new.writestr(name, content)
    return stream.getvalue()


def _some_bytes(pick: random.Random, content: bytes) -> bytes:
    """Few bytes changed, so that most of the pickle is read before something is amiss."""
    found = bytearray(content)
    for _ in range(pick.choice((1, 1, 2, 4))):
        found[pick.randrange(len(found))] = pick.choice((pick.randrange(256), *b"KMNX]}q(.tRbIF0G"))
    return bytes(found)


VALUES: tuple[Any, ...] = (None, True, 0, -1, 7, 10**30, 1.5, float("nan"), "", "x", "../x", [], ["x"], [[]], {})


def in_values(pick: random.Random, content: Any) -> Any:
    """Plain data with a value, a key or an entry changed, somewhere."""
    content = copy.copy(content)
    if isinstance(content, dict) and content:
        key = pick.choice(list(content))
        action = pick.random()
        if action < 0.65 and isinstance(content[key], (dict, list)) and content[key]:
            content[key] = in_values(pick, content[key])
        elif action < 0.8:
            content[key] = _other(pick, content[key])
        elif action < 0.9:
            del content[key]
        else:
            content[pick.choice(("x", "", f"{key}s"))] = content.pop(key)
        return content
    if isinstance(content, list) and content:
        place = pick.randrange(len(content))
        content[place : place + 1] = pick.choice(([in_values(pick, content[place])], [], [content[place]] * 2))
        return content
    return _other(pick, content)


def _other(pick: random.Random, value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.numel() > 1:
        other = (value.flatten()[:-1], value.unsqueeze(0), value.double(), value.bool(), value.new_empty(0))
        return pick.choice((*other, pick.choice(VALUES)))
    if isinstance(value, str) and value and pick.random() < 0.5:
        place = pick.randrange(len(value))
        return value[:place] + pick.choice(("", "x", "\x00", "é", "/", "{")) + value[place + pick.randint(0, 2) :]
    return pick.choice(VALUES)


def checkpoint_target(how: str, whole: bool) -> Target:
    """What breaks a checkpoint in one of three ways, and reads it; if `whole`, builds its model and tags with it."""

    def target(pick: random.Random, folder: Path) -> Callable[[], Outcome]:
        raw, path = trained(folder), folder / "a.ckpt"
        content = torch.load(io.BytesIO(raw), weights_only=True)

        def breaks() -> Any:
            if how == "bytes":
                path.write_bytes(broken(pick, raw, [raw]))
            elif how == "pickle":
                path.write_bytes(in_pickle(pick, raw))
            else:
                some = in_values(pick, {KEY: content[KEY], "hyper_parameters": content["hyper_parameters"]})
                state = in_values(pick, content["state_dict"]) if pick.random() < 0.2 else content["state_dict"]
                changed = {**content, "state_dict": state}
                changed.pop(KEY), changed.pop("hyper_parameters")
                torch.save({**changed, **some}, path)
                return some
            return None

        def once() -> Outcome:
            some = breaks()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if whole:
                    result, details = tried(lambda: Tagger.from_checkpoint(path, device="cpu")("Anna visits Lagos"))
                else:
                    result, details = tried(lambda: read_checkpoint(path), _programs)
            return result, details and f"{details}\n{'' if some is None else _differing(content, some)}"

        return once

    return target


def _programs(found: Any) -> str:
    """Tensors and plain data are all that may be there."""
    queue = [found]
    while queue:
        value = queue.pop()
        if isinstance(value, dict):
            queue += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            queue += value
        elif callable(value) and not isinstance(value, torch.Tensor):
            return f"something that can be called: {value!r}"
    return ""


def _differing(old: Any, new: Any, where: str = "") -> str:
    """Where two trees of plain data differ, for the message."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = new.keys() if not where else {**old, **new}
        return "; ".join(
            found
            for key in keys
            if (found := _differing(old.get(key, "nothing"), new.get(key, "nothing"), f"{where}/{key}"))
        )
    return "" if str(old) == str(new) else f"{where}: {str(old)[:60]!r} -> {str(new)[:60]!r}"


def shared_target(pick: random.Random, folder: Path) -> Callable[[], Outcome]:
    """A folder of `save_pretrained` with one broken file."""
    (folder / "run").mkdir()
    (folder / "run" / "last.ckpt").write_bytes(trained(folder))
    place = Tagger.from_checkpoint(folder / "run" / "last.ckpt", device="cpu").save_pretrained(folder / "shared")
    files = {file.name: file.read_bytes() for file in place.iterdir() if not file.name.startswith(".")}

    def once() -> Outcome:
        name = pick.choice([name for name in files if name != "README.md"])
        raw = files[name]
        if name.endswith(".json") and pick.random() < 0.6:
            raw = json.dumps(in_values(pick, json.loads(raw))).encode()
        else:
            raw = broken(pick, raw, list(files.values()))
        (place / name).write_bytes(raw)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result, details = tried(lambda: Tagger.from_pretrained(place, device="cpu")("Anna visits Lagos"))
        (place / name).write_bytes(files[name])
        return result, details and f"{details}\n{name}: {raw[:3000]!r}"

    return once


TARGETS: dict[str, Target] = {
    "read_checkpoint, bytes": checkpoint_target("bytes", False),
    "read_checkpoint, pickle": checkpoint_target("pickle", False),
    "Tagger.from_checkpoint, pickle": checkpoint_target("pickle", True),
    "Tagger.from_checkpoint, values": checkpoint_target("values", True),
    "Tagger.from_pretrained": shared_target,
}
