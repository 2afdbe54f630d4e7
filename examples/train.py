# %% [markdown]
# # Train a tagger
#
# From data to a model that is tested and used, in about two minutes on a processor. Nothing is downloaded: the posts
# are the built-in sample data, in which the picture tells what the text cannot. The same on the command line is `mner
# fit --config examples/quickstart.yaml`.

# %%
import os
from pathlib import Path

import pandas as pd
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger

from mner import Tagger
from mner.data import SampleDataModule
from mner.fusion import Concatenation
from mner.training import Trainer

POSTS = int(os.environ.get("POSTS", "600"))  # to train on
EPOCHS = int(os.environ.get("EPOCHS", "12"))
OUT = Path("runs/train")

_ = pl.seed_everything(0)

# %% [markdown]
# ## The data
#
# A data module reads the posts, opens the images and makes batches of posts of similar length. For posts of your own,
# take `SnapchatDataModule("data/mine", types=["FOOD", "TOOL"], ...)` with a folder of your own: see `docs/data.md`.

# %%
data = SampleDataModule(train=POSTS, batch_size=16, images="images", image_encoder="test_resnet", image_size=64)
data.setup("fit")
print(data.labels)
print({split: len(dataset) for split, dataset in data.datasets.items()})

post = data.datasets["train"].examples[0]
for word, tag in zip(post.words, post.tags, strict=True):
    print(f"{word}\t{tag}")
picture = Path(data.root, "images", f"{post.image_id}.jpg")
Image.open(picture)

# %% [markdown]
# ## The model
#
# `Concatenation` puts a summary of the image beside each word; below is a CRF. The text encoder is a tiny one that
# comes with the library, the image encoder a small ResNet without pretrained weights, so both are trained here. On
# tweets, take `text_encoder="bert-base-uncased"` and `image_encoder="resnet152"`, and leave the other options out.

# %%
model = Concatenation(
    data.labels,
    text_encoder="tiny",
    image_encoder="test_resnet",
    image_weights=None,
    freeze_image_encoder=False,
    learning_rate=2e-3,
    warmup_ratio=0.1,
)
print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters")

# %% [markdown]
# ## Training
#
# The checkpoint of the best F1 on the valid split is kept, and the scores of each epoch go into a table.
# `mner.training.trainer.Trainer` is Lightning's, except that its `test` prints a full report and its `predict` writes a
# prediction file.

# %%
best = ModelCheckpoint(OUT, "best", monitor="val/f1", mode="max", enable_version_counter=False)
trainer = Trainer(
    max_epochs=EPOCHS,
    gradient_clip_val=1.0,
    callbacks=[best],
    logger=CSVLogger(OUT, name="", version=""),
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, data)
print(f"Best valid F1: {100 * best.best_model_score:.2f}")

# %%
scores = pd.read_csv(OUT / "metrics.csv").dropna(subset="val/f1").set_index("epoch")
figure = (100 * scores[["val/f1", "val/precision", "val/recall"]]).plot(ylabel="valid split", ylim=(0, 100)).figure
figure.savefig(OUT / "training.png")

# %% [markdown]
# ## The test
#
# Once, at the end, with the best checkpoint. Lenient scores let a stray `I-` open an entity, strict ones do not;
# seqeval's report is there to check ours against.

# %%
results = trainer.test(model, data, ckpt_path=best.best_model_path)

# %% [markdown]
# ## New posts
#
# The checkpoint is all that is needed. The same name is a person, a place, a firm or a thing, as the picture says.

# %%
tagger = Tagger.from_checkpoint(best.best_model_path)
tests = data.datasets["test"].examples
for post in tests[:6]:
    image = Path(data.root, "images", f"{post.image_id}.jpg")
    for entity in tagger(" ".join(post.words), image=image if image.exists() else None):
        print(f"{entity.text:20} {entity.type:5} {entity.score:.2f}   {' '.join(post.words)}")

# %% [markdown]
# Next: [is one system better than another?](compare.ipynb), [a fusion of your own](own_fusion.ipynb), and [a folder of
# posts](tag_folder.ipynb).
