import io
import os
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from mner.data.formats.images import MAX_PIXELS, ImageFolder, image_key, load_image, report_broken
from mner.data.transforms import ImageTransform, transform_for
from mner.errors import DataNotFoundError
from mner.preprocessing.base import ImageFiles


def picture(width=60, height=40, seed=0):
    """A smooth picture, so that resampling kernels matter more than noise."""
    small = np.random.default_rng(seed).integers(0, 256, (23, 31, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, format="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def test_opens_rgb(tmp_path):
    picture().save(tmp_path / "a.png")
    image, reason = load_image(tmp_path / "a.png")
    assert reason == ""
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.asarray(picture()))


def test_transparent_parts_become_white_in_every_mode(tmp_path):
    layer = Image.new("RGBA", (4, 4), (255, 0, 0, 255))
    layer.putpixel((0, 0), (0, 0, 0, 0))
    layer.save(tmp_path / "rgba.png")
    layer.convert("LA").save(tmp_path / "la.png")
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.putpixel((0, 0), 0)
    palette.save(tmp_path / "p.png", transparency=0)
    for name in ("rgba.png", "la.png", "p.png"):
        image, reason = load_image(tmp_path / name)
        assert (image.mode, reason) == ("RGB", ""), name
        assert image.getpixel((0, 0)) == (255, 255, 255), name
        assert image.getpixel((1, 1)) != (255, 255, 255), name


def test_other_modes_become_rgb(tmp_path):
    picture().convert("CMYK").save(tmp_path / "cmyk.jpg")
    picture().convert("L").save(tmp_path / "grey.jpg")
    picture().convert("1").save(tmp_path / "bits.png")
    picture().convert("P").save(tmp_path / "gif.gif")
    for name in ("cmyk.jpg", "grey.jpg", "bits.png", "gif.gif"):
        image, reason = load_image(tmp_path / name)
        assert (image.mode, image.size, reason) == ("RGB", (60, 40), ""), name
    grey = np.asarray(load_image(tmp_path / "grey.jpg")[0])
    assert np.array_equal(grey[..., 0], grey[..., 2])


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257  # 0 ... 65535
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    image, _ = load_image(tmp_path / "deep.png")
    assert np.array_equal(np.asarray(image)[..., 0], np.arange(256, dtype=np.uint8).reshape(16, 16))


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 270 degrees to be upright
    picture(60, 40).save(tmp_path / "turned.jpg", exif=exif)
    assert load_image(tmp_path / "turned.jpg")[0].size == (40, 60)


def test_reasons(tmp_path, monkeypatch):
    data = encoded(picture(300, 200))
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    png = encoded(picture(300, 200), "PNG")
    (tmp_path / "cut.png").write_bytes(png[: len(png) // 2])
    (tmp_path / "garbled.png").write_bytes(png[:60] + b"\x00" * 200 + png[260:])
    (tmp_path / "page.jpg").write_text("<html>Image not found</html>")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    reasons = {name: load_image(tmp_path / name) for name in os.listdir(tmp_path)}
    assert reasons == {
        "cut.jpg": (None, "truncated or damaged"),
        "cut.png": (None, "truncated or damaged"),
        "garbled.png": (None, "truncated or damaged"),
        "page.jpg": (None, "not an image"),
        "empty.jpg": (None, "empty"),
        "folder.jpg": (None, "missing"),
    }
    assert load_image(tmp_path / "nowhere.jpg") == (None, "missing")


@pytest.mark.parametrize("side", [10_000, 50_000])  # where Pillow only warns, where it raises
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, side):
    assert side**2 > MAX_PIXELS
    data = bytearray(encoded(picture(), "PNG"))
    data[16:24] = side.to_bytes(4, "big") * 2  # width and height in the header
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(data)
    assert load_image(tmp_path / "bomb.png") == (None, "too large")


def test_draft_decodes_small_but_not_too_small(tmp_path):
    picture(1600, 1200).save(tmp_path / "big.jpg", quality=95)
    image, _ = load_image(tmp_path / "big.jpg", 250)
    assert image.size == (400, 300)
    assert load_image(tmp_path / "big.jpg", 700)[0].size == (1600, 1200)
    assert load_image(tmp_path / "big.jpg")[0].size == (1600, 1200)
    transform = ImageTransform(size=224)
    difference = transform(image) - transform(load_image(tmp_path / "big.jpg")[0])
    assert difference.abs().mean() < 0.02


@pytest.mark.parametrize("size", [(600, 800), (251, 97), (97, 251), (30, 20), (224, 224), (256, 256), (3, 400)])
@pytest.mark.parametrize(
    "name", ["resnet152", "tf_efficientnet_lite2", "vit_base_patch16_siglip_224", "test_resnet", "xcit_nano_12_p16_224"]
)
def test_transform_equals_timm(name, size):
    from timm import get_pretrained_cfg
    from timm.data import create_transform, resolve_data_config

    config = resolve_data_config({}, pretrained_cfg=get_pretrained_cfg(name).to_dict())
    image = picture(*size)
    expected = create_transform(**config, is_training=False)(image)
    found = transform_for(name)(image)
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    step = 1 / 255 / min(config["std"])
    assert (found - expected).abs().max() <= 2.05 * step  # the kernel's rounding, once in each direction
    assert (found - expected).abs().mean() <= 0.2 * step
    assert torch.equal(found, transform_for(name)(image))


def test_a_banner_is_no_bomb():
    assert ImageTransform(size=32)(Image.new("RGB", (60_000, 2))).shape == (3, 32, 32)


def test_transform_refuses_nonsense():
    with pytest.raises(ValueError, match="name of a timm model, but got 'resnet1000'"):
        transform_for("resnet1000")
    with pytest.raises(ValueError, match="interpolation"):
        ImageTransform(interpolation="best")
    with pytest.raises(ValueError, match="crop"):
        ImageTransform(crop=0)
    with pytest.raises(ValueError, match="border"):
        transform_for("deepseek_vit_412m")


def test_importing_the_module_does_not_import_timm():
    code = "import sys, mner.data.formats.images; sys.exit('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_image_key():
    assert [image_key(name) for name in ("a.JPG", "a.jpeg", "a", "a.b", "x.jpg.png", "1.5")] == [
        "a", "a", "a", "a.b", "x.jpg", "1.5",
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "images"
    (inside / "sub").mkdir(parents=True)
    picture().save(tmp_path / "secret.png")
    picture().save(inside / "sub" / "deep.png")
    for name in ("1.jpg", "2.PNG", "2.jpg", "17_06.jpeg"):
        picture().save(inside / name)
    (inside / "3.jpg").write_text("no image")
    (inside / "readme.txt").write_text("no image either")
    return ImageFolder(inside)


def test_folder_finds_by_key(folder):
    assert list(folder) == ["1", "17_06", "2", "3"]
    assert len(folder) == 4
    assert folder.find("1") == folder.find("1.jpg") == folder.find("1.png") == folder.folder / "1.jpg"
    assert folder.find("2").name == "2.PNG"
    assert folder.find("readme.txt") is None
    assert folder.missing(["1", "9.jpg", "17_06.jpg", "9.jpg"]) == ["9.jpg"]


@pytest.mark.parametrize("image_id", ["../secret", "../secret.png", "sub/deep", "./1", "/etc/passwd", "..", "", "sub"])
def test_folder_is_never_left(folder, image_id):
    assert folder.find(image_id) is None
    assert image_id not in folder
    assert folder.open(image_id) is None


def test_folder_opens(folder):
    assert folder.load("1")[1] == ""
    assert folder.load("3") == (None, "not an image")
    assert folder.load("9") == (None, "missing")
    assert folder.open("3") is None
    folder.find("1").unlink()
    assert folder.load("1") == (None, "missing")
    with pytest.raises(DataNotFoundError, match="nowhere"):
        ImageFolder("nowhere")


@pytest.mark.parametrize("workers", [0, 1])
def test_files_through_a_loader(folder, workers):
    files = ImageFiles(folder, ["2", "3", "1"], ImageTransform(size=16))
    (batch,) = DataLoader(files, batch_size=8, collate_fn=list, num_workers=workers)
    assert [key for key, _, _ in batch] == ["2", "3", "1"]
    assert [reason for *_, reason in batch] == ["", "not an image", ""]
    assert batch[0][1].shape == (3, 16, 16)
    assert batch[1][1] is None


def test_report():
    broken = {str(number): "missing" for number in range(6)} | {"x": "empty"}
    expected = "7 of 9 images could not be read (missing 6, empty 1): 0, 1, 2, 3, 4, ..."
    assert report_broken(broken, 9) == expected
