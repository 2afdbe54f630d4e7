"""Inference with spaCy's pipeline without a transformer (tok2vec and ner) on raw text. One turn is all posts once.

No model is downloaded: the pipe is initialised and updated a little on the posts themselves, which gives it the size
and the speed of a trained one.
"""

from __future__ import annotations

import spacy
from spacy_examples import example_of
from turns import parser_of, read_records, turn


def main() -> None:
    """Read the arguments, take turns."""
    options = parser_of(__doc__).parse_args()
    records = read_records(options.posts)
    nlp = spacy.blank("en")
    nlp.add_pipe("ner")  # with a tok2vec of its own: 4 convolutions of width 96
    examples = [example_of(nlp, record) for record in records[:256]]
    optimizer = nlp.initialize(lambda: examples)
    for _ in range(3):
        for start in range(0, len(examples), 32):
            nlp.update(examples[start : start + 32], sgd=optimizer)
    texts = [" ".join(record["words"]) for record in records]
    turn()
    while True:
        entities = [len(doc.ents) for doc in nlp.pipe(texts, batch_size=options.batch)]
        turn(posts=len(entities), entities=sum(entities))


if __name__ == "__main__":
    main()
