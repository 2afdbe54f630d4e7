"""Names of objects from captions, for lack of the images: the COCO classes that a caption's words name, up to four.

    python benchmarks/tweets/names.py data/twitter2017/captions/catr.jsonl data/twitter2017/tags.jsonl

The classes are the 80 of torchvision's COCO detectors; words are compared in the singular, and words for persons stand
for `person`, as a detector has no other name for them. An image whose caption names none has no line. This stands for
a detector, and is none: it names what a captioner thought worth naming.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path

from torchvision.models.detection import FasterRCNN_ResNet50_FPN_V2_Weights

PERSONS = "man men woman women boy girl child children kid person people player guy lady crowd baby".split()
NAMES = FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1.meta["categories"]
CLASSES = [name for name in NAMES if name not in ("__background__", "N/A")]
MOST = 4  # as the authors of OCSGA found best (Wu et al. 2020)


def names(caption: str) -> list[str]:
    """The classes that a caption names, in its order, each once."""
    words = re.findall(r"[a-z]+", caption.lower())
    text = " ".join(["", *(_singular(word) for word in words), ""])
    found = {text.find(f" {name} "): name for name in CLASSES if f" {name} " in text}
    return [found[place] for place in sorted(found)][:MOST]


def _singular(word: str) -> str:
    if word.rstrip("s") in PERSONS or word in PERSONS:
        return "person"
    irregular = {"knives": "knife", "sheep": "sheep", "skis": "skis", "scissors": "scissors", "mice": "mouse"}
    for ending, instead in (("sses", "ss"), ("ches", "ch"), ("shes", "sh"), ("s", "")):
        if word not in irregular and word.endswith(ending) and not word.endswith(("ss", "us")):
            return word.removesuffix(ending) + instead
    return irregular.get(word, word)


def main() -> None:
    """Read the captions, write the names, say how many images have some."""
    source, target = map(Path, sys.argv[1:])
    count, named = Counter[str](), 0
    with target.open("x", encoding="utf-8") as stream:
        lines = source.read_text(encoding="utf-8").splitlines()
        for line in lines:
            record = json.loads(line)
            found = names(record["caption"])
            count.update(found)
            named += bool(found)
            if found:
                stream.write(json.dumps({"image_id": record["image_id"], "text": ", ".join(found)}) + "\n")
    often = ", ".join(f"{name} {times}" for name, times in count.most_common(8))
    print(f"{target}: {named} of {len(lines)} images have names; {often}")


if __name__ == "__main__":
    main()
