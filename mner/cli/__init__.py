"""The command line: a table of commands, each a function of another room with its options."""

from mner.cli.main import main, script

__all__ = ["main", "script"]
