import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mner.data.formats.context import read_context
from mner.errors import BusyError, CheckpointError, DataFormatError, DataNotFoundError
from mner.files import lock
from mner.preprocessing.captions import Captioner, caption, load_captioner

WORDS = "a man woman dog cat in on the suit car street phone photo of playing red blue white".split()


def picture(seed, width=40, height=30):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


def tokenizer():
    from transformers import BertTokenizer

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    return BertTokenizer(vocab={word: number for number, word in enumerate(vocabulary)})


def image_processor(kind):
    import transformers

    size = {"height": 32, "width": 32}
    if kind is transformers.CLIPImageProcessor:
        return kind(size={"shortest_edge": 32}, crop_size=size)
    return kind(size=size)


def blip(folder):
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    ids = {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tiny, **ids, "vocab_size": 5 + len(WORDS), "encoder_hidden_size": 16}
    config = BlipConfig(text_config=text, vision_config={**tiny, "image_size": 32, "patch_size": 16})
    save(BlipForConditionalGeneration(config), folder)
    BlipProcessor(image_processor(BlipImageProcessor), tokenizer()).save_pretrained(folder)


def vit_gpt2(folder):
    from transformers import GPT2Config, VisionEncoderDecoderConfig, ViTConfig, ViTImageProcessor
    from transformers import VisionEncoderDecoderModel as Model

    encoder = ViTConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    decoder = GPT2Config(
        n_embd=16, n_layer=1, n_head=2, n_positions=64, vocab_size=5 + len(WORDS), bos_token_id=2, eos_token_id=3
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 0, 3
    save(Model(config), folder)
    image_processor(ViTImageProcessor).save_pretrained(folder)  # two parts and no processor, as the real one
    tokenizer().save_pretrained(folder)


def git(folder):
    from transformers import CLIPImageProcessor, GitConfig, GitForCausalLM, GitProcessor

    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = GitConfig(
        vision_config={**tiny, "image_size": 32, "patch_size": 16},
        vocab_size=5 + len(WORDS), bos_token_id=2, eos_token_id=3, pad_token_id=0, **tiny,
    )  # fmt: skip
    save(GitForCausalLM(config), folder)
    GitProcessor(image_processor(CLIPImageProcessor), tokenizer()).save_pretrained(folder)


def save(model, folder):
    """Random weights large enough, on the way from image to words, that captions depend on the image."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                carries = any(part in name for part in ("v_proj", "value", "projector", "projection"))
                parameter.normal_(std=1.4 if carries else 0.35)
    model.save_pretrained(folder)


BUILDERS = {"blip": blip, "vit_gpt2": vit_gpt2, "git": git}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name, build in BUILDERS.items():
        made[name] = str(tmp_path_factory.mktemp(name))
        build(made[name])
    return made


@pytest.fixture(scope="module", params=BUILDERS)
def captioner(request, folders):
    return Captioner(folders[request.param], max_new_tokens=6, device="cpu")


def test_captions_are_what_the_model_generates(captioner):
    images = [picture(seed) for seed in range(6)]
    texts = captioner(images)
    assert len(texts) == 6
    assert len(set(texts)) > 1
    for image, text in zip(images, texts, strict=True):
        pixels = captioner.image_processor(images=image, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            pieces = captioner.model.generate(pixel_values=pixels, max_new_tokens=6, do_sample=False)
        words = [word for word in captioner.tokenizer.convert_ids_to_tokens(pieces[0].tolist()) if word in WORDS]
        assert text.replace("[UNK]", "").split() == words


def test_batches_change_nothing(captioner):
    images = [picture(seed, width=30 + 9 * seed) for seed in range(4)]
    assert captioner(images) == [captioner([image])[0] for image in images]
    assert captioner([]) == []


def test_a_prompt_is_gone_on_from(folders):
    for name in ("blip", "git"):
        free = Captioner(folders[name], max_new_tokens=6, device="cpu")
        asked = Captioner(folders[name], max_new_tokens=6, prompt="a photo of", device="cpu")
        images = [picture(seed) for seed in range(6)]
        assert free(images) != asked(images), name
        assert asked(images) == [asked([image])[0] for image in images]
    with pytest.raises(ValueError, match="takes no prompt"):
        Captioner(folders["vit_gpt2"], prompt="a photo of")


def llava(folder):
    """A chat model: text with places for the patches, and a template."""
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    words = tokenizer()
    words.add_tokens(["<image>", "USER", "ASSISTANT"], special_tokens=True)
    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**tiny, image_size=32, patch_size=16),
        text_config=LlamaConfig(**tiny, vocab_size=len(words), max_position_embeddings=64, **ids),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    save(LlavaForConditionalGeneration(config), folder)
    template = (
        "{% for message in messages %}USER {% for part in message['content'] %}{% if part['type'] == 'image' %}<image> "
        "{% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}ASSISTANT"
    )
    LlavaProcessor(
        image_processor(CLIPImageProcessor), words, patch_size=16, vision_feature_select_strategy="default",
        chat_template=template, num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip


def test_a_chat_model_is_asked_and_its_question_not_repeated(tmp_path):
    llava(tmp_path)
    captioner = Captioner(str(tmp_path), max_new_tokens=6, device="cpu")
    assert captioner.prompt.startswith("USER <image> Describe the image")
    images = [picture(seed) for seed in range(4)]
    texts = captioner(images)
    assert len(set(texts)) > 1
    assert texts == [captioner([image])[0] for image in images]
    assert all(len(text.split()) <= 6 for text in texts)
    asked = Captioner(str(tmp_path), max_new_tokens=6, prompt="a red car", device="cpu")
    assert "a red car" in asked.prompt
    assert asked(images) != texts


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(7):
        picture(seed).save(folder / f"{seed}.png")
    (folder / "broken.jpg").write_text("no image")
    (folder / "empty.jpg").touch()
    return folder


OPTIONS = {"batch_size": 3, "max_new_tokens": 5, "device": "cpu", "num_workers": 0}


def test_a_folder_becomes_a_text_source(images, folders, tmp_path, capsys):
    out = tmp_path / "new" / "captions.jsonl"
    caption(images, out, folders["blip"], **OPTIONS)
    texts = read_context(out)
    assert set(texts) == set("0123456")
    expected = Captioner(folders["blip"], max_new_tokens=5, device="cpu")
    assert texts["3"] == expected([picture(3)])[0]
    assert json.loads(out.read_text().splitlines()[0])["model"] == folders["blip"]
    told = capsys.readouterr().err
    assert "7 images done" in told
    assert "2 of 9 images could not be read (not an image 1, empty 1): broken.jpg, empty.jpg" in told


def test_stopped_anywhere_it_goes_on(images, folders, tmp_path, capsys):
    out = tmp_path / "captions.jsonl"
    caption(images, out, folders["blip"], **OPTIONS)
    whole = out.read_bytes()
    lines = whole.splitlines(keepends=True)
    for kept in (9, len(lines[0]) - 1, len(lines[0]), len(lines[0]) + 3, len(whole)):
        out.write_bytes(whole[:kept])
        caption(images, out, folders["blip"], **OPTIONS)
        assert out.read_bytes() == whole
    assert "0 images done, 7 were done before" in capsys.readouterr().err


def test_captions_that_are_there_are_not_made_again(images, folders, tmp_path):
    out = tmp_path / "captions.jsonl"
    caption(images, out, folders["blip"], **OPTIONS)
    lines = out.read_text(encoding="utf-8").split("\n")[:-1]
    line = {"image_id": "1.png", "caption": "my own words \u2028 in two lines", "model": folders["blip"]}
    out.write_text(lines[0] + "\n" + json.dumps(line, ensure_ascii=False) + "\n", encoding="utf-8")
    caption(images, out, folders["blip"], **OPTIONS)
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n")[:-1]]
    assert records[1] == line
    assert [record["image_id"] for record in records] == [f"{number}.png" for number in range(7)]


@pytest.mark.parametrize("content", ["photo", "{}\n", '{"image_id": "1"}\n', "[1]\n", "line\nhalf"])
def test_other_files_are_left_alone(images, folders, tmp_path, content):
    out = tmp_path / "notes.txt"
    out.write_text(content)
    with pytest.raises(DataFormatError, match=r"notes.txt: .*Name another file"):
        caption(images, out, folders["blip"], **OPTIONS)
    assert out.read_text() == content


def test_two_models_do_not_share_a_file(images, folders, tmp_path):
    out = tmp_path / "captions.jsonl"
    caption(images, out, folders["blip"], **OPTIONS)
    with pytest.raises(DataFormatError, match=r"captions.jsonl: found an output made otherwise \(model"):
        caption(images, out, folders["git"], **OPTIONS)


def test_bad_models(tmp_path, folders):
    from safetensors.torch import load_file, save_file

    with pytest.raises(CheckpointError, match="cannot be used as an image-to-text model"):
        Captioner(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="cannot be used as an image-to-text model"):
        Captioner(str(tmp_path))
    blip(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    lost = sorted(state)[0]
    del state[lost]
    os.remove(file)
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"lacks 1 weights of BlipForConditionalGeneration \\({lost}"):
        Captioner(str(tmp_path))


def test_no_images(tmp_path, folders):
    with pytest.raises(DataNotFoundError, match="No images in"):
        caption(tmp_path, tmp_path / "captions.jsonl", folders["blip"])
    assert not (tmp_path / "captions.jsonl").exists()


def test_as_a_command(images, folders, tmp_path, capsys):
    from jsonargparse import auto_cli

    options = [f"--images={images}", f"--out={tmp_path / 'c.jsonl'}", f"--model={folders['git']}", "--device=cpu"]
    auto_cli(caption, args=[*options, "--num_workers=0", "--max_new_tokens=3"], as_positional=False)
    assert len(read_context(tmp_path / "c.jsonl")) == 7
    with pytest.raises(SystemExit):
        auto_cli(caption, args=["--help"], as_positional=False)
    assert "Anderson et al. (2018)" in " ".join(capsys.readouterr().out.split())


def test_an_output_that_is_data_is_refused(images, folders, tmp_path):
    line = json.dumps({"image_id": "1", "caption": "a dog", "model": folders["blip"]})
    for content in (line + "\n", line, line + "\n" + line[:20]):
        out = tmp_path / "mine.jsonl"
        out.write_text(content)
        with pytest.raises(DataFormatError, match="Name another file"):
            caption(images, out, folders["blip"], **OPTIONS)
        assert out.read_text() == content


def test_other_options_do_not_share_a_file(images, folders, tmp_path, monkeypatch):
    monkeypatch.setattr("mner.files.WAIT", 0.2)
    out = tmp_path / "captions.jsonl"
    caption(images, out, folders["blip"], **OPTIONS)
    with pytest.raises(DataFormatError, match="max_new_tokens 5, now 6"):
        caption(images, out, folders["blip"], **{**OPTIONS, "max_new_tokens": 6})
    held = lock(tmp_path / ".captions.jsonl.lock")
    with pytest.raises(BusyError, match="Another process"):
        caption(images, out, folders["blip"], **OPTIONS)
    held.release()


@pytest.mark.parametrize("name", BUILDERS)
def test_lower_precision(name, images, folders, tmp_path):
    """The layers compute in it, and a file has one."""
    seen = set()
    captioner = load_captioner(folders[name], 5, device="cpu", precision="bf16-mixed")
    for layer in captioner.model.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(lambda layer, inputs, output: seen.add(output.dtype))
    assert len(captioner([picture(0), picture(1)])) == 2
    assert seen == {torch.bfloat16}
    out = tmp_path / "captions.jsonl"
    caption(images, out, folders[name], **OPTIONS, precision="bf16-mixed")
    assert out.read_text(encoding="utf-8")
    with pytest.raises(DataFormatError, match="precision"):
        caption(images, out, folders[name], **OPTIONS)


def test_automatic_precision_is_told(images, folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mner.preprocessing.captions.automatic_precision", lambda *_, **__: "32-true")
    out = tmp_path / "captions.jsonl"
    caption(images, out, folders["blip"], **OPTIONS, precision="auto")
    assert "precision auto: 32-true" in capsys.readouterr().err
    caption(images, out, folders["blip"], **OPTIONS)
    with pytest.raises(ValueError, match="float32"):
        caption(images, tmp_path / "other.jsonl", "virtex:nowhere.pth", precision="bf16-mixed")


def test_strange_names_are_told_and_the_rest_is_done(images, folders, tmp_path, capsys):
    for name in (b"caf\xe9.png", b"a\nb.png", b".png"):
        (images / os.fsdecode(name)).write_bytes((images / "0.png").read_bytes())
    (images / "0.jpg").write_bytes((images / "1.png").read_bytes())
    out = tmp_path / "captions.jsonl"
    for _ in range(2):
        caption(images, out, folders["blip"], **OPTIONS)
        assert "unusable name 3" in capsys.readouterr().err
    names = [json.loads(line)["image_id"] for line in out.read_text().splitlines()]
    assert sorted(names) == sorted([*(f"{number}.png" for number in range(7)), "0.jpg"])
    assert len(read_context(out)) in (7, 8)
    capsys.readouterr()
    caption(images, "-", folders["blip"], **OPTIONS)
    assert capsys.readouterr().out == out.read_text()
