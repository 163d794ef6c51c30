"""Prompts: what to ask for in GenEval's six tasks and beyond, saying it, and reading it back.

Tasks follow GenEval (Ghosh et al. 2023, arXiv 2310.11513). A prompt leaves much unsaid on purpose, but it names every
thing in the picture: things beyond those asked for are wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, groupby

from numpy.random import Generator

from hb.world.language.clashes import can_be_together, is_a, may_be
from hb.world.language.words import PLACE_PHRASES, PROMPT_WORDS, LanguageError, Reader, join, known_words, phrase
from hb.world.scene import (
    BACKGROUNDS,
    COLORS,
    MAX_THINGS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Request,
    Wish,
    sample_scenes,
)

SIX_TASKS = ("single", "two", "counting", "colors", "position", "attribution")
TASKS = (*SIX_TASKS, "rich")
DRAWN_TASKS = (*TASKS, "complex")  # of training prompts; the frozen sets and the tokenizer's corpus were made of TASKS

_JOINED_PLACES = {frozenset(place.split()): place for place in PLACES}
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

OPENERS = ("", "", "", "draw ", "a picture of ", "a photo of ")
BACKGROUND_PHRASES = (" on a {} background", " with a {} background")

BACKGROUND_SAID = 0.15  # in the six tasks: how often a prompt also says the background ...
EXTRA_SAID = 0.10  # ... a size, or a texture
COMPLEX_COUNTS = (
    0.06,
    0.19,
    0.35,
    0.40,
)  # of the training prompts of task "complex": how many ask for one to four things
SHAPE_UNSAID = 0.06  # in them: how often a thing is "a thing"
ALL_SAID = 0.3  # in them: how often everything is said, every place included. What is left unsaid is harder: a teacher
# trained with a half of such prompts drew 92% of three things right when all was said, and 46% when half was
SOME_SAID = (0.25, 0.75)  # in the others: the probability that a thing's color, size, texture or place is said


def pick(rng: Generator, options: Sequence):
    """One of the options, uniformly (ten times faster than `rng.choice`)."""
    return options[int(rng.random() * len(options))]


def first_or_pick(rng: Generator | None, options: Sequence):
    """One of the options; without a generator, the first."""
    return options[0] if rng is None else pick(rng, options)


def pick_two(rng: Generator, options: Sequence):
    """Two different options, uniformly."""
    i = int(rng.random() * len(options))
    j = int(rng.random() * (len(options) - 1))
    return options[i], options[j + (j >= i)]


def sample_request(task: str, rng: Generator, skew: float = 1.0) -> Request:
    """What a prompt of this task asks for.

    single        one shape                       colors        one colored shape
    two           two different shapes            position      two different shapes and a relation
    counting      two to four of one shape        attribution   two different shapes, each with its own color
    rich          one to four things; anything may be said or unsaid, and with a skew below 1 more is said
    complex       as rich, but mostly three or four things; in three of ten prompts all is said, every place included
    """
    if task == "rich":
        return _sample_rich(rng, skew)
    if task == "complex":
        count = 1 + int(rng.choice(MAX_THINGS, p=COMPLEX_COUNTS))
        return sample_complex(count, 1.0 if rng.random() < ALL_SAID else rng.uniform(*SOME_SAID), rng, SHAPE_UNSAID)
    if task not in TASKS:
        raise ValueError(f"no task {task!r}; choose from {', '.join(DRAWN_TASKS)}")
    if task in ("single", "counting", "colors"):
        wish = _with_extras(Wish(pick(rng, SHAPES), pick(rng, COLORS) if task == "colors" else None), rng)
        wishes = (wish,) * (pick(rng, (2, 3, 4)) if task == "counting" else 1)
    else:
        colors = pick_two(rng, COLORS) if task == "attribution" else (None, None)
        wishes = tuple(_with_extras(Wish(*said), rng) for said in zip(pick_two(rng, SHAPES), colors))
    relation = pick(rng, RELATIONS) if task == "position" else None
    background = pick(rng, BACKGROUNDS) if rng.random() < BACKGROUND_SAID else None
    return Request(wishes, relation, background)


def _with_extras(wish: Wish, rng: Generator) -> Wish:
    size = pick(rng, SIZES) if rng.random() < EXTRA_SAID else None
    texture = pick(rng, TEXTURES) if rng.random() < EXTRA_SAID else None
    return Wish(wish.shape, wish.color, size, texture)


def _sample_rich(rng: Generator, skew: float) -> Request:
    fullness = rng.random() ** skew  # some prompts say nearly all, some nearly nothing
    count = pick(rng, range(1, MAX_THINGS + 1))
    relation = pick(rng, RELATIONS) if count > 1 and rng.random() < 0.3 else None
    wishes: list[Wish] = []
    for k in range(count):
        if k and rng.random() < 0.2 and not (relation and k == 1):
            wishes.append(replace(wishes[-1], place=None))  # another like the last: "two hearts"
        else:
            wishes.append(_rich_wish(fullness, rng))
    if relation and wishes[0] == wishes[1]:
        relation = None  # "a star left of a star" says nothing
    wishes = _with_places(wishes, 0.5 * fullness, 2 if relation else 0, rng)
    background = pick(rng, BACKGROUNDS) if rng.random() < fullness else None
    return Request(tuple(wishes), relation, background)


def sample_complex(count: int, said: float, rng: Generator, shape_unsaid: float = 0.0) -> Request:
    """A request that describes a random scene of `count` things: each color, size, texture, place and the background is
    said with probability `said`, each shape unless it is left out with probability `shape_unsaid`.

    It is read off a scene, so there is room for it, and places may repeat. Two things for which the same is said are
    one group.
    """
    scene = sample_scenes([Request((Wish(),) * count)], rng).scene(0)
    maybe = lambda value: value if rng.random() < said else None
    wishes = [
        Wish(
            thing.shape if rng.random() >= shape_unsaid else None,
            *map(maybe, (thing.color, thing.size, thing.texture, thing.place)),
        )
        for thing in scene.things
    ]
    return Request(tuple(wishes), None, maybe(scene.background))


def _rich_wish(fullness: float, rng: Generator) -> Wish:
    return Wish(
        shape=pick(rng, SHAPES) if rng.random() > 0.08 else None,
        color=pick(rng, COLORS) if rng.random() < fullness else None,
        size=pick(rng, SIZES) if rng.random() < 0.7 * fullness else None,
        texture=pick(rng, TEXTURES) if rng.random() < 0.5 * fullness else None,
    )


def _with_places(wishes: list[Wish], share: float, first: int, rng: Generator) -> list[Wish]:
    """Places for at most two things, from `first` on (a relation has its own say), no two alike.

    A ninth has room for one thing, and three large ones do not fit side by side along an edge.
    """
    free = list(PLACES)
    out = wishes[:first]
    for wish in wishes[first:]:
        if len(free) > len(PLACES) - 2 and rng.random() < share:
            wish = replace(wish, place=free.pop(int(rng.random() * len(free))))
        out.append(wish)
    return out


def say(request: Request, rng: Generator | None = None) -> str:
    """The request in words, in one of several phrasings: "a circle left of a blue star on a navy background".

    Without `rng`, in the plainest: `say(parse(prompt))` is what a user's prompt means, in words a model has seen.
    """
    parts, rest = [], request.wishes
    if request.relation:
        first, second, *rest = request.wishes
        parts.append(f"{_say_wish(first)}{',' * bool(first.place)} {request.relation} {_say_wish(second)}")
    parts += [_say_wish(wish, len(list(same))) for wish, same in groupby(sorted(rest, key=_order(rest)))]
    background = request.background and first_or_pick(rng, BACKGROUND_PHRASES).format(request.background)
    return first_or_pick(rng, OPENERS) + join(parts) + (background or "")


def _order(wishes: Sequence[Wish]):
    """Sort key that brings equal wishes together and else keeps the order."""
    first = {wish: k for k, wish in reversed(list(enumerate(wishes)))}
    return first.__getitem__


def _say_wish(wish: Wish, count: int = 1) -> str:
    place = f" {PLACE_PHRASES[wish.place]}" if wish.place else ""
    return phrase(wish, count) + place


def parse(prompt: str) -> Request:
    """The request behind a prompt: the inverse of `say`, tolerant of articles, capitals, commas, digits and openers.
    "something red" is "a red thing"; "only one star" and "no stars" are understood where nothing else in the prompt
    contradicts them.

    Identical wishes come back side by side; if two things are related, they come first.
    Raises LanguageError naming the unknown word and the nearest known one, saying what is missing or too much, or
    quoting the two phrases that cannot both be true of a picture of this world.
    """
    words = _without_opener(known_words(prompt, PROMPT_WORDS))
    words, background = _take_background(words, prompt)
    spoken, relation = _read_groups(Reader(words, prompt))
    groups = [group for group in spoken if group.count]
    if not groups:
        raise LanguageError(f"'{prompt}' asks for zero of something; just leave it out")
    _check_counts(groups, [group for group in spoken if not group.count])
    if relation:
        pair = [groups.index(relation.first), groups.index(relation.second)]
        groups = [groups[k] for k in pair] + [group for k, group in enumerate(groups) if k not in pair]
    _check_room(groups, relation)
    wishes = tuple(group.wish for group in groups for _ in range(group.count))
    return Request(wishes, relation.name if relation else None, background)


def _without_opener(words: list[str]) -> list[str]:
    """Without "please draw me a picture of"."""
    start = 0
    while start < len(words) and words[start] in ("please", "draw", "show", "make", "me", ","):
        start += 1
    for length in (2, 1):  # "a picture of", "picture of"
        head = words[start : start + length + 1]
        if len(head) == length + 1 and head[-2] in ("picture", "photo") and head[-1] in ("of", "with"):
            return words[start + length + 1 :]
    return words[start:]


def _take_background(words: list[str], prompt: str) -> tuple[list[str], str | None]:
    """The words without "on a navy background", and "navy"."""
    said = [word for word in words if word in BACKGROUNDS]
    if len(said) > 1:
        raise LanguageError(f"two backgrounds, {said[0]!r} and {said[1]!r}; a picture has one")
    if words.count("background") > 1:
        raise LanguageError(f"two backgrounds in {prompt!r}; a picture has one")
    if "background" in words:
        at = words.index("background")
        color = words[at - 1] if at else ""
        if color not in BACKGROUNDS:
            raise LanguageError(f"before 'background' I expected one of {', '.join(BACKGROUNDS)}")
        start, stop = at - 1, at + 1
    elif said and words.index(said[0]) > 0 and words[words.index(said[0]) - 1] == "on":  # "on navy"
        start = words.index(said[0])
        stop = start + 1
    else:
        return words, None
    for article_or_link in (("a", "an", "the"), ("on", "with", "in", "and"), (",", "and"), (",",)):
        if start and words[start - 1] in article_or_link:
            start -= 1
    if not start and words[stop : stop + 1] == [","]:  # "on navy, a circle"
        stop += 1
    return words[:start] + words[stop:], said[0]


@dataclass(frozen=True, eq=False)
class _Group:
    """Counted things as they were said. only: are there to be no others like them?"""

    count: int
    wish: Wish
    things: str  # "two stars"
    place: str = ""  # "at the top left"
    only: bool = False

    @property
    def text(self) -> str:
        return f"{self.things} {self.place}".rstrip()


@dataclass(frozen=True)
class _Related:
    """first NAME second; `words` are those of the relation: "to the left of"."""

    name: str
    first: _Group
    second: _Group
    words: str

    @property
    def text(self) -> str:
        return f"{self.words} {self.second.text}"


def _read_groups(reader: Reader) -> tuple[list[_Group], _Related | None]:
    """All counted things, those that are to be absent (count 0) among them, and the relation."""
    groups, relation, head = [_read_group(reader)], None, None
    while True:
        new = _read_relation(reader, after_comma=relation is None)
        if new and relation:
            raise LanguageError(f"two relations, {relation.name!r} and {new[0]!r}; a picture has one")
        if new:
            head, groups = groups[-1], [*groups, _read_group(reader)]
            relation = _Related(new[0], head, groups[-1], new[1])
            if head.count != 1 or relation.second.count != 1:
                raise LanguageError(
                    f"{relation.name!r} relates one thing to one other; several cannot be placed at once"
                )
            _read_again(reader, relation)
            continue
        linked = [reader.skip(link) for link in (",", "and", "with")]
        if not reader.peek() and not any(linked[1:]):
            return groups, relation
        if not any(linked):
            raise LanguageError(f"after {' '.join(reader.words[: reader.i])!r} I did not expect {reader.peek()!r}")
        groups.append(_read_group(reader))


def _read_group(reader: Reader) -> _Group:
    """ "two stars at the top left", "only one red star", "no stars". "at the top and on the left" is "at the top left".

    Raises LanguageError where one thing has two places.
    """
    start, only = reader.i, reader.skip("only")
    count, wish = reader.thing()
    things, start = reader.since(start), reader.i
    place = reader.place()
    text = reader.since(start)
    while place:
        start = reader.i
        any([reader.skip(","), reader.skip("and")])
        said = reader.i
        other = reader.place()
        if other is None:
            reader.i = start
            break
        both = _JOINED_PLACES.get(frozenset([*place.split(), *other.split()]))
        if both is None and count == 1:
            raise LanguageError(f"two places for one thing, {text!r} and {reader.since(said)!r}; choose one")
        if both is None:
            raise LanguageError(
                f"say each of {things!r} by itself, with its own place: {text!r} and {reader.since(said)!r} are two"
            )
        place, text = both, PLACE_PHRASES[both]
    return _Group(count, replace(wish, place=place) if place else wish, things, text, only)


def _read_relation(reader: Reader, after_comma: bool = False) -> tuple[str, str] | None:
    """A relation and its words: "left of" and "to the left of"."""
    start = reader.i
    if after_comma:
        reader.skip(",")
    said = reader.i
    name = reader.relation()
    if name is None:
        reader.i = start
        return None
    return name, reader.since(said)


def _read_again(reader: Reader, relation: _Related) -> None:
    """What more is said of the same two things: "and right of it", "and above the star".

    Raises LanguageError if both cannot hold, or if both could and that is more than a request holds.
    """
    start = reader.i
    any([reader.skip(","), reader.skip("and")])
    said = reader.i
    new = _read_relation(reader)
    if (
        said == start
        or new is None
        or not (reader.skip("it") or (reader.peek() == "the" and reader.thing()[1] == relation.second.wish))
    ):
        reader.i = start
    elif new[0] == OPPOSITE[relation.name]:
        raise LanguageError(
            f"{relation.text!r} and {reader.since(said)!r} cannot both be true of {relation.first.text!r}"
        )
    elif new[0] != relation.name:
        raise LanguageError(f"two relations, {relation.name!r} and {new[0]!r}; a picture has one")


def _check_counts(groups: Sequence[_Group], absent: Sequence[_Group]) -> None:
    """Raises LanguageError where there are too many things, or a thing is asked for that is not to be there or not to
    be repeated."""
    total = sum(group.count for group in groups)
    said = join([repr(group.text) for group in groups])
    if total > MAX_THINGS and len(groups) == 1:
        raise LanguageError(f"{said} are too many things; a picture holds at most {MAX_THINGS}")
    if total > MAX_THINGS:
        raise LanguageError(f"{said} are {total} things together; a picture holds at most {MAX_THINGS}")
    for limit in [*absent, *(group for group in groups if group.only)]:
        for group in groups:
            if group is limit or not may_be(group.wish, limit.wish):
                continue
            if is_a(group.wish, limit.wish):
                raise LanguageError(f"{limit.text!r} and {group.text!r} contradict each other; leave out one of them")
            raise LanguageError(
                f"{group.text!r} may or may not be what {limit.text!r} speaks of; say more of it, or leave that out"
            )


def _check_room(groups: Sequence[_Group], relation: _Related | None) -> None:
    """Raises LanguageError where two things cannot both be where they are asked to be, whatever is left open."""
    if relation and not can_be_together(relation.first.wish, relation.second.wish, relation.name):
        raise LanguageError(f"{relation.first.text!r} cannot be {relation.text!r}")
    for group in groups:
        if group.count > 1 and not can_be_together(group.wish, group.wish):
            raise LanguageError(f"there is no room for {group.things!r} {group.place!r}")
    for one, other in combinations(groups, 2):
        if not can_be_together(one.wish, other.wish):
            raise LanguageError(f"there is no room for {one.text!r} and {other.text!r}")
