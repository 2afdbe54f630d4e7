"""LightningCLI with the links between model and data, and the recipe's defaults for the Trainer."""

from __future__ import annotations

import logging
import sys
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from mner.data import MNERDataModule
from mner.errors import MNERError
from mner.fusion import FusionModule
from mner.report import score_table
from mner.running import Trainer


class BestByF1(ModelCheckpoint):
    """Keeps the checkpoint of the best lenient F1 on the valid split; a tie keeps the earlier one."""

    def __init__(self, monitor: str = "val/f1", mode: str = "max", filename: str = "best", **kwargs: Any) -> None:
        super().__init__(monitor=monitor, mode=mode, filename=filename, **kwargs)


class MNERCLI(LightningCLI):
    """The commands of Lightning for fusion modules and MNER data modules."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Say once what model and data must agree on."""
        parser.link_arguments("model.init_args.text_encoder", "data.init_args.text_encoder")
        parser.link_arguments("model.init_args.image_encoder", "data.init_args.image_encoder")
        parser.link_arguments("data.labels", "model.init_args.labels", apply_on="instantiate")
        parser.link_arguments("data.region_width", "model.init_args.region_width", apply_on="instantiate")
        parser.add_lightning_class_args(BestByF1, "checkpoint")

    def after_fit(self) -> None:
        """Say what came out and where it is."""
        if not self.trainer.is_global_zero or getattr(self.trainer, "fast_dev_run", False):
            return
        best = self.trainer.checkpoint_callback
        if not isinstance(best, ModelCheckpoint) or best.best_model_score is None:
            return
        print(f"\nBest valid F1: {100 * float(best.best_model_score):.2f}")
        print(f"Checkpoint: {best.best_model_path}")
        data = self.datamodule
        if isinstance(data, MNERDataModule):
            print("Data fingerprints: " + ", ".join(f"{name} {value}" for name, value in data.fingerprints.items()))

    def after_validate(self) -> None:
        """Print the scores of the valid split as a table."""
        if self.trainer.is_global_zero:
            metrics = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
            print(score_table(self.model.labels, metrics, "val"))


def run(args: list[str]) -> Any:
    """Parse `args`, run the command, and turn our own errors into one line and exit code 2."""
    logging.getLogger("mner").setLevel(logging.INFO)
    if not logging.getLogger("mner").handlers:
        logging.getLogger("mner").addHandler(logging.StreamHandler())
    try:
        return MNERCLI(
            FusionModule,
            MNERDataModule,
            trainer_class=Trainer,
            trainer_defaults={"gradient_clip_val": 1.0, "max_epochs": 20},
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            args=args,
        )
    except MNERError as error:
        print(f"mner {args[0]}: {error}", file=sys.stderr)
        return 2
