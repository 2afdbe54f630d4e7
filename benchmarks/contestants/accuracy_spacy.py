"""spaCy's transformer pipeline (curated transformers), fine-tuned by its own updates, to the best epoch on valid.

The transformer and spaCy's transition-based `ner` that listens to its last layer (the mean of a word's pieces), as in
`en_core_web_trf`: dropout .1, Adam with L2 .01 and gradients clipped at 1, a tenth of the steps as warm-up, then linear
to 0. Batches are of posts, as for all contestants. spaCy reads BERT, RoBERTa and XLM-R.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import spacy
import torch
from epochs import Tags, options_of, read, run
from spacy.tokens import Doc
from spacy_examples import example_of
from thinc.api import Adam

OURS = "spacy-curated-transformers"
KINDS = {
    "bert": ("BertTransformer", "BertWordpieceEncoder"),
    "roberta": ("RobertaTransformer", "ByteBpeEncoder"),
    "xlm-roberta": ("XlmrTransformer", "XlmrSentencepieceEncoder"),
}
SAME = ("attention_probs_dropout_prob", "hidden_act", "hidden_dropout_prob", "layer_norm_eps", "type_vocab_size")
SAME += ("max_position_embeddings", "num_attention_heads", "num_hidden_layers", "vocab_size")
RENAMED = {"hidden_width": "hidden_size", "intermediate_width": "intermediate_size", "padding_idx": "pad_token_id"}


def transformer(encoder: str) -> dict[str, Any]:
    """The config of the pipe, of sizes that the encoder's folder says."""
    sizes = json.loads((Path(encoder) / "config.json").read_text(encoding="utf-8"))
    if sizes["model_type"] not in KINDS:
        raise SystemExit(f"curated transformers read {', '.join(KINDS)}, but {encoder} is {sizes['model_type']}")
    model, pieces = KINDS[sizes["model_type"]]
    built = {
        "@architectures": f"{OURS}.{model}.v1",
        "piece_encoder": {"@architectures": f"{OURS}.{pieces}.v1"},
        "with_spans": {"@architectures": f"{OURS}.WithStridedSpans.v1"},
        **{name: sizes[name] for name in SAME},
        **{name: sizes[of] for name, of in RENAMED.items()},
    }
    return {"model": built}


def ner(width: int) -> dict[str, Any]:
    """The config of the recogniser, as spaCy's quick start writes it."""
    listener = {
        "@architectures": f"{OURS}.LastTransformerLayerListener.v1",
        "width": width,
        "pooling": {"@layers": "reduce_mean.v1"},
    }
    parser = {
        "@architectures": "spacy.TransitionBasedParser.v2",
        "state_type": "ner",
        "extra_state_tokens": False,
        "hidden_width": 64,
        "maxout_pieces": 2,
        "use_upper": False,
        "nO": None,
        "tok2vec": listener,
    }
    return {"model": parser}


def main() -> None:
    """Read the arguments, train."""
    options = options_of(__doc__)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    spacy.prefer_gpu()
    spacy.util.fix_random_seed(options.seed)
    nlp = spacy.blank("en")
    config = transformer(options.encoder)
    nlp.add_pipe("curated_transformer", name="transformer", config=config)
    nlp.add_pipe("ner", config=ner(config["model"]["hidden_width"]))
    nlp.config["initialize"]["components"]["transformer"] = {
        f"{part}_loader": {"@model_loaders": f"{OURS}.HF{loader}Loader.v1", "name": options.encoder}
        for part, loader in (("encoder", "TransformerEncoder"), ("piecer", "PieceEncoder"))
    }
    examples = [example_of(nlp, record) for record in read(Path(options.train))]
    optimizer: Any = nlp.initialize(lambda: examples)
    steps = options.epochs * -(-len(examples) // options.batch)
    optimizer = Adam(options.rate, L2=0.01, L2_is_weight_decay=True, grad_clip=1.0)
    done = 0

    def epoch() -> None:
        nonlocal done
        random.shuffle(examples)
        for start in range(0, len(examples), options.batch):
            done += 1
            warm = max(1, steps // 10)
            optimizer.learn_rate = options.rate * min(done / warm, (steps - done + 1) / max(1, steps - warm), 1.0)
            nlp.update(examples[start : start + options.batch], sgd=optimizer, drop=0.1)

    def tag(posts: list[dict[str, Any]]) -> Tags:
        made = [Doc(nlp.vocab, words=post["words"]) for post in posts]
        return [
            [f"{token.ent_iob_}-{token.ent_type_}" if token.ent_type_ else "O" for token in doc]
            for doc in nlp.pipe(made, batch_size=options.batch)
        ]

    run(options, epoch, tag)


if __name__ == "__main__":
    main()
