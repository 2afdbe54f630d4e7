"""What a checkpoint says beside its weights: is each fact of the kind that the rest of the library relies on?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mner.errors import CheckpointError

CALIBRATION = "calibration"
"""Where a checkpoint has what `mner calibrate` found: by label set ("" for a model with one list of labels) the
`temperature`, and expected calibration errors on the posts that it was fitted on, `before` and `after`."""
DATA: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("name", "replace_urls", "object_names"), str),
    **dict.fromkeys(("fingerprints", "words", "tokenizer", "label_sets"), dict),
    **dict.fromkeys(("max_length", "image_size", "piece_limit"), int),
    **{"context": list, "images": (bool, str), "image_encoder": (str, dict), "features": dict, "labels": (list, dict)},
}
"""Kinds of the facts on the data, each of which may be None too; others are not read."""


def check_facts(checkpoint: Mapping[str, Any], key: str, path: object) -> None:
    """Refuse a checkpoint whose facts are of other kinds than those that `mner` writes.

    Args:
        checkpoint: Its content.
        key: Under which `mner`'s facts are.
        path: The file, for the message.

    Raises:
        CheckpointError: If they are; it names the first.
    """
    facts = checkpoint[key]
    _expect(path, f"{key}/class", facts.get("class"), str)
    _expect(path, f"{key}/text_config", facts.get("text_config"), dict)
    _expect(path, "hyper_parameters", checkpoint.get("hyper_parameters"), dict)
    _expect(path, "state_dict", checkpoint.get("state_dict"), dict)
    check_data(facts.get("data"), path)
    check_calibration(facts.get("calibration"), path)


def check_calibration(found: Any, path: object) -> None:
    """As `check_facts`, for the temperatures that `mner calibrate` wrote."""
    if found is None:
        return
    _expect(path, CALIBRATION, found, dict)
    for facts in found.values():
        _expect(path, CALIBRATION, facts, dict)
        temperature = facts.get("temperature")
        _expect(path, f"{CALIBRATION}/temperature", temperature, (int, float))
        if not 0 < temperature < math.inf:
            raise _other(path, f"{CALIBRATION}/temperature", temperature, "a number above 0")


def temperature_of(facts: Mapping[str, Any] | None, label_set: str | None = None) -> float:
    """The temperature that a checkpoint's facts have for a label set; 1 where it was not calibrated."""
    found = ((facts or {}).get(CALIBRATION) or {}).get(label_set or "")
    return 1.0 if found is None else float(found["temperature"])


def check_data(data: Any, path: object) -> None:
    """As `check_facts`, for what it says of the data; nothing is well too, since a model may be trained without."""
    if data is None:
        return
    _expect(path, "data", data, dict)
    for name, kind in DATA.items():
        if data.get(name) is not None:
            _expect(path, f"data/{name}", data[name], kind)
    for name in ("max_length", "image_size", "piece_limit"):
        if data.get(name) is not None and data[name] < 1:
            raise _other(path, f"data/{name}", data[name], "a number above 0")
    for name, texts in (("context", data.get("context")), ("tokenizer", (data.get("tokenizer") or {}).values())):
        for text in texts or ():
            _expect(path, f"data/{name}", text, str)
    for one in (data.get("label_sets") or {}).values():
        check_data(one, path)


def _expect(path: object, name: str, value: Any, kind: type | tuple[type, ...]) -> None:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise _other(path, name, value, " or ".join(one.__name__ for one in kinds))


def _other(path: object, name: str, value: Any, expected: str) -> CheckpointError:
    return CheckpointError(
        f"{path} was changed or damaged: it has {value!r:.80} as {name}, where mner writes {expected}; take another "
        "copy"
    )
