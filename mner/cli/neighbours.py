"""`mner neighbours`: training words whose labels are mixed into those of a model."""

from __future__ import annotations

from pathlib import Path

from mner.labels import Mode


def neighbours(
    checkpoint: Path,
    root: Path,
    out: Path,
    k: list[int] | None = None,
    temperature: list[float] | None = None,
    weight: list[float] | None = None,
    images: str | None = None,
    features: str | None = None,
    context: list[str] | None = None,
    mode: Mode = "lenient",
    batch_size: int = 32,
    device: str = "auto",
) -> int:
    """Store the words of the training split as a model sees them, and choose on valid how much their labels count.

    `mner predict --neighbours OUT` and `Tagger(..., neighbours=OUT)` mix the labels of the nearest of them into the
    model's (kNN-NER, Wang et al. 2022). If nothing that was tried is better on valid than the model alone, the weight
    is 0.

    Args:
        checkpoint: The checkpoint that `mner fit` wrote.
        root: Folder of the data set, with training and valid split.
        out: File to write.
        k: Numbers of nearest words to try; None for 8, 16, 32, 64, 128.
        temperature: Temperatures of their cosines to try; None for 0.01, 0.03, 0.1, 0.3.
        weight: Weights of their labels to try; None for 0.1 to 0.9 in steps of 0.1.
        images: Folder of images, as in training.
        features: Folder of stored features, as in training.
        context: Files of context texts, as in training.
        mode: Reading of tag sequences.
        batch_size: Posts in a batch.
        device: Where the model runs, such as cpu or cuda; auto takes the accelerator if there is one.

    Returns:
        Exit code 0.

    Raises:
        CheckpointError: If the model cannot be used.
        DataFormatError: If `out` is a file of somebody else.
    """
    from mner.files import refuse_foreign
    from mner.fusion import FusionModule
    from mner.nn.neighbours import MARK
    from mner.probing.probe import restored_data
    from mner.runtime import pick_device
    from mner.tagger.neighbours import TEMPERATURES, WEIGHTS, K, choose_neighbours

    refuse_foreign(out, MARK, [checkpoint, root])
    model = FusionModule.load_from_checkpoint(checkpoint)
    data = restored_data(model, root, images, features, context or (), batch_size)
    found = choose_neighbours(
        model, data, k or K, temperature or TEMPERATURES, weight or WEIGHTS, str(pick_device(device)), mode
    )
    store = found.store
    print(f"{len(store.gold):,} words of the training split; {len(found.tried)} settings on valid, F1 ({mode}):")
    print(f"  {100 * found.alone:.2f}  the model alone ; by its marginals {100 * found.posteriors:.2f}")
    for setting in found.tried[:5]:
        numbers = f"k {setting.k}, temperature {setting.temperature:g}, weight {setting.weight:g}"
        print(f"  {100 * setting.f1:.2f}  {numbers}")
    if not store.weight:
        print("None is better than the model alone: the weight is 0, and the store is of no use to this model")
    best = found.tried[0]
    store.save(out, {"valid": {"alone": found.alone, "best": best.f1, "mode": mode, "tried": len(found.tried)}})
    print(f"Written to {out}: k {store.k}, temperature {store.temperature:g}, weight {store.weight:g}")
    return 0
