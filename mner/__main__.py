"""`python -m mner` is `mner`."""

from mner.cli.main import script

if __name__ == "__main__":
    script()
