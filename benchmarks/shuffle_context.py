"""Give each text of a context file to another image: the control for captions. Every text stays in use.

python benchmarks/shuffle_context.py captions/catr.jsonl captions/catr_shuffled.jsonl --seed 0
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path


def main() -> None:
    """Write the shuffled file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    records = [json.loads(line) for line in options.source.read_text(encoding="utf-8").splitlines() if line.strip()]
    order = list(range(len(records)))
    random.Random(options.seed).shuffle(order)
    key = "caption" if "caption" in records[0] else "text"
    # Each takes the text of the next in a random cycle, so that nobody keeps its own.
    texts = {index: records[order[(place + 1) % len(order)]][key] for place, index in enumerate(order)}
    with options.target.open("w", encoding="utf-8") as file:
        for index, record in enumerate(records):
            file.write(json.dumps({**record, key: texts[index]}, ensure_ascii=False) + "\n")
    print(f"{len(records)} texts shuffled into {options.target}")


if __name__ == "__main__":
    main()
