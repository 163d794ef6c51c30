"""The words of the tiny world, how one thing is named in them, and how such a name is read back."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence

from hb.world.scene import BACKGROUNDS, COLORS, PLACES, RELATIONS, SHAPES, SIZES, TEXTURES, Scene, Thing, Wish

NUMBERS = ("zero", "one", "two", "three", "four")
PLURALS = {shape: "crosses" if shape == "cross" else shape + "s" for shape in (*SHAPES, "thing")}
PLACE_PHRASES = {
    place: ("in the " if place == "center" else "on the " if place in ("left", "right") else "at the ") + place
    for place in PLACES
}

# what people write and what we say for it; only the right-hand side is ever spoken
_SPELLINGS = {
    "colour": "color", "colours": "color", "colors": "color", "coloured": "", "colored": "", "grey": "gray",
    "centre": "center", "middle": "center", "upper": "top", "lower": "bottom", "photograph": "photo",
    "image": "picture", "drawing": "picture", "scene": "picture", "big": "large", "little": "small", "tiny": "small",
    "bigger": "larger", "huge": "large", "stripy": "striped", "stripey": "striped", "stripes": "striped",
    "over": "above", "under": "below", "beneath": "below", "crescent": "moon", "delete": "remove",
    "shape": "thing", "shapes": "things", "object": "thing", "objects": "things", "anything": "something",
    "exactly": "only", "just": "only",
}  # fmt: skip

ATTRIBUTE_OF = {
    word: name
    for name, words in (("size", SIZES), ("texture", TEXTURES), ("color", COLORS))
    for word in words
}  # fmt: skip
_NOUNS = {noun: (shape, many) for shape, plural in PLURALS.items() for noun, many in ((shape, False), (plural, True))}
_COUNTS = {"a": 1, "an": 1, "the": 1, **{word: n for n, word in enumerate(NUMBERS)}, **{str(n): n for n in range(10)}}
_MANY = {
    word: 5 + k for k, word in enumerate(("five", "six", "seven", "eight", "nine", "ten"))
}  # refused, with a reason
_RELATION_HEADS = tuple(relation.split()[0] for relation in RELATIONS)
_SMALL_WORDS = (
    "at in on to of with and is , draw picture photo show me please background color corner side "
    "make change turn replace into remove erase take away add put move larger smaller size by"
).split()
READABLE = frozenset((
    *ATTRIBUTE_OF, *_NOUNS, *_COUNTS, *BACKGROUNDS, *_RELATION_HEADS, *_SMALL_WORDS,
    *(word for place in PLACES for word in place.split()),
))  # fmt: skip

PROMPT_WORDS = frozenset(("something", "only", "no", "it", *_MANY))  # understood in prompts alone, and never spoken


class LanguageError(ValueError):
    """A sentence the tiny world does not understand; the message says which part, and what would do."""


def split_words(text: str) -> list[str]:
    """Lower-case words and commas of a sentence, in the world's spelling; final marks are dropped."""
    words = re.findall(r"[^\s,.;:!?\"'()-]+|,", text.lower())
    words = [_SPELLINGS.get(word, word) for word in words]
    return [word for word in words if word]


def known_words(text: str, also: Collection[str] = ()) -> list[str]:
    """`split_words`, refusing what is outside the world. also: words that are understood besides READABLE.

    Raises LanguageError naming the unknown word and the nearest known one.
    """
    words = split_words(text)
    for word in words:
        if word not in READABLE and word not in also:
            raise LanguageError(_unknown(word))
    return words


def _unknown(word: str) -> str:
    near = difflib.get_close_matches(word, READABLE - {","}, n=1, cutoff=0.75)
    if near:
        return f"the word {word!r} is not known; did you mean {near[0]!r}?"
    return (
        f"the word {word!r} is not known; this world has {', '.join(PLURALS[shape] for shape in SHAPES)} "
        f"in {', '.join(COLORS)}"
    )


def phrase(thing, count: int = 1, article: str = "a") -> str:
    """A `Wish` or `Thing` in words, without its place: "a large striped red circle", "two small hearts", "the star".

    article   "a", "the" or "" when count is 1; a count above 1 is spoken instead
    """
    words = [word for word in (thing.size, thing.texture, thing.color) if word is not None]
    noun = thing.shape or "thing"
    words.append(noun if count == 1 else PLURALS[noun])
    if count > 1:
        words.insert(0, NUMBERS[count])
    elif article:
        words.insert(0, "an" if article == "a" and words[0] == "orange" else article)
    return " ".join(words)


def count_phrase(count: int, noun: str = "thing") -> str:
    """ "one thing", "three circles"."""
    return f"{NUMBERS[count]} {noun if count == 1 else PLURALS[noun]}"


def name(scene: Scene, thing: Thing) -> str | None:
    """A name only this thing answers to, "circle" or "red circle"; None if there is none."""
    rivals = [other for other in scene.things if other.shape == thing.shape]
    if len(rivals) == 1:
        return thing.shape
    if sum(other.color == thing.color for other in rivals) == 1:
        return f"{thing.color} {thing.shape}"
    return None


def join(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part)


class Reader:
    """Reads a list of words from left to right, one phrase at a time."""

    def __init__(self, words: Sequence[str], text: str):
        self.words, self.text, self.i = words, text, 0

    def peek(self, ahead: int = 0) -> str:
        """The word `ahead` places on, "" behind the end."""
        return self.words[self.i + ahead] if self.i + ahead < len(self.words) else ""

    def skip(self, *words: str) -> bool:
        """Step over these words if they come next, in this order."""
        if tuple(self.words[self.i : self.i + len(words)]) != words:
            return False
        self.i += len(words)
        return True

    def thing(self) -> tuple[int, Wish]:
        """A count and what is counted: "two small hearts" is (2, Wish("heart", size="small")), "no hearts" (0,
        Wish("heart")), and "something red" (1, Wish(color="red")).

        Raises LanguageError when there is no noun, or an attribute is said twice.
        """
        first = self.i
        if self.skip("something"):
            return 1, Wish(**self._attributes())
        count = {"no": 0, **_MANY, **_COUNTS}.get(self.peek())
        self.i += count is not None
        said, word = self._attributes(), self.peek()
        if word not in _NOUNS:
            raise LanguageError(self._no_shape(first, word))
        self.i += 1
        shape, many = _NOUNS[word]
        if count is None and many:
            raise LanguageError(f"how many {word}? Say for instance 'two {word}'")
        return count if count is not None else 1, Wish(shape if shape != "thing" else None, **said)

    def _attributes(self) -> dict[str, str]:
        """The attributes that come next: "large striped", "small and red"."""
        said: dict[str, str] = {}
        while True:
            word = self.peek()
            if word == "and" and said and self.peek(1) in ATTRIBUTE_OF:
                self.i += 1
            elif word in ATTRIBUTE_OF:
                self._note(said, ATTRIBUTE_OF[word], word)
            else:
                return said

    def _note(self, said: dict[str, str], name: str, word: str) -> None:
        if name in said:
            raise LanguageError(f"two {name}s for one thing, {said[name]!r} and {word!r}; choose one")
        said[name] = word
        self.i += 1

    def _no_shape(self, first: int, word: str) -> str:
        before = " ".join(self.words[first : self.i])
        if word in BACKGROUNDS:
            return f"{word!r} is a color for backgrounds; a thing can be {', '.join(COLORS)}"
        if before and word:
            return f"after {before!r} I expected a shape ({', '.join(SHAPES)}), not {word!r}"
        if before:
            return f"no shape after {before!r}; shapes are {', '.join(SHAPES)}"
        return f"no shape in {self.text!r}; shapes are {', '.join(SHAPES)}"

    def since(self, start: int) -> str:
        """The words from number `start` to here."""
        return " ".join(self.words[start : self.i])

    def place(self) -> str | None:
        """ "at the top left" or "in the center" is that place; None, and nothing read, if no place comes next."""
        start = self.i
        if self.peek() not in ("at", "in", "on", "to"):
            return None
        self.i += 1
        self.skip("the")
        words = []
        while self.peek() in ("top", "bottom", "left", "right", "center"):
            words.append(self.peek())
            self.i += 1
        if len(words) > 1 and self.peek() == "of" and _place(words) is None:  # "on the right right of a star"
            words.pop()
            self.i -= 1
        place = _place(words)
        self.skip("side") or self.skip("corner")
        of_picture = self.skip("of", "the", "picture")
        if place is None or (self.peek() == "of" and not of_picture):
            self.i = start
            return None
        return place

    def relation(self) -> str | None:
        """ "left of", "to the left of", "above" ...; None, and nothing read, if no relation comes next."""
        start = self.i
        self.skip("is")
        self.skip("to") or self.skip("on")
        self.skip("the")
        for relation in RELATIONS:
            if self.skip(*relation.split()):
                return relation
        self.i = start
        return None


_OTHER_PLACES = {
    "center left": "left", "center right": "right", "top center": "top", "bottom center": "bottom",
    "left top": "top left", "right top": "top right", "left bottom": "bottom left", "right bottom": "bottom right",
}  # fmt: skip


def _place(words: Sequence[str]) -> str | None:
    """The place that these words name; None if they name none."""
    place = " ".join(words)
    place = _OTHER_PLACES.get(place, place)
    return place if place in PLACES else None


def read_wish(text: str) -> Wish:
    """One thing with its place: "the large red circle at the top left".

    Raises LanguageError if it is not exactly one thing.
    """
    reader = Reader(known_words(text), text)
    count, wish = reader.thing()
    place = reader.place()
    if count != 1 or reader.peek():
        raise LanguageError(f"I expected one thing, like 'the red circle', not {text!r}")
    return Wish(wish.shape, wish.color, wish.size, wish.texture, place)
