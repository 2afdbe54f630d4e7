"""Where a text encoder's files are: a Hub name, a folder, or the tiny encoder that ships with the package."""

from __future__ import annotations

from pathlib import Path

TINY = "tiny"


def locate(name: str) -> str:
    """The folder of the built-in encoder for `"tiny"`, any other name as it is.

    Raises:
        FileNotFoundError: If `name` looks like a path and nothing is there.
    """
    if name == TINY:
        return str(Path(__file__).parent / "encoders" / "tiny")
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_like_path and not Path(name).expanduser().is_dir():
        raise FileNotFoundError(
            f"Expected a transformers folder (config.json, weights, tokeniser) at {name!r}, but it is not there. "
            "Give a folder, a name on the Hugging Face Hub, or 'tiny' for the built-in random encoder."
        )
    return str(Path(name).expanduser()) if looks_like_path else name
