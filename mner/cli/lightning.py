"""LightningCLI with the links between model and data, and the recipe's defaults for the Trainer."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from mner.cli.arguments import prepare, stored_arguments
from mner.cli.dependency_notes import hush
from mner.cli.errors import Stopped
from mner.cli.training_parser import TrainingParser, given_configs
from mner.data.datamodules import huggingface, posts, sample, snapchat, twitter  # noqa: F401  # so that short names find them
from mner.data.datamodules.base import MNERDataModule
from mner.data.datamodules.joint import parts_of
from mner.errors import CheckpointError, DataFormatError
from mner.files import refuse_foreign, write_text
from mner.fusion import FusionModule
from mner.runtime import automatic_precision, keep_memory, slow_bfloat16
from mner.training import adversarial, distillation, label_losses, techniques, word_vectors  # noqa: F401  # the same
from mner.training.callbacks import BestByF1
from mner.training.checkpoint import KEY, check_goes_on, import_class, read_checkpoint
from mner.training.old_names import renamed
from mner.training.trainer import Trainer, device_of

log = logging.getLogger(__name__)
MARK = "# Written by mner fit, and by the next one\n"
"""What configs of ours begin with."""
NO_FILES = ("best", "last", "hpc", "registry")
"""What `ckpt_path` may be that names no file."""


class SaveConfigOfFit(SaveConfigCallback):
    """Saves the config beside the checkpoints when a run is trained; a later `test` must not write over it.

    Without a logger the folder is the current one, where a `config.yaml` of the user's may lie, perhaps the very one
    that the run was started with: then it is saved as `config.mner.yaml`.
    """

    saved: Path | None = None
    """Where it is."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Save it, if this is a training run."""
        if stage == "fit":
            self._folder = trainer.log_dir  # asks all processes; a logger that writes to a server has none here
            self.save_to_log_dir = False
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Write it; Lightning calls this in one process."""
        if self._folder is None:
            return
        text = MARK + self.parser.dump(self.config, skip_none=False)
        place = Path(self._folder) / "config.yaml"
        try:
            refuse_foreign(place, MARK)
        except DataFormatError:
            place = place.with_name("config.mner.yaml")
        write_text(place, text, MARK)
        self.saved = place


class MNERCLI(LightningCLI):
    """The commands of Lightning for fusion modules and MNER data modules."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Say once what model and data must agree on."""
        parser.link_arguments("model.init_args.text_encoder", "data.init_args.text_encoder")
        parser.link_arguments("model.init_args.image_encoder", "data.init_args.image_encoder")
        parser.link_arguments("data.labels", "model.init_args.labels", apply_on="instantiate")
        parser.link_arguments("data.region_width", "model.init_args.region_width", apply_on="instantiate")
        parser.add_lightning_class_args(BestByF1, "checkpoint")

    def _parse_ckpt_path(self) -> None:
        """Read the checkpoint that is to be used.

        Lightning's own puts every stored argument over the given ones, also the class, and says nothing of it.
        """
        command = self.config["subcommand"]
        config = self.config[command]
        path = config.get("ckpt_path")
        self.checkpoint: dict[str, Any] | None = None
        if not path and command != "fit":
            log.warning("No --ckpt_path was given: this is a model that was not trained")
        if not path or str(path) in NO_FILES or "://" in str(path):
            return
        self.checkpoint = read_checkpoint(path)
        if command == "fit":
            check_goes_on(self.checkpoint, path)
        written_by = import_class(self.checkpoint[KEY]["class"], FusionModule)
        chosen = import_class(config["model"]["class_path"], FusionModule)
        if chosen is not written_by:
            raise CheckpointError(
                f"{path} was written by {self.checkpoint[KEY]['class']}, but the model is "
                f"{config['model']['class_path']}; choose that class, or leave the model out"
            )
        for key, stored in stored_arguments(self.checkpoint).items():
            given = config["model"]["init_args"].get(key, stored)
            if given != stored:
                log.warning("model.%s: %r, where the checkpoint was made with %r", key, given, stored)

    def before_instantiate_classes(self) -> None:
        """Evaluation takes the encoder's configuration from the checkpoint and leaves no folder of logs behind."""
        config = self.config[self.subcommand]
        if self.subcommand == "fit":
            if self.checkpoint is not None and config["checkpoint"].get("dirpath") is None:
                config["checkpoint"]["dirpath"] = _folder_of(self.checkpoint, config["ckpt_path"])
            return
        if config["trainer"].get("logger") is None:
            config["trainer"]["logger"] = False
        if self.checkpoint is not None:  # the pretrained weights may be gone, and would be replaced at once
            config["model"]["init_args"]["text_encoder"] = self.checkpoint[KEY]["text_config"]
            config["model"]["init_args"]["image_weights"] = None

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Any:
        """Without the checkpoints of `--checkpoint` where none are wanted; Lightning refuses the two together.

        Raises:
            ValueError: If an option has no meaning that Lightning would not refuse itself.
        """
        if (steps := config["accumulate_grad_batches"]) < 1:
            raise ValueError(f"Expected --trainer.accumulate_grad_batches of at least 1, but got {steps}")
        if config["enable_checkpointing"] is False or config["barebones"]:
            callbacks = [callback for callback in callbacks if not isinstance(callback, BestByF1)]
        if config["precision"] == "auto":  # the saved config keeps the word: another machine does other things best
            width, training = self.model.text_encoder.width, self.subcommand == "fit"
            config = {**config, "precision": automatic_precision(device_of(config["accelerator"]), width, training)}
        return super()._instantiate_trainer(config, callbacks)

    def after_instantiate_classes(self) -> None:
        """Tokenise as the checkpoint's model was trained to, and see to what makes a run slow."""
        if getattr(self.model, "image_encoder", None) is not None:
            keep_memory()
        if str(self.trainer.precision).startswith("bf16") and slow_bfloat16(self.trainer.strategy.root_device):
            log.warning(
                "--trainer.precision %s: this processor has no instructions for bfloat16, so that it is slower than "
                "32-true here, the default",
                self.trainer.precision,
            )
        described = {} if self.checkpoint is None else self.checkpoint[KEY].get("data", {})
        if described.get("tokenizer"):
            for data in parts_of(self.datamodule, self.model).values():
                data.use_tokenizer(described["tokenizer"])

    def _run_subcommand(self, subcommand: str) -> None:
        """Ctrl-C, which Lightning turns into an exit and is then deaf to, ends the run with what it can go on with."""
        handler = signal.getsignal(signal.SIGINT)
        try:
            super()._run_subcommand(subcommand)
        except SystemExit as end:
            if not isinstance(end.__context__, KeyboardInterrupt):
                raise
            signal.signal(signal.SIGINT, handler)
            raise Stopped(self._how_to_go_on() if subcommand == "fit" else "") from None

    def _how_to_go_on(self) -> str:
        last = Path(getattr(self.trainer.checkpoint_callback, "last_model_path", "") or "none")
        if not last.is_file():
            return "no epoch was finished, so there is no checkpoint to go on from"
        config = self._saved_config()
        given = "with the same options" if config is None else f"--config {config}"
        return f"mner fit {given} --ckpt_path {last} goes on"

    def _saved_config(self) -> Path | None:
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        saved = [one.saved for one in callbacks if isinstance(one, SaveConfigOfFit)]
        return next((path for path in saved if path is not None and path.is_file()), None)

    def after_fit(self) -> None:
        """Say what came out and where it is."""
        if not self.trainer.is_global_zero or getattr(self.trainer, "fast_dev_run", False):
            return
        best = self.trainer.checkpoint_callback
        if not isinstance(best, ModelCheckpoint):
            print("\nNo checkpoint was kept")
            return
        if best.best_model_score is None:
            print("\nThe valid split was not scored, so that there is no best checkpoint")
            if Path(best.last_model_path).is_file():
                print(f"The last one: {best.last_model_path}")
            return
        print(f"\nBest valid F1: {100 * float(best.best_model_score):.2f}")
        if not Path(best.best_model_path).is_file():  # a resumed run remembers it, but its folder may be gone
            print(f"Its checkpoint is not there any more: {best.best_model_path}")
            if Path(best.last_model_path).is_file():
                print(f"The last one: {best.last_model_path}")
            return
        print(f"Checkpoint: {best.best_model_path}")
        for name, data in parts_of(self.datamodule, self.model).items():
            marks = ", ".join(f"{split} {value}" for split, value in data.fingerprints.items())
            print(f"Data fingerprints{name and ' of '}{name}: {marks}")
        config = self._saved_config()
        if config is not None:
            print(f"Next: mner test --config {config} --ckpt_path {best.best_model_path}")


def _folder_of(checkpoint: dict[str, Any], path: str) -> str | None:
    """The folder where a resumed run goes on keeping its checkpoints, so that the best so far is not forgotten."""
    folder = Path(path).absolute().parent
    kept = [state.get("dirpath") for state in checkpoint.get("callbacks", {}).values() if isinstance(state, dict)]
    return str(folder) if any(place and Path(place).absolute() == folder for place in kept) else None


class _ToStderr(logging.Handler):
    """Writes to what `sys.stderr` is at the time; a StreamHandler keeps the one that it first saw."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        print(self.format(record), file=sys.stderr)


def run(args: list[str], callbacks: Sequence[Callback] = (), cli: type[MNERCLI] = MNERCLI) -> Any:
    """Parse `args` and run the command.

    Args:
        args: The command of Lightning and its arguments.
        callbacks: Further callbacks of the Trainer, beside those that are configured.
        cli: A CLI that may do some steps in another way.
    """
    logger = logging.getLogger("mner")
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    logger.setLevel(logging.INFO if first else logging.ERROR)  # say it once, not once a process
    if not logger.handlers:
        logger.addHandler(_ToStderr())
    with warnings.catch_warnings():
        hush(evaluation=args[0] != "fit")
        return cli(
            FusionModule,
            MNERDataModule,
            trainer_class=Trainer,
            trainer_defaults={"gradient_clip_val": 1.0, "max_epochs": 20, "callbacks": list(callbacks)},
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveConfigOfFit,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            parser_class=TrainingParser,
            parser_kwargs={"prog": "mner"},
            args=prepare(given_configs([renamed(word) for word in args])),
        )


def refuse_options(config: dict[str, Any]) -> None:
    """Parse a config as `mner fit` does, without running it.

    Raises:
        UsageError: If it has an option that is not there, or a value that is none of its option.
    """
    with redirect_stdout(io.StringIO()), suppress(SystemExit):  # how jsonargparse ends once it has printed the config
        run(["fit", f"--config={yaml.safe_dump(config)}", "--print_config"])
