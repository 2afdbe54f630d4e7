"""The command line: `mner fit|validate|test|predict` by LightningCLI, and a table of further commands."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

COMMANDS: dict[str, str] = {
    "features": "mner.extract:features",
    "caption": "mner.caption:caption",
    "tag": "mner.tag:tag",
    "show": "mner.show:show",
    "export": "mner.export:export",
    "demo": "mner.demo:demo",
    "compare": "mner.analysis.commands:compare_command",
    "analyze": "mner.analysis.commands:analyze_command",
    "probe": "mner.analysis.modality:probe_command",
    "attention": "mner.analysis.attend:attention_command",
    "benchmark": "mner.benchmark.command:benchmark_command",
    "vocabulary": "mner.encoders.vocabulary_folder:vocabulary",
    "data stats": "mner.data.statistics:stats",
    "data verify": "mner.data.verify:verify_command",
    "data download": "mner.data.download:download",
    "data export": "mner.data.to_datasets:export",
}
"""Command -> `module:function`; imported when called, run by jsonargparse from its type hints."""

POSITIONAL = (
    *("tag", "show", "export", "demo", "compare", "analyze", "benchmark", "probe", "attention", "vocabulary"),
    *("data stats", "data verify", "data download", "data export"),
)
"""Commands whose required parameters are given by place: files and folders. The others name them all."""

LIGHTNING = ("fit", "validate", "test", "predict")


def main(args: Sequence[str] | None = None) -> Any:
    """Run one command; returns its exit code, or the LightningCLI for the commands of Lightning.

    Args:
        args: The arguments; None for those of the process.
    """
    given = list(sys.argv[1:] if args is None else args)
    # The installed script does not look into the current folder, where a user's own fusion lives. Not "", which moves
    # with the process: jsonargparse goes into the folder of a --config while it reads it.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for command, target in COMMANDS.items():
        words = command.split()
        if given[: len(words)] == words:
            return _run(target, given[len(words) :], command)
    if not given or given[0] in ("-h", "--help"):
        print(usage())
        return 0
    if given[0] == "--version":
        import mner

        print(mner.__version__)
        return 0
    if given[0] not in LIGHTNING:
        print(f"mner: no command {' '.join(given[:2])!r}\n\n{usage()}", file=sys.stderr)
        return 2
    from mner.lightning_cli import run

    return run(given)


def usage() -> str:
    """The list of commands."""
    lines = ["usage: mner COMMAND [options]     (mner COMMAND --help says more)", "", "train and evaluate:"]
    lines += ["  fit        train, and keep the best checkpoint by valid F1", "  validate   score the valid split"]
    lines += ["  test       score the test split, with a full report", "  predict    write the predictions of a split"]
    lines += ["", "further commands:", *(f"  {command}" for command in COMMANDS)]
    return "\n".join(lines)


def _run(target: str, arguments: list[str], command: str) -> Any:
    from jsonargparse import auto_cli

    from mner.errors import MNERError

    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    given = _joined(function, arguments)
    try:
        return auto_cli(function, args=given, prog=f"mner {command}", as_positional=command in POSITIONAL)
    except MNERError as error:
        print(f"mner {command}: {error}", file=sys.stderr)
        return 2


def _joined(function: Callable[..., Any], arguments: list[str]) -> list[str]:
    """`A B C --option …` where the first parameter is a list: jsonargparse wants that list in one argument."""
    first = next(iter(inspect.signature(function).parameters.values()))
    leading = next((place for place, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    if not str(first.annotation).startswith("list[") or not leading:
        return arguments
    return [json.dumps(arguments[:leading]), *arguments[leading:]]


def script() -> None:
    """Entry point of the installed command."""
    result = main()  # sys.argv stays as it is: Lightning starts its other processes with it
    sys.exit(result if isinstance(result, int) else 0)
