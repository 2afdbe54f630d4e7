"""flair's sequence tagger, fine-tuned by its own trainer: TransformerWordEmbeddings, CRF. One turn is one step."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import flair
import torch
from flair.data import Corpus, Sentence
from flair.embeddings import TransformerWordEmbeddings
from flair.models import SequenceTagger
from flair.trainers import ModelTrainer
from flair.trainers.plugins import TrainerPlugin
from turns import parser_of, read_records, turn


def sentence_of(record: dict[str, Any]) -> Sentence:
    """A post with its entities."""
    sentence = Sentence(list(record["words"]))
    start, type_ = None, None
    for place, tag in enumerate([*record["tags"], "O"]):
        if start is not None and not (tag.startswith("I-") and tag[2:] == type_):
            sentence[start:place].add_label("ner", type_)
            start = None
        if tag != "O" and start is None:
            start, type_ = place, tag[2:]
    return sentence


class Turns(TrainerPlugin):
    """Waits after each step."""

    @TrainerPlugin.hook
    def before_training_epoch(self, **kwargs: Any) -> None:
        """Ready."""
        if kwargs.get("epoch") == 1:
            turn()

    @TrainerPlugin.hook
    def after_training_batch(self, **kwargs: Any) -> None:
        """One turn is over."""
        turn()


def main() -> None:
    """Read the arguments, train."""
    options = parser_of(__doc__).parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    flair.device = torch.device("cpu")
    flair.set_seed(0)
    sentences = [sentence_of(record) for record in read_records(options.posts)]
    corpus: Any = Corpus(train=sentences, dev=sentences[:2], test=sentences[:2], sample_missing_splits=False)
    embeddings = TransformerWordEmbeddings(
        options.encoder, layers="-1", subtoken_pooling="first", fine_tune=True, use_context=False
    )
    dictionary = corpus.make_label_dictionary("ner", add_unk=False)
    tagger = SequenceTagger(
        hidden_size=256,
        embeddings=embeddings,
        tag_dictionary=dictionary,
        tag_type="ner",
        use_crf=True,
        use_rnn=False,
        reproject_embeddings=False,
    )
    trainer = ModelTrainer(tagger, corpus)
    folder = Path(tempfile.mkdtemp())
    trainer.fine_tune(
        folder,
        learning_rate=5e-5,
        mini_batch_size=options.batch,
        max_epochs=100,
        plugins=[Turns()],
        use_final_model_for_eval=True,
    )


if __name__ == "__main__":
    main()
