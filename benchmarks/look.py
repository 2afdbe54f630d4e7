"""Takes pictures of the pages that mner makes, in a real browser, to be looked at.

    pip install -e ".[demo]" playwright
    mner fit --config quickstart
    mner predict --config lightning_logs/version_0/config.yaml \
        --ckpt_path lightning_logs/version_0/checkpoints/best.ckpt --split valid --output predictions.jsonl
    python benchmarks/look.py lightning_logs/version_0/checkpoints/best.ckpt --predictions predictions.jsonl

Drives `mner demo` as a visitor does (types a post, uploads an image, presses the button), and opens what `mner show`
and `mner analyze` write: each light and dark, wide and narrow. Fails if the demo shows no entity, if a page is wider
than its window, if it asks for anything from another machine, or if letters and their ground are too much alike. Posts
and images are of the built-in sample. `--browser` names a Chromium; without it Playwright's own is used.

`--first FOLDER` takes the picture of the documentation's first page and of the README, and nothing else: the same words
with two pictures, light and dark. It is of `mner fit --config benchmarks/sample/cam.yaml --seed_everything 1`.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from mner.data import SampleDataModule
from mner.data.formats.posts import read_posts

HERE = re.compile(r"(file|data|blob|about):|https?://(127\.0\.0\.1|localhost)[:/]")
LOOKS = [(width, theme) for width in (1200, 400) for theme in ("light", "dark")]
# The lowest contrast between the letters of an element and its own ground, which has to be opaque.
CONTRAST = """selector => Math.min(...[...document.querySelectorAll(selector)].map(element => {
  const light = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255).map(
      v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let ground = element;
  while (ground.parentElement && /, 0\\)|transparent/.test(getComputedStyle(ground).backgroundColor))
    ground = ground.parentElement;
  const [a, b] = [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor].map(light);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}))"""


def main() -> int:
    """Write all pages, open them, take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--predictions", help="for the report of `mner analyze`; without it there is no report")
    parser.add_argument("--out", type=Path, default=Path("pictures"))
    parser.add_argument("--browser", help="path of a Chromium")
    parser.add_argument("--first", type=Path, metavar="FOLDER", help="take the first page's picture alone, into FOLDER")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    data = SampleDataModule()
    data.prepare_data()
    root = Path(data.root)
    if given.first:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=given.browser, args=["--no-sandbox"])
            first_picture(browser, given.checkpoint, root, given.out, given.first)
            browser.close()
        return 0
    posts = [
        {"id": post.id, "text": " ".join(post.words), "image": f"{post.image_id}.jpg"}
        for post in read_posts(root / "valid.txt")[:6]
    ]
    posts[2]["image"] = "missing.jpg"
    posts.append({**posts[1], "id": "right to left", "text": f"\u05e9\u05dc\u05d5\u05dd {posts[1]['text']}"})
    (given.out / "posts.jsonl").write_text("".join(json.dumps(post) + "\n" for post in posts), encoding="utf-8")
    mner = [sys.executable, "-m", "mner"]
    images = root / "images"
    pages = {"show": given.out / "entities.html"}
    subprocess.run(
        [*mner, "show", str(given.out / "posts.jsonl"), "--checkpoint", given.checkpoint, "--images", str(images),
         "--output", str(pages["show"])],
        check=True,
    )  # fmt: skip
    if given.predictions:
        report = given.out / "report"
        command = [*mner, "analyze", given.predictions, "--train", str(root / "train.txt"), "--out", str(report)]
        subprocess.run(command, check=True)
        pages["report"] = report / "index.html"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=given.browser, args=["--no-sandbox"])
        print(f"Chromium {browser.version}")
        for name, path in pages.items():
            for page, look in looks(browser):
                page.goto(path.resolve().as_uri())
                finish(page, given.out / f"{name}_{look}.png")
        demo(browser, [*mner, "demo", given.checkpoint], posts[0]["text"], images / posts[0]["image"], given.out)
        browser.close()
    print(f"Pictures in {given.out}")
    return 0


def first_picture(browser: Any, checkpoint: str, root: Path, work: Path, out: Path) -> None:
    """Two posts of `mner show` side by side, as `first_light.png` and `first_dark.png` of 256 colours."""
    text = "cannot stop talking about Golden Tessel"
    posts = [
        {"id": "a post", "text": text, "image": "S_00600"},
        {"id": "the same words, another picture", "text": text, "image": "S_00601"},
    ]
    (work / "first.jsonl").write_text("".join(json.dumps(post) + "\n" for post in posts), encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "mner", "show", str(work / "first.jsonl"), "--checkpoint", checkpoint,
         "--images", str(root / "images"), "--output", str(work / "first.html")],
        check=True,
    )  # fmt: skip
    beside = """h1, .mner-filters { display: none !important; } body.mner-page { display: grid; max-width: none;
      grid-template-columns: 1fr 1fr; gap: 2em; padding: 0.6em 1.4em; } .mner-post { border: 0 !important; }
      .mner { font-size: 15px; }"""
    for theme in ("light", "dark"):
        page = browser.new_page(viewport={"width": 890, "height": 200}, color_scheme=theme, device_scale_factor=1.5)
        page.goto((work / "first.html").resolve().as_uri())
        page.add_style_tag(content=beside)
        path = out / f"first_{theme}.png"
        page.screenshot(path=str(path), full_page=True)
        page.close()
        Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)


def looks(browser: Any) -> Any:
    """A fresh window for each width and theme."""
    for width, theme in LOOKS:
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=theme)
        page.set_default_timeout(300_000)  # milliseconds: the machine may be busy
        asked: list[str] = []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        yield page, f"{width}_{theme}"
        page.close()
        if elsewhere := {url for url in asked if not HERE.match(url)}:
            raise SystemExit(f"A page asks other machines: {', '.join(sorted(elsewhere))}")


def finish(page: Page, path: Path, more: str = "") -> None:
    """Check and take the picture."""
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    if wide > 0:
        raise SystemExit(f"{path.name}: {wide} pixels wider than the window")
    contrast = page.evaluate(CONTRAST, f".mner mark, .mner .text{more}")  # no such thing in the report
    if contrast < 4.5:  # what WCAG 2 asks for at AA
        raise SystemExit(f"{path.name}: contrast of {contrast:.1f} between letters and ground")
    page.screenshot(path=str(path), full_page=True)


def demo(browser: Any, command: list[str], text: str, image: Path, out: Path) -> None:
    """Start the demo and use it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        while True:
            try:
                urlopen(address).close()
                break
            except OSError:
                if server.poll() is not None:
                    raise SystemExit("The demo ended before it served a page") from None
                time.sleep(0.5)
        for page, look in looks(browser):
            page.goto(address)
            page.wait_for_selector("#post textarea")
            page.fill("#post textarea", text)
            page.set_input_files("input[type=file]", str(image))
            page.wait_for_selector("img[src*='/file=']")
            page.click("#tag")
            page.wait_for_selector("#marked mark")
            page.wait_for_selector("#marked img")
            page.wait_for_function("document.body.innerText.includes('Entities')")
            finish(page, out / f"demo_{look}.png", ", #tag, #post textarea, #entities td, h2")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    raise SystemExit(main())
