import io
import os
import subprocess
import sys
import zlib

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader

from mner.data.formats.images import MAX_PIXELS, ImageFolder, image_key, load_image, report_broken, shown, to_rgb
from mner.data.transforms import ImageTransform, transform_for
from mner.errors import DataFormatError, DataNotFoundError
from mner.files import name_on_disk
from mner.preprocessing.base import ImageFiles
from mner.tagger.bulk_input import Images


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


@pytest.mark.parametrize(
    "format", ["AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"]
)
def test_formats_that_are_opened(tmp_path, format):
    Image.init()
    if format not in Image.SAVE:
        pytest.skip("this Pillow cannot write it")
    (tmp_path / "a").write_bytes(encoded(Image.new("RGB", (64, 64), (200, 40, 90)), format))
    image, reason = load_image(tmp_path / "a")
    assert reason == ""
    assert image.size == (64, 64)
    assert np.abs(np.asarray(image, int) - [200, 40, 90]).max() < 6  # some of them lose detail


@pytest.mark.parametrize("format", ["EPS", "PCX", "PDF", "SGI", "TGA"])
def test_formats_that_are_not(tmp_path, format):
    (tmp_path / "a").write_bytes(encoded(picture(64, 64), format))
    assert load_image(tmp_path / "a") == (None, "not an image")


def test_a_bomb_is_what_pillow_calls_one():
    assert MAX_PIXELS == Image.MAX_IMAGE_PIXELS


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


def test_numbers_are_scaled_to_their_largest(tmp_path):
    Image.fromarray(np.array([[-1.0, 0.0, 0.25, 0.5]], np.float32)).save(tmp_path / "float.tiff")
    image, reason = load_image(tmp_path / "float.tiff")
    assert reason == ""
    assert [image.getpixel((x, 0))[0] for x in range(4)] == [0, 0, 127, 255]
    Image.fromarray(np.array([[0, 256, 65535, 70000]], np.int32)).save(tmp_path / "int.tiff")
    image, reason = load_image(tmp_path / "int.tiff")
    assert [image.getpixel((x, 0)) for x in range(4)] == [(value,) * 3 for value in (0, 0, 255, 255)]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "La", "RGBa"])
def test_transparency_in_every_mode_of_pillow(mode):
    layer = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    layer.putpixel((1, 0), (0, 0, 0, 0))
    image = layer.convert("LA").convert(mode) if mode == "La" else layer.convert(mode)
    assert image.mode == mode
    assert [to_rgb(image).getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), (255, 255, 255)]


def test_what_could_not_be_read_is_told():
    broken = {str(number): "missing" for number in range(5)}
    assert report_broken(broken, 9) == "5 of 9 images could not be read (missing 5): 0, 1, 2, 3, 4"
    told = report_broken({"x": "empty", **broken}, 9)
    assert told == "6 of 9 images could not be read (missing 5, empty 1): x, 0, 1, 2, 3, ..."
    assert report_broken(broken, 9, show=1) == "5 of 9 images could not be read (missing 5): 0, ..."


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


@pytest.mark.skipif("deepseek_vit_412m" not in timm.list_models(), reason="this timm has no model with such a crop")
def test_a_crop_that_nobody_knows_is_refused():
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
    assert list(folder) == ["1.jpg", "17_06.jpeg", "2.PNG", "2.jpg", "3.jpg"]
    assert len(folder) == 5
    assert folder.find("1") == folder.find("1.jpg") == folder.find("1.png") == folder.folder / "1.jpg"
    assert folder.find("2.png").name == "2.PNG"
    assert folder.find("2.jpg").name == "2.jpg"
    with pytest.raises(DataFormatError, match=r"2.PNG and 2.jpg for the image '2'; expected one file"):
        folder.find("2")
    assert folder.load("readme.txt") == (None, "not an image")
    assert folder.find("sub/deep.png") == folder.folder / "sub" / "deep.png"
    assert folder.find("sub/../1.jpg") is None
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
    files = ImageFiles(folder, ["2.jpg", "3", "1"], ImageTransform(size=16))
    (batch,) = DataLoader(files, batch_size=8, collate_fn=list, num_workers=workers)
    assert [key for key, _, _ in batch] == ["2.jpg", "3", "1"]
    assert [reason for *_, reason in batch] == ["", "not an image", ""]
    assert batch[0][1].shape == (3, 16, 16)
    assert batch[1][1] is None


def test_report():
    broken = {str(number): "missing" for number in range(6)} | {"x": "empty"}
    expected = "7 of 9 images could not be read (missing 6, empty 1): 0, 1, 2, 3, 4, ..."
    assert report_broken(broken, 9) == expected


EXACT = ("a.avif", "b.ppm", "c.jpg_large", "d", "e.jpg.jpg", "F.JPG", "Zu\u0308rich.jpg", "k.apng", "1.JPEG", "n.xyz")


@pytest.fixture
def odd(tmp_path):
    for name in EXACT:
        Image.new("RGB", (8, 8)).save(tmp_path / name_on_disk(name), format="PNG")
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "sub" / "g.jpg")
    return tmp_path


@pytest.mark.parametrize("name", [*EXACT, "sub/g.jpg"])
def test_an_id_that_is_a_name_is_that_file(odd, name):
    assert ImageFolder(odd).find(name) == odd / name_on_disk(name)
    assert ImageFolder(odd).load(name)[1] == ""
    assert Images(odd).find(name) == ((odd / name_on_disk(name)).resolve(), "")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("e.jpg", "e.jpg.jpg"),
        ("f.jpg", "F.JPG"),
        ("F.jpg", "F.JPG"),
        ("f", "F.JPG"),
        ("Z\u00fcrich.jpg", "Zu\u0308rich.jpg"),
        ("z\u00fcRICH", "Zu\u0308rich.jpg"),
        ("A.png", "a.avif"),
        ("1.png", "1.JPEG"),
    ],
)
def test_loose_matches_are_found_and_told(odd, given, name):
    folder, images = ImageFolder(odd), Images(odd)
    assert folder.find(given) == odd / name_on_disk(name)
    assert images.find(given)[1] == ""
    told = f"1 images were found under another suffix, letter case or form: {given} as {name}"
    assert folder.names.report() == images.report() == told


def test_names_without_suffix_and_exact_ones_are_not_told(odd):
    folder = ImageFolder(odd)
    assert folder.find("a").name == "a.avif"
    assert folder.find("d").name == "d"
    assert folder.find("sub/h.jpg") is None
    assert folder.names.report() == ""


def test_same_stem(tmp_path):
    """1.jpg and 1.png are two pictures, and a broken 2.jpg does not hide 2.png."""
    Image.new("RGB", (64, 64), (255, 0, 0)).save(tmp_path / "1.jpg")
    Image.new("RGB", (64, 64), (0, 0, 255)).save(tmp_path / "1.png")
    (tmp_path / "2.jpg").write_bytes(b"")
    Image.new("RGB", (64, 64)).save(tmp_path / "2.png")
    folder = ImageFolder(tmp_path)
    assert len(folder) == 4
    assert folder.open("1.png").getpixel((3, 3)) == (0, 0, 255)
    assert folder.open("1.jpg").getpixel((3, 3))[0] > 200
    assert folder.load("2.png")[1] == ""
    assert folder.load("2.jpg")[1] == "empty"
    for given in ("1", "1.gif", "2"):
        with pytest.raises(DataFormatError, match=rf"{given[0]}.jpg and {given[0]}.png for the image"):
            folder.find(given)
    assert "1.jpg and 1.png" in Images(tmp_path).find("1")[1]


def test_names_that_no_index_can_hold(tmp_path):
    for name in (b"a\tb.jpg", b"a\nb.jpg", b"caf\xe9.jpg", b".jpg", b"good.jpg", b"\xe2\x80\xa8.png"):
        (tmp_path / os.fsdecode(name)).touch()
    folder = ImageFolder(tmp_path)
    assert list(folder) == ["good.jpg", "\u2028.png"]
    assert sorted(map(shown, folder.unusable)) == [".jpg", "a\\nb.jpg", "a\\tb.jpg", "caf\\udce9.jpg"]
