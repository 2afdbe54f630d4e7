"""The command line: `mner fit|validate|test|predict` by LightningCLI, and a table of further commands."""

from __future__ import annotations

import importlib
import inspect
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from mner.cli.errors import guarded

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("mner.cli.init:init", "look at a folder of posts and write a config that trains on it"),
    "tag": ("mner.cli.tagging:tag", "find the entities of new posts"),
    "calibrate": ("mner.tagger.calibration:calibrate", "make a model's scores probabilities, on held-out posts"),
    "show": ("mner.cli.tagging:show", "draw posts, entities, images and attention as a page"),
    "demo": ("mner.tagger.demo:demo", "a local page to try a model on typed posts"),
    "neighbours": ("mner.cli.neighbours:neighbours", "store training words, to mix their labels into a model's"),
    "serve": ("mner.serving.server:serve", "a trained model as an HTTP service"),
    "export": ("mner.cli.tagging:export", "write a model for ONNX Runtime"),
    "ensemble": ("mner.tagger.ensemble:ensemble", "several checkpoints or prediction files as one"),
    "compare": ("mner.cli.evaluation:compare_command", "compare systems by their prediction files"),
    "analyze": ("mner.cli.evaluation:analyze_command", "a report on systems: tables, figures, errors"),
    "probe": ("mner.probing.probe:probe_command", "does a trained model use its images and texts?"),
    "attention": ("mner.probing.attention:attention_command", "where a model looked, as figures"),
    "benchmark": ("mner.cli.evaluation:benchmark_command", "train configs with several seeds and compare them"),
    "search": ("mner.cli.evaluation:search_command", "search for options of a config by valid F1"),
    "features": ("mner.preprocessing.features:features", "image features of a folder, stored once"),
    "caption": ("mner.preprocessing.captions:caption", "captions of a folder of images"),
    "objects": ("mner.preprocessing.objects:objects", "names of the objects in a folder of images"),
    "ocr": ("mner.preprocessing.ocr:ocr", "the text that is written in a folder of images"),
    "relations": ("mner.preprocessing.relations:relations", "does the image of a post show what its text tells?"),
    "retrieve": ("mner.preprocessing.retrieval:retrieve", "texts most like each post, from a corpus or training"),
    "notes": ("mner.preprocessing.notes:notes", "let a language model write a text about each post"),
    "vocabulary": ("mner.encoders.vocabulary_folder:vocabulary", "make a word-level text encoder from word vectors"),
    "pretrain": ("mner.preprocessing.pretraining:pretrain", "train an encoder on in posts without labels"),
    "data stats": ("mner.data.statistics:stats", "posts, words, entities of a data set in numbers"),
    "data verify": ("mner.data.verify:verify_command", "is a folder of posts fit for training?"),
    "data leakage": ("mner.data.leakage:leakage_command", "how many gold entities do texts beside posts name?"),
    "data agreement": ("mner.curation.agreement:agreement", "compare annotators: span F1, kappa, confused types"),
    "data doubts": ("mner.cli.curation:doubts", "labels that are likely wrong: a page and a table to decide in"),
    "data apply": ("mner.curation.corrections:apply", "a corrected copy of posts, and a patch without their texts"),
    "data next": ("mner.curation.selection:next_posts", "which unlabelled posts to annotate next"),
    "data download": ("mner.data.download:download", "fetch the public Twitter text"),
    "data convert": ("mner.data.convert:convert", "write posts in another format, dealt out to splits where asked"),
    "data export": ("mner.data.huggingface.writer:export", "data convert with --format huggingface"),
}
"""Command -> `module:function` and what it does; imported when called, run by jsonargparse from its type hints."""

POSITIONAL = (
    *("init", "tag", "show", "calibrate", "export", "demo", "compare", "analyze", "benchmark", "probe", "attention"),
    *("retrieve", "neighbours", "notes", "relations", "data leakage"),
    *("ensemble", "vocabulary", "serve", "search"),
    *("data stats", "data verify", "data download", "data convert", "data export", "data agreement"),
    *("data doubts", "data apply", "data next"),
)
"""Commands whose required parameters are given by place: files and folders. The others name them all."""

LIGHTNING = {
    "fit": "train, and keep the best checkpoint by valid F1",
    "validate": "score the valid split",
    "test": "score the test split, with a full report",
    "predict": "write the predictions of a split",
}
"""Commands of Lightning and what they do."""


def main(args: Sequence[str] | None = None) -> Any:
    """Run one command; returns its exit code, or the LightningCLI for the commands of Lightning.

    Args:
        args: The arguments; None for those of the process.
    """
    given = list(sys.argv[1:] if args is None else args)
    command = _command(given)
    return guarded(command or " ".join(given[:1]), lambda: _call(given, command))


def _command(given: list[str]) -> str:
    """The command that the arguments begin with, or an empty text."""
    return next((name for name in (*COMMANDS, *LIGHTNING) if given[: len(name.split())] == name.split()), "")


def _call(given: list[str], command: str) -> Any:
    # The installed script does not look into the current folder, where a user's own fusion lives. Not "", which moves
    # with the process: jsonargparse goes into the folder of a --config while it reads it.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    if command in COMMANDS:
        return _run(COMMANDS[command][0], given[len(command.split()) :], command)
    if not given or given[0] in ("-h", "--help"):
        print(usage())
        return 0
    if given[0] == "--version":
        import mner

        print(mner.__version__)
        return 0
    if not command:
        from mner.cli.suggestions import UsageError, near

        tried = " ".join(given[:2]) if any(name.startswith(f"{given[0]} ") for name in COMMANDS) else given[0]
        raise UsageError(f"no command {tried!r}{near(tried, (*COMMANDS, *LIGHTNING))} (`mner --help` lists them)")
    from mner.cli.lightning import run

    return run(given)


def usage() -> str:
    """The list of commands."""
    lines = ["usage: mner COMMAND [options]     (mner COMMAND --help says more)", "", "train and evaluate:"]
    lines += [f"  {command:15}{what}" for command, what in LIGHTNING.items()]
    lines += ["", "further commands:", *(f"  {command:15}{what}" for command, (_, what) in COMMANDS.items())]
    return "\n".join(lines)


def _run(target: str, arguments: list[str], command: str) -> Any:
    from jsonargparse import auto_cli

    from mner.cli.suggestions import Suggesting

    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    given = _joined(function, arguments)
    options: dict[str, Any] = {"as_positional": command in POSITIONAL, "parser_class": Suggesting}
    return auto_cli(function, args=given, prog=f"mner {command}", **options)


def _joined(function: Callable[..., Any], arguments: list[str]) -> list[str]:
    """`A B C --option …` where the first parameter is a list: jsonargparse wants that list in one argument."""
    first = next(iter(inspect.signature(function).parameters.values()))
    leading = next((place for place, word in enumerate(arguments) if word[:1] == "-" != word), len(arguments))
    if not str(first.annotation).startswith("list[") or not leading:
        return arguments
    return [json.dumps(arguments[:leading]), *arguments[leading:]]


def script() -> None:
    """Entry point of the installed command."""
    for stream in (sys.stdout, sys.stderr):  # where they are not UTF-8, nothing dies of a character
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    result = main()  # sys.argv stays as it is: Lightning starts its other processes with it
    sys.exit(result if isinstance(result, int) else 0)
