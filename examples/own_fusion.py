# %% [markdown]
# # A fusion of your own
#
# A new way to put text and image together is one class with one method. Tokeniser, batches, images, CRF, loss, scores,
# checkpoints and prediction files are the base's. `docs/fusion.md` goes on from here.

# %%
import os
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from mner import Tagger
from mner.data import SampleDataModule
from mner.fusion import FusionModule
from mner.nn import masked_mean
from mner.training import Trainer

POSTS = int(os.environ.get("POSTS", "600"))  # to train on
EPOCHS = int(os.environ.get("EPOCHS", "12"))
OUT = Path("runs/own_fusion")

_ = pl.seed_everything(0)

# %% [markdown]
# ## Eight lines
#
# `fuse` is given one vector for each word, (b, w, d), and one for each region of the image, (b, r, d), with masks that
# are true for what is real. It gives back one vector for each word. Here a gate decides, for each word and each number
# of its vector, how much of the scene it takes.


# %%
class GatedFusion(FusionModule):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gate = nn.Linear(self.width, self.width)

    def fuse(self, words, word_mask, regions, region_mask):
        scene = masked_mean(regions, region_mask)[:, None].expand_as(words)
        gate = self.gate(words * scene).sigmoid()
        return gate * words + (1 - gate) * scene


# %% [markdown]
# ## Trained

# %%
data = SampleDataModule(train=POSTS, batch_size=16, images="images", image_encoder="test_resnet", image_size=64)
model = GatedFusion(
    data.labels,
    image_encoder="test_resnet",
    image_weights=None,
    freeze_image_encoder=False,
    learning_rate=2e-3,
    warmup_ratio=0.1,
)
best = ModelCheckpoint(OUT, "best", monitor="val/f1", mode="max", enable_version_counter=False)
trainer = Trainer(
    max_epochs=EPOCHS,
    gradient_clip_val=1.0,
    callbacks=[best],
    logger=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, data)
print(f"Best valid F1: {100 * best.best_model_score:.2f}; text alone cannot be expected to pass 61")

# %% [markdown]
# ## Tested
#
# On the test split, with the best checkpoint:

# %%
results = trainer.test(model, data, ckpt_path=best.best_model_path)

# %% [markdown]
# And for faults that scores hide. A post must get the same label scores alone and in a batch, where it is padded: a
# fusion that forgets a mask fails here. And every parameter must get a gradient: a layer that was made and not used
# has none.

# %%
model.eval().cpu()
batch = next(iter(data.val_dataloader()))
together = model.emissions(batch)
posts = data.datasets["valid"]
numbers = {post.id: number for number, post in enumerate(posts.examples)}
collate = data.val_dataloader().collate_fn
for row, post_id in enumerate(batch["id"]):
    alone = model.emissions(collate([posts[numbers[post_id]]]))
    torch.testing.assert_close(together[row : row + 1, : alone.shape[1]], alone, atol=1e-4, rtol=1e-4)
print(f"{len(batch['id'])} posts: the same alone and in a batch")

model.zero_grad()
sum(model.losses(batch).values()).backward()
print("without gradient:", [name for name, parameter in model.named_parameters() if parameter.grad is None])

# %% [markdown]
# ## Used
#
# A checkpoint knows its class by name, so a class that lives in a file `my_fusion.py` also works on the command line,
# as `mner fit --model my_fusion.GatedFusion ...`, and in `mner tag`.

# %%
tagger = Tagger.from_checkpoint(best.best_model_path)
test = data.datasets["test"].examples
for post in test[:6]:
    image = Path(data.root, "images", f"{post.image_id}.jpg")
    for entity in tagger(" ".join(post.words), image=image if image.exists() else None):
        print(f"{entity.text:20} {entity.type:5} {entity.score:.2f}   {' '.join(post.words)}")
