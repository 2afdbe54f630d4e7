"""Train a captioner on the drawings of the sample data, so that the examples need no download.

`python examples/small_captioner.py captioner` makes the folder `captioner`, an image-to-text model of transformers: a
small ViT that reads the picture and a small GPT-2 that writes. It knows these drawings and nothing else; for
photographs take a real one, such as `Salesforce/blip-image-captioning-base`.
"""

import json
import sys
from pathlib import Path

import torch
from PIL import Image
from transformers import (
    BertTokenizer,
    GPT2Config,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
)

from mner.data import SampleDataModule

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, START, END = 0, 2, 3


def train_captioner(folder: Path, posts: int = 600, epochs: int = 8) -> Path:
    """Train on pictures and captions of sample data with another seed than that of the examples.

    Args:
        folder: Where to save the model.
        posts: Training posts of the sample data; their other splits are used too.
        epochs: Passes over the pictures.
    """
    torch.manual_seed(0)
    data = SampleDataModule(train=posts, sample_seed=1)
    data.prepare_data()
    root = Path(data.root)
    lines = [json.loads(line) for line in (root / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    words = sorted({word for line in lines for word in line["caption"].split()})
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate([*SPECIAL, *words])})
    processor = ViTImageProcessor(size={"height": 64, "width": 64})
    pictures = [Image.open(root / "images" / f"{line['image_id']}.jpg").convert("RGB") for line in lines]
    pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
    captions = tokenizer([line["caption"] for line in lines], padding=True, return_tensors="pt")["input_ids"][:, 1:]
    captions = captions.masked_fill(captions == PAD, -100)  # not learnt

    encoder = ViTConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, image_size=64, patch_size=8
    )
    decoder = GPT2Config(
        n_embd=64, n_layer=2, n_head=4, n_positions=32, vocab_size=len(tokenizer), bos_token_id=START, eos_token_id=END
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = START, PAD, END
    model = VisionEncoderDecoderModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, epochs=epochs, steps_per_epoch=-(-len(lines) // 16))
    for epoch in range(epochs):
        for batch in torch.randperm(len(lines)).split(16):
            loss = model(pixel_values=pixels[batch], labels=captions[batch]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"captioner, epoch {epoch + 1} of {epochs}: loss {loss.item():.3f}")

    model.generation_config.decoder_start_token_id = START
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    train_captioner(Path(sys.argv[1] if len(sys.argv) > 1 else "captioner"))
