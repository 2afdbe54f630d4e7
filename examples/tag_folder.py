# %% [markdown]
# # Tag a folder of posts
#
# A folder holds posts as `.txt` files, with the image beside each under the same name. They are tagged, written as
# JSON lines, and drawn as a page to look at.

# %%
import json
import os
import shutil
from pathlib import Path

import pytorch_lightning as pl

from mner import Tagger
from mner.cli import main
from mner.data import SampleDataModule
from mner.fusion import CoAttention
from mner.tagger.post import Post
from mner.training import Trainer

POSTS = int(os.environ.get("POSTS", "600"))  # to train on
EPOCHS = int(os.environ.get("EPOCHS", "12"))
OUT = Path("runs/tag_folder")
CHECKPOINT = OUT / "model.ckpt"  # yours, if you have one: then leave the next cell out
FOLDER = OUT / "posts"

# %% [markdown]
# ## A model
#
# Any checkpoint of `mner fit` will do. Here one is trained on the sample data, with co-attention, since it attends to
# regions of the image, which can be drawn.

# %%
_ = pl.seed_everything(0)
data = SampleDataModule(train=POSTS, batch_size=16, images="images", image_encoder="test_resnet", image_size=64)
model = CoAttention(
    data.labels,
    image_encoder="test_resnet",
    image_weights=None,
    freeze_image_encoder=False,
    learning_rate=2e-3,
    warmup_ratio=0.1,
)
trainer = Trainer(
    max_epochs=EPOCHS,
    gradient_clip_val=1.0,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, data)
trainer.save_checkpoint(CHECKPOINT)

# %% [markdown]
# ## A folder of posts
#
# Posts of the test split, as people write them: a text and a picture. The fifth has lost its picture, and that of the
# sixth is broken.

# %%
data.setup("test")
shutil.rmtree(FOLDER, ignore_errors=True)
FOLDER.mkdir(parents=True)
for number, post in enumerate(data.datasets["test"].examples[:30], start=1):
    (FOLDER / f"{number:02}.txt").write_text(" ".join(post.words), encoding="utf-8")
    picture = Path(data.root, "images", f"{post.image_id}.jpg")
    if picture.exists() and number != 5:
        shutil.copy(picture, FOLDER / f"{number:02}.jpg")
(FOLDER / "06.jpg").write_bytes(b"no image")
print(sorted(path.name for path in FOLDER.iterdir())[:8])

# %% [markdown]
# ## Tagged
#
# This is `mner tag runs/tag_folder/posts --checkpoint runs/tag_folder/model.ckpt --output
# runs/tag_folder/tagged.jsonl`. Stopped and started again with the same output, it goes on where it was. A post whose
# image cannot be read is tagged by its text, and says so.

# %%
tagged = OUT / "tagged.jsonl"
tagged.unlink(missing_ok=True)
main(["tag", str(FOLDER), "--checkpoint", str(CHECKPOINT), "--output", str(tagged)])
records = [json.loads(line) for line in tagged.read_text(encoding="utf-8").splitlines()]
for record in records[:8]:
    entities = ", ".join(f"{one['text']} ({one['type']}, {one['score']:.2f})" for one in record["entities"])
    print(f"{record['id']}  {record['text']}\n    {entities or '-'}  {record.get('image_problem', '')}")

# %% [markdown]
# ## The same from Python
#
# `stream` takes any number of posts and holds one batch. `mner.tagger.tagger.Post` says what belongs together.

# %%
tagger = Tagger.from_checkpoint(CHECKPOINT)
posts = [
    Post(text=path.read_text(encoding="utf-8"), image=path.with_suffix(".jpg"))
    for path in sorted(FOLDER.glob("*.txt"))
    if path.with_suffix(".jpg").exists() and path.stem != "06"
]
types = [entity.type for found in tagger.stream(posts) for entity in found]
print({type_: types.count(type_) for type_ in sorted(set(types))})

# %% [markdown]
# ## Looked at
#
# Entities marked, with their confidence; the picture, and where the model looked. `mner show` writes the same page.

# %%
page = tagger.render(posts[:3])
page.save(OUT / "entities.html")
page
