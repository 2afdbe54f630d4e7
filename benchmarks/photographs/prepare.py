"""Features, object names and a linear probe of the photographs, made once.

    python benchmarks/photographs/prepare.py PHOTOS WEIGHTS OUT

PHOTOS has `train.jsonl`, `valid.jsonl`, `test.jsonl` and `images/`; WEIGHTS is the file of an EfficientNet-Lite2 that
was trained on ImageNet. OUT gets

- `grid`: its last map, 9 x 9 cells, as `mner features` stores it;
- `cells`: the same, averaged over 3 x 3 blocks: nine regions of an image, so that all strategies can be trained on a
  processor. The mean over an image's regions is what it was;
- `objects.jsonl`: its four likeliest ImageNet classes of each image, for the strategy that reads names only;
- `probe.json`: what a linear layer on the mean of an image's cells tells of the entities that are only pointed at.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mner.analysis.subsets import train_types
from mner.data.examples import Example, fingerprint
from mner.data.formats.feature_store import FeatureStore
from mner.data.formats.feature_writer import FeatureWriter
from mner.data.formats.posts import read_posts
from mner.encoders.weights import read_weights
from mner.labels import spans
from mner.preprocessing.features import features

ENCODER = "tf_efficientnet_lite2"
SIDE, BLOCK = 9, 3
HEALTH = ("DISEASE", "PEST")
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
NAMES = 4


def pool(grid: FeatureStore, out: Path) -> FeatureStore:
    """Store the mean of each 3 x 3 block of cells."""
    known = {name: grid.meta[name] for name in ("kind", "encoder", "width", "weights", "weights_hash", "dtype")}
    with FeatureWriter(out, transform={**grid.meta["transform"], "blocks": BLOCK}, **known) as writer:
        for key in grid:
            blocks = np.asarray(grid[key], np.float32).reshape(SIDE // BLOCK, BLOCK, SIDE // BLOCK, BLOCK, -1)
            writer.append([key], [blocks.mean(axis=(1, 3)).reshape(-1, grid.width).astype(np.float16)])
        writer.finish()
    return FeatureStore(out)


def name_objects(grid: FeatureStore, weights: Path, out: Path) -> None:
    """Write the likeliest classes of each image, which the classifier reads off the mean of its cells."""
    from timm.data import ImageNetInfo

    *_, weight, bias = read_weights(weights).values()
    classes = ImageNetInfo()
    with out.open("w", encoding="utf-8") as file:
        for key in grid:
            scores = weight @ torch.from_numpy(mean_of(grid, key)) + bias
            chosen = [classes.index_to_description(int(index)) for index in scores.topk(NAMES).indices]
            names = ", ".join(name.split(",")[0] for name in chosen)  # the first of several synonyms
            file.write(json.dumps({"image_id": key, "text": names}) + "\n")


def mean_of(store: FeatureStore, image_id: str | None) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Mean over an image's regions (f)."""
    return np.asarray(store[image_id or ""], np.float32).mean(axis=0)


def pointed_at(posts: Iterable[Example], types: dict[str, set[str]]) -> list[tuple[Example, Any]]:
    """Post and span of each entity whose words have two types or more in train."""
    return [
        (post, span)
        for post in posts
        for span in spans(post.tags or ())
        if len(types.get(" ".join(post.words[span.start : span.end]).casefold(), ())) > 1
    ]


class LinearProbe:
    """Logistic regression on standardised means of regions, its penalty chosen on the valid split."""

    def __init__(self, store: FeatureStore, images: dict[str, str]) -> None:
        self.store, self.classes = store, sorted(set(images.values()))
        inputs = torch.stack([torch.from_numpy(mean_of(store, key)) for key in images])
        self.mean, self.sd = inputs.mean(0), inputs.std(0) + 1e-6
        self.inputs = (inputs - self.mean) / self.sd
        self.gold = torch.tensor([self.classes.index(type_) for type_ in images.values()])

    def fit(self, penalty: float) -> LinearProbe:
        """Full-batch, from zeros: nothing is drawn."""
        self.weight = torch.zeros(self.inputs.shape[1], len(self.classes), requires_grad=True)
        self.bias = torch.zeros(len(self.classes), requires_grad=True)
        optimizer = torch.optim.LBFGS([self.weight, self.bias], max_iter=200)

        def loss() -> Tensor:
            optimizer.zero_grad()
            fitting = torch.nn.functional.cross_entropy(self.inputs @ self.weight + self.bias, self.gold)
            total = fitting + penalty / 2 * self.weight.square().sum()
            total.backward()  # type: ignore[no-untyped-call]
            return total

        optimizer.step(loss)
        return self

    @torch.no_grad()
    def tell(self, image_id: str | None) -> str:
        """The class of an image."""
        inputs = (torch.from_numpy(mean_of(self.store, image_id)) - self.mean) / self.sd
        return self.classes[int((inputs @ self.weight + self.bias).argmax())]


def right(probe: LinearProbe, entities: list[tuple[Example, Any]]) -> int:
    """How many entities the image of their post is enough for."""
    return sum(probe.tell(post.image_id) == span.type for post, span in entities)


def linear_probe(store: FeatureStore, posts: dict[str, list[Example]]) -> dict[str, Any]:
    """Of entities that are only pointed at, how many have the type that the probe tells: crops, and disease or pest.

    One probe tells crops, one disease from pest, since the words say which of the two is asked for. Each is trained on
    every training photograph with such an entity.
    """
    types = train_types(posts["train"])
    asked = {split: pointed_at(posts[split], types) for split in ("valid", "test")}
    found: dict[str, Any] = {}
    for name in ("crop", "disease or pest"):
        images: dict[str, str] = {}
        of_kind: dict[str, list[tuple[Example, Any]]] = defaultdict(list)
        for post in posts["train"]:
            for span in spans(post.tags or ()):
                if (span.type in HEALTH) == (name != "crop"):
                    images.setdefault(post.image_id or "", span.type)
        for split, entities in asked.items():
            of_kind[split] = [pair for pair in entities if (pair[1].type in HEALTH) == (name != "crop")]
        probe = LinearProbe(store, images)
        # The first of the best: the weakest penalty that does as well.
        scores = {penalty: right(probe.fit(penalty), of_kind["valid"]) for penalty in PENALTIES}
        best = max(scores, key=scores.__getitem__)
        probe.fit(best)
        found[name] = {
            "photographs": len(images),
            "penalty": best,
            **{split: {"entities": len(some), "right": right(probe, some)} for split, some in of_kind.items()},
        }
    for split, entities in asked.items():
        found[split] = {
            "entities": len(entities),
            "right": sum(part[split]["right"] for part in found.values() if "penalty" in part),
            "all": sum(len(spans(post.tags or ())) for post in posts[split]),
        }
    return found


def main() -> None:
    """Make what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    posts = {split: read_posts(given.photos / f"{split}.jsonl") for split in ("train", "valid", "test")}
    grid = features(given.photos / "images", given.out / "grid", ENCODER, str(given.weights), num_workers=0)
    cells = pool(grid, given.out / "cells")
    name_objects(grid, given.weights, given.out / "objects.jsonl")
    probe = linear_probe(cells, posts)
    probe["fingerprints"] = {split: fingerprint(some) for split, some in posts.items()}
    (given.out / "probe.json").write_text(json.dumps(probe, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(probe, indent=1))


if __name__ == "__main__":
    main()
