"""flair's sequence tagger, fine-tuned by its own trainer's steps, to the best epoch on valid.

TransformerWordEmbeddings (first piece, last layer), a linear layer, flair's CRF; AdamW with flair's linear schedule and
a tenth of the steps as warm-up, as `ModelTrainer.fine_tune` sets them.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import flair
import torch
from epochs import Tags, options_of, read, run
from flair.data import Corpus, Sentence
from flair.embeddings import TransformerWordEmbeddings
from flair.models import SequenceTagger
from training_flair import sentence_of
from transformers import get_scheduler


def main() -> None:
    """Read the arguments, train."""
    options = options_of(__doc__)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    flair.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    flair.set_seed(options.seed)
    sentences = [sentence_of(record) for record in read(Path(options.train))]
    corpus: Any = Corpus(train=sentences, dev=sentences[:2], test=sentences[:2], sample_missing_splits=False)
    embeddings = TransformerWordEmbeddings(
        options.encoder, layers="-1", subtoken_pooling="first", fine_tune=True, use_context=False
    )
    tagger: Any = SequenceTagger(
        hidden_size=256,
        embeddings=embeddings,
        tag_dictionary=corpus.make_label_dictionary("ner", add_unk=False),
        tag_type="ner",
        use_crf=True,
        use_rnn=False,
        reproject_embeddings=False,
    )
    steps = options.epochs * -(-len(sentences) // options.batch)
    optimizer = torch.optim.AdamW(tagger.parameters(), lr=options.rate)
    schedule = get_scheduler("linear", optimizer, steps // 10, steps)

    def epoch() -> None:
        tagger.train()
        random.shuffle(sentences)
        for start in range(0, len(sentences), options.batch):
            batch = sentences[start : start + options.batch]
            loss, count = tagger.forward_loss(batch)
            (loss / count).backward()
            for sentence in batch:  # else the next epoch would take the vectors of this one
                sentence.clear_embeddings()
            torch.nn.utils.clip_grad_norm_(tagger.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()

    def tag(posts: list[dict[str, Any]]) -> Tags:
        tagger.eval()
        made = [Sentence(list(post["words"])) for post in posts]
        tagger.predict(made, mini_batch_size=options.batch)
        found: Tags = []
        for sentence in made:
            tags = ["O"] * len(sentence)
            for label in sentence.get_labels("ner"):
                places = [token.idx - 1 for token in label.data_point.tokens]
                for number, place in enumerate(places):
                    tags[place] = f"{'I' if number else 'B'}-{label.value}"
            found.append(tags)
        return found

    run(options, epoch, tag)


if __name__ == "__main__":
    main()
