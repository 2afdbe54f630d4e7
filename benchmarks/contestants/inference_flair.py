"""Inference with flair's SequenceTagger on raw text. One turn is all posts once."""

from __future__ import annotations

import os

import flair
import torch
from flair.data import Dictionary, Sentence
from flair.embeddings import TransformerWordEmbeddings
from flair.models import SequenceTagger
from turns import parser_of, read_records, turn


def main() -> None:
    """Read the arguments, take turns."""
    options = parser_of(__doc__).parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    flair.device = torch.device("cpu")
    flair.set_seed(0)
    records = read_records(options.posts)
    types = Dictionary(add_unk=False)
    types.span_labels = True
    for type_ in sorted({tag[2:] for record in records for tag in record["tags"] if tag != "O"}):
        types.add_item(type_)
    tagger = SequenceTagger(
        hidden_size=256,
        embeddings=TransformerWordEmbeddings(
            options.encoder, layers="-1", subtoken_pooling="first", fine_tune=True, use_context=False
        ),
        tag_dictionary=types,
        tag_type="ner",
        use_crf=True,
        use_rnn=False,
        reproject_embeddings=False,
    )
    with torch.no_grad():
        tagger.linear.bias[tagger.label_dictionary.get_idx_for_item("O")] += 2  # as after training
    tagger.eval()
    texts = [" ".join(record["words"]) for record in records]
    turn()
    while True:
        sentences = [Sentence(text) for text in texts]
        tagger.predict(sentences, mini_batch_size=options.batch)
        turn(posts=len(sentences), entities=sum(len(sentence.get_spans("ner")) for sentence in sentences))


if __name__ == "__main__":
    main()
