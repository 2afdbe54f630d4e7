# %% [markdown]
# # Caption and retrain
#
# The picture as text: a captioner describes each image once, and the tagger reads the caption behind the post. This is
# Exp 4.1 of Chen et al. (2021). Any text encoder can do it, and nothing has to be fused.

# %%
import os
from pathlib import Path

import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from small_captioner import train_captioner

from mner import Tagger
from mner.analysis import compare, read_predictions
from mner.analysis.presentation import text
from mner.data import SampleDataModule, read_conll
from mner.data.formats.context import read_context
from mner.fusion import TextOnly
from mner.preprocessing.captions import caption
from mner.training import Trainer

POSTS = int(os.environ.get("POSTS", "600"))  # to train on
EPOCHS = int(os.environ.get("EPOCHS", "12"))
OUT = Path("runs/caption_and_retrain")

# An image-to-text model of transformers, by name on the Hub (Salesforce/blip-image-captioning-base, ...) or by folder.
# None: a small one is trained on drawings of the same kind, with no download (`small_captioner.py`, a minute or two).
CAPTIONER = os.environ.get("CAPTIONER")

# %% [markdown]
# ## Captions
#
# `mner caption --images IMAGES --out captions.jsonl --model MODEL` captions a folder. Stopped, it goes on where it
# was; images that cannot be read are listed at the end.

# %%
captioner = CAPTIONER or str(train_captioner(OUT / "captioner"))
data = SampleDataModule(train=POSTS)
data.prepare_data()
captions = (OUT / "image_captions.jsonl").absolute()
caption(Path(data.root, "images"), captions, captioner, num_workers=0)

texts = read_context(captions)
train = read_conll(Path(data.root, "train.txt"))
for post in train[:6]:
    print(f"{' '.join(post.words):60} {texts.get(post.image_id, '-')}")
Image.open(Path(data.root, "images", f"{train[0].image_id}.jpg"))

# %% [markdown]
# ## Retrained
#
# The same model on text alone, and on text and captions. `context` is all that changes: on the command line,
# `--data.context '[captions.jsonl]'`.


# %%
def run(name, context):
    """Train a system, write its predictions of the valid split, and say where the checkpoint is."""
    pl.seed_everything(0)
    data = SampleDataModule(train=POSTS, batch_size=16, context=context)
    model = TextOnly(data.labels, learning_rate=2e-3, warmup_ratio=0.1)
    best = ModelCheckpoint(OUT / name, "best", monitor="val/f1", mode="max", enable_version_counter=False)
    trainer = Trainer(
        max_epochs=EPOCHS,
        gradient_clip_val=1.0,
        callbacks=[best],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data)
    trainer.predict(model, data, ckpt_path=best.best_model_path, output=str(OUT / f"{name}.jsonl"), split="valid")
    return best.best_model_path


run("text", None)
checkpoint = run("captions", [str(captions)])

# %% [markdown]
# ## Did the captions help?

# %%
found = compare({name: read_predictions(OUT / f"{name}.jsonl") for name in ("text", "captions")})
print(text(found.scores), end="\n\n")
print(text(found.tests[["difference", "low", "high", "p"]]), *found.notes, sep="\n\n")

# %% [markdown]
# ## New posts
#
# A model that was trained on captions wants them for new posts too. Given the captioner, the tagger makes them itself.

# %%
tagger = Tagger.from_checkpoint(checkpoint, captioner=captioner)
for post in read_conll(Path(data.root, "test.txt"))[:6]:
    picture = Path(data.root, "images", f"{post.image_id}.jpg")
    if picture.exists():
        result = tagger(" ".join(post.words), image=picture)
        entities = ", ".join(f"{entity.text} ({entity.type}, {entity.score:.2f})" for entity in result)
        print(f"{result.text}\n    {entities or '-'}   caption: {result.context[0]}")
