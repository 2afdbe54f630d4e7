"""The built-in sample data: generated posts in the Twitter files' format, with pictures and captions.

The type of more than half of the entities cannot be told from the text. Eighteen invented names each stand for a
person, a place, an organisation and a thing, equally often in every split, and in sentences that fit all four ("so
proud of Quillon today"); the picture shows which one is meant. The other entities are clear from their name and
sentence, so a model without images learns something, and cannot pass `text_ceiling`. The words come from the lists
below: names are invented, and no sentence was taken from anywhere.
"""

from __future__ import annotations

import json
import random
import string
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mner.data.examples import Example
from mner.data.sample.canvas import Scene
from mner.data.sample.objects import write_objects
from mner.data.sample.scenes import draw_objects
from mner.labels import spans

TYPES = ("PER", "LOC", "ORG", "MISC")
SPLITS = ("train", "valid", "test")
RECIPE = "sample.json"
VERSION = 2  # raise it whenever the same arguments make other files

AMBIGUOUS = (
    "Corvane", "Elmora", "Tarrin", "Ostley", "Velano", "Haldric", "Quillon", "Sabria", "Norrow", "Penlow", "Mirado",
    "Jessora", "Kaldor", "Orabelle", "Marlow Vane", "Sterling Rook", "Winter Hale", "Golden Tessel",
)  # fmt: skip
_FIRST = ("Tamsel", "Jorrik", "Bryndi", "Ellaway", "Fenna", "Osmer", "Lidra", "Wendrik", "Marlis", "Tobrin")
_LAST = ("Harrowick", "Dellmar", "Vostrane", "Pembric", "Ashling", "Torvane", "Underquist", "Greywell")
_PLACES = ("Orrinda", "Veldane", "Brinmoor", "Tessalon", "Garrowby", "Lunmere", "Ashport", "Kestering")
_FIRMS = ("Zentrix", "Hollin", "Kestrum", "Brightway", "Novalent", "Pellworth", "Ironbee", "Cobaltine")
_WORKS = ("Starfall", "Moonrise", "Silverkite", "Dragonfen", "Neonwave", "Harvestide", "Nightloom", "Wildember")
_PATTERNS = {  # how a name of each type is made
    "PER": ("{0}", "{0} {1}"),
    "LOC": ("{0}", "Lake {0}", "Port {0}", "{0} Valley", "{0} County"),
    "ORG": ("{0}", "{0} Bank", "{0} Motors", "{0} University", "{0} FC"),
    "MISC": ("{0}", "{0} Festival", "{0} Cup", "{0} Awards", "{0} Fantasy 3"),
}
_BASES = {"PER": _FIRST, "LOC": _PLACES, "ORG": _FIRMS, "MISC": _WORKS}

# ANY is an ambiguous name; PER, LOC, ORG and MISC are names whose sentence tells the type.
_AMBIGUOUS_POSTS = (
    "so proud of ANY today", "still thinking about ANY", "ANY just made my week", "who else loves ANY ?",
    "cannot stop talking about ANY", "ANY looks amazing in this photo", "good morning ANY !", "what a day with ANY",
    "nothing beats ANY", "my best picture of ANY so far", "ANY never gets old", "look at ANY !", "I miss ANY so much",
    "this is why we love ANY", "throwback to ANY last summer", "one more photo of ANY", "ANY is all over the news",
    "guess who finally saw ANY", "# ANY forever", "thank you ANY for everything", "my feelings about ANY right now",
    "everyone is talking about ANY", "found this old photo of ANY", "ANY , you are the best",
)  # fmt: skip
_AMBIGUOUS_PAIRS = (
    "my sister PER sent me this picture of ANY", "happy birthday PER , this photo of ANY is for you",
    "driving through LOC and thinking of ANY", "landed in LOC two hours ago and I miss ANY",
    "the staff at ORG showed us ANY", "ORG is hiring , says the news about ANY",
    "watching MISC again but ANY is on my mind", "tickets for MISC are sold out so here is ANY",
)  # fmt: skip
_CLEAR_POSTS = (
    "happy birthday to PER", "had lunch with my sister PER", "PER is singing on stage tonight",
    "my teacher PER wrote a book", "PER said he would call back", "so sorry to hear that PER is ill",
    "driving through LOC this morning", "rain all day here in LOC", "our hotel in LOC has a pool",
    "moving to LOC next month", "the roads near LOC are closed", "landed in LOC two hours ago",
    "ORG is hiring new engineers", "shares of ORG fell again", "the staff at ORG were so rude",
    "ORG fired its chief today", "my first day working for ORG", "signed a contract with ORG",
    "watching MISC again on tv", "tickets for MISC are sold out", "just finished the last part of MISC",
    "the new season of MISC starts today", "the soundtrack of MISC is great", "who won at MISC last night ?",
)  # fmt: skip
_CLEAR_PAIRS = (
    "my sister PER is moving to LOC next month", "PER signed a contract with ORG",
    "ORG is hiring new engineers in LOC", "PER is watching MISC again on tv",
    "tickets for MISC in LOC are sold out", "ORG pays for the new season of MISC",
)  # fmt: skip
_EMPTY_POSTS = (
    "so tired after this week", "good morning everyone", "need more coffee right now", "this made me laugh so hard",
    "cannot wait for the weekend", "why is it so cold today", "look what I found in the garden",
    "never trust a Monday", "dinner is ready and I am so hungry", "someone please bring cake",
)  # fmt: skip
_OPENINGS = (["RT", "@user", ":"], ["@user"], ["@user", "@user"], ["omg"], ["lol"], ["wow", ","])
_HASHTAGS = ("love", "mood", "blessed", "tbt", "goals", "happy", "nofilter", "weekend", "photo", "memories")
_EMOJI = ("😂", "😍", "❤️", "🔥", "🙏", "🎉", "😭", "👏")


def write_sample(root: Path, train: int = 600, valid: int = 240, test: int = 240, seed: int = 0) -> None:
    """Write the sample data to the folder `root`; the same arguments make the same files.

    The files are `train.txt`, `valid.txt`, `test.txt` (`IMGID:` lines, then a word, a tab and a tag a line),
    `captions.jsonl`, `images/<image id>.jpg`, what `mner.data.sample.objects` knows of the pictures, and `sample.json`,
    which records the arguments. The folder appears whole or not at all. Of ten posts about six have an ambiguous name
    (one in five of these has a clear name as well), three have clear names only, one has no entity. A few posts without
    an ambiguous name lack their image and caption.

    Args:
        root: The folder to make. One that was made with the same arguments is left as it is.
        train: Number of posts in `train.txt`. Multiples of 120 hold each ambiguous name equally often with each type.
        valid: Number of posts in `valid.txt`.
        test: Number of posts in `test.txt`.
        seed: Another seed makes other posts and pictures.

    Raises:
        ValueError: If a number of posts is less than 1.
        FileExistsError: If `root` holds something else.
    """
    sizes = dict(zip(SPLITS, (train, valid, test), strict=True))
    for split, size in sizes.items():
        if size < 1:
            raise ValueError(f"Expected argument `{split}` to be at least 1, but got {size}")
    root = Path(root)
    recipe = json.dumps({"version": VERSION, **sizes, "seed": seed}) + "\n"
    if _is_made(root, recipe):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as folder:
        draft = Path(folder, "sample")
        (draft / "images").mkdir(parents=True)
        _fill(draft, sizes, seed)
        (draft / RECIPE).write_text(recipe, encoding="utf-8")
        try:
            if root.is_dir():
                root.rmdir()  # an empty folder may stand there
            draft.rename(root)
        except OSError:
            if not _is_made(root, recipe):  # another process may have been faster
                raise


def text_ceiling(examples: Iterable[Example]) -> float:
    """The best F1 (0 to 1) that a model without images can expect on posts of the sample data.

    Give it every boundary and every clear type. An ambiguous name's type is independent of the text, so a guess is
    right one time in four. With c clear and a ambiguous entities, guessing all gives F1 = (c + a/4) / (c + a), and
    leaving the ambiguous ones out gives 2c / (2c + a): the ceiling is the larger. On the default data this is 0.61, and
    a model that guesses, as a CRF does, gets 0.58. One split is finite: guessers are spread about that by some 0.02.

    >>> text_ceiling([Example("1", None, ("Quillon", "!"), ("B-PER", "O"))])
    0.25
    """
    clear = ambiguous = 0
    for example in examples:
        for span in spans(example.tags or ()):
            if " ".join(example.words[span.start : span.end]) in AMBIGUOUS:
                ambiguous += 1
            else:
                clear += 1
    if not clear + ambiguous:
        return 0.0
    return max((clear + ambiguous / len(TYPES)) / (clear + ambiguous), 2 * clear / (2 * clear + ambiguous))


def _is_made(root: Path, recipe: str) -> bool:
    """True where `root` was made by `recipe`, False where it is free."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    made = root / RECIPE
    if made.is_file() and made.read_text(encoding="utf-8") == recipe:
        return True
    raise FileExistsError(f"{root} holds something other than this sample data: choose another folder or remove it")


def _fill(root: Path, sizes: dict[str, int], seed: int) -> None:
    known: set[tuple[str, ...]] = set()
    number = 0
    scenes: dict[str, Scene] = {}
    relations: dict[str, float] = {}
    with (root / "captions.jsonl").open("w", encoding="utf-8", newline="\n") as captions:
        for split, size in sizes.items():
            rng = random.Random(f"{seed} {split}")
            lines: list[str] = []
            for post in _posts(size, rng, known):
                image_id = f"S_{number:05d}"
                number += 1
                columns = zip(post.words, post.tags, strict=True)
                lines += [f"IMGID:{image_id}", *(f"{word}\t{tag}" for word, tag in columns), ""]
                if not post.missing:
                    scene = draw_objects(post.shown, f"{seed} {image_id}")
                    scene.image.save(root / "images" / f"{image_id}.jpg", quality=90)
                    captions.write(json.dumps({"image_id": image_id, "caption": scene.caption}) + "\n")
                    scenes[image_id], relations[image_id] = scene, float(post.ambiguous)
            (root / f"{split}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    write_objects(root, scenes, relations)


class _Post(NamedTuple):
    words: list[str]
    tags: list[str]
    shown: str  # the entity type that the picture shows
    missing: bool = False  # no image, no caption
    ambiguous: bool = False  # the picture says what the text does not


class _Plan(NamedTuple):
    """What one post will be."""

    templates: Sequence[str]
    meaning: tuple[str, str] | None = None  # the ambiguous name and its type here
    missing: bool = False


def _posts(size: int, rng: random.Random, known: set[tuple[str, ...]]) -> Iterator[_Post]:
    """Yield `size` posts, none of them `known` or twice."""
    ambiguous, clear = round(0.6 * size), round(0.3 * size)
    plans = [
        _Plan(_AMBIGUOUS_POSTS if place % 5 else _AMBIGUOUS_PAIRS, meaning)
        for place, meaning in enumerate(_meanings(ambiguous, rng))
    ]
    plans += [_Plan(_CLEAR_POSTS if place % 6 else _CLEAR_PAIRS, missing=place % 15 == 1) for place in range(clear)]
    plans += [_Plan(_EMPTY_POSTS)] * (size - ambiguous - clear)
    rng.shuffle(plans)
    for plan in plans:
        post = _decorate(_sentence(rng.choice(plan.templates), plan.meaning, rng), rng)
        while tuple(post.words) in known:
            post = post._replace(words=[*post.words, _url(rng)], tags=[*post.tags, "O"])
        known.add(tuple(post.words))
        yield post._replace(missing=plan.missing, ambiguous=plan.meaning is not None)


def _meanings(count: int, rng: random.Random) -> list[tuple[str, str]]:
    """Ambiguous names with their types: in each 4 x 18, every name has every type once."""
    names = rng.sample(AMBIGUOUS, len(AMBIGUOUS))
    turns = -(-count // len(names))
    return [(name, TYPES[(place + turn) % 4]) for turn in range(turns) for place, name in enumerate(names)][:count]


def _sentence(template: str, meaning: tuple[str, str] | None, rng: random.Random) -> _Post:
    """The words and tags of `template` with names put in; the picture shows the ambiguous one if there is one."""
    words: list[str] = []
    tags: list[str] = []
    types: list[str] = []
    for word in template.split():
        if word == "ANY" and meaning:
            name, type_ = meaning
        elif word in TYPES:
            name, type_ = rng.choice(_PATTERNS[word]).format(rng.choice(_BASES[word]), rng.choice(_LAST)), word
        else:
            words.append(word)
            tags.append("O")
            continue
        parts = name.split()
        words += parts
        tags += [f"B-{type_}"] + [f"I-{type_}"] * (len(parts) - 1)
        types.append(type_)
    return _Post(words, tags, meaning[1] if meaning else rng.choice(types or TYPES))


def _decorate(post: _Post, rng: random.Random) -> _Post:
    """Add what tweets have around their sentence: mentions, hashtags, emoji, a link."""
    before = rng.choice(_OPENINGS) if rng.random() < 0.25 else []
    after = ["!"] if post.words[-1] not in "!?" and rng.random() < 0.25 else []
    if rng.random() < 0.3:
        after += [word for tag in rng.sample(_HASHTAGS, rng.choice((1, 1, 2))) for word in ("#", tag)]
    if rng.random() < 0.25:
        after.append(rng.choice(_EMOJI))
    if rng.random() < 0.3:
        after.append(_url(rng))
    words, tags = [*before, *post.words, *after], ["O"] * len(before) + post.tags + ["O"] * len(after)
    return post._replace(words=words, tags=tags)


def _url(rng: random.Random) -> str:
    return "https://pic.example/" + "".join(rng.choices(string.ascii_lowercase + string.digits, k=4))
