"""`mner data doubts`: the one command on labels that trains, so that it needs the command line of `fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mner.curation.cross_validation import Train, cross_validate, use_posts
from mner.curation.doubts import find_doubts
from mner.curation.doubts_page import write_doubts
from mner.curation.posteriors import Posteriors, mean, posteriors_by, posteriors_of, read_posteriors
from mner.data.examples import Example, fingerprint
from mner.data.formats.posts import read_posts
from mner.data.formats.records import Reading
from mner.data.sources import SPLIT_NAMES, find_posts
from mner.errors import DataNotFoundError, MNERError
from mner.files import digest


def doubts(
    posts: Path,
    out: Path = Path("doubts"),
    fit: Path | None = None,
    folds: int = 5,
    seed: int = 0,
    checkpoints: list[Path] | None = None,
    posteriors: list[Path] | None = None,
    overrides: list[str] | None = None,
    images: Path | None = None,
    count: int = 200,
    format: str | None = None,
    reading: Reading | None = None,
    device: str = "auto",
) -> int:
    """Rank the labels that are likely wrong: a page to look at, and a table to decide in for `mner data apply`.

    Models say what they think of posts that they were not trained on: those of a config, trained here fold by fold
    (killed and started again, it goes on with the fold it was at), or given checkpoints or files of posteriors.

    Args:
        posts: The file of labelled posts.
        out: Folder for doubts.html, doubts.csv and, with a config, the folds' posteriors.
        fit: A config of `mner fit`: model, training, and the data module whose images and texts the posts have.
        folds: How many models are trained.
        seed: Of the folds; the training's is the config's.
        checkpoints: Checkpoints of models that were trained on other posts; their posteriors are averaged.
        posteriors: Files of posteriors (.npz) that `doubts` or others wrote, each of some of the posts or of all.
        overrides: Options for the config, such as `[trainer.max_epochs=4]`.
        images: Folder of the images, for the page and for checkpoints.
        count: Doubts on the page; the table has all.
        format: The format of the posts; by default found by suffix and content.
        reading: How the posts are read where they leave a choice.
        device: For checkpoints: `auto`, `cpu`, `cuda`, ...

    Returns:
        Exit code 0.
    """
    named = {"fit": fit, "checkpoints": checkpoints, "posteriors": posteriors}
    ways = [name for name, way in named.items() if way]
    if len(ways) != 1:
        found = " and ".join(f"--{name}" for name in ways) or "none"
        raise MNERError(f"Expected one of --fit, --checkpoints and --posteriors, but got {found}")
    files = find_posts(posts)
    if len(files) > 1:
        raise MNERError(f"{posts} holds {len(files)} splits ({', '.join(files)}); name the file of one")
    place = next(iter(files.values()))
    given = read_posts(place, format, reading=reading)
    labelled = [post for post in given if post.tags is not None]
    if not labelled:
        raise DataNotFoundError(f"{place}: no post with labels, so that none can be doubted")
    if fit is not None:
        options = [*(overrides or [])]
        train = training(fit, options, place, _split_of(place), out)
        about = {"config": digest(fit), "overrides": " ".join(options)}
        several = cross_validate(labelled, train, out / "posteriors", folds, seed, about)
    elif checkpoints:
        several = [posteriors_by(path, labelled, images, device) for path in checkpoints]
        for path, one in zip(checkpoints, several, strict=True):
            if one.about.get("trained on") in (fingerprint(given), fingerprint(labelled)):
                print(f"{path} was trained on these very posts: it repeats their labels, wrong ones too; take --fit")
    else:
        several = [read_posteriors(path) for path in posteriors or ()]
    ranked = find_doubts(labelled, mean(several, labelled))
    if len(labelled) < len(given):
        print(f"{len(given) - len(labelled):,} posts without labels left out")
    write_doubts(ranked, labelled, out, place, images, count)
    return 0


def training(config: Path, overrides: list[str], place: object, like: str, folder: Path) -> Train:
    """What trains a model of a config on some posts and gives its posteriors of others.

    The last epoch's weights are used: the best epoch by the held-out posts' score would have seen their labels.
    """
    from pytorch_lightning.callbacks import Checkpoint, EarlyStopping

    from mner.cli.lightning import MNERCLI, run
    from mner.data.datamodules.base import MNERDataModule

    def train(posts: list[Example], held: list[Example], fold: int) -> Posteriors:
        print(f"Fold {fold + 1}: training on {len(posts):,} posts, for the {len(held):,} others", flush=True)

        class OfFold(MNERCLI):
            """`mner fit` on the posts of a fold."""

            def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Any:
                for some in (config.get("callbacks") or [], callbacks):
                    some[:] = [one for one in some if not isinstance(one, (EarlyStopping, Checkpoint))]
                return super()._instantiate_trainer(config, callbacks)

            def after_instantiate_classes(self) -> None:
                super().after_instantiate_classes()
                if not isinstance(self.datamodule, MNERDataModule):
                    raise MNERError(f"Expected one data set in {config}, but it is a {type(self.datamodule).__name__}")
                use_posts(self.datamodule, {"train": posts, "valid": held}, place, like)

            def after_fit(self) -> None:
                pass

        options = [
            *overrides,
            *("trainer.logger=false", "trainer.enable_checkpointing=false", "trainer.enable_model_summary=false"),
            *("trainer.limit_val_batches=0", "trainer.num_sanity_val_steps=0"),
            f"trainer.default_root_dir={folder}",
        ]
        cli = run(["fit", "--config", str(config), *(f"--{option}" for option in options)], cli=OfFold)
        return posteriors_of(cli.model, cli.datamodule.val_dataloader(), str(cli.trainer.strategy.root_device))

    return train


def _split_of(path: Path) -> str:
    """The split that a file is named by; train if by none."""
    return next((split for split, names in SPLIT_NAMES.items() if path.stem.lower() in names), "train")
