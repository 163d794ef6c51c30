"""Notebook 12, editing live: a budget of a key, what may be kept, queues, one noise, drift over turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from hb import plots
from hb.course.canvas import Canvas
from hb.course.exercises import Hint, call, exercise, expect, expect_number
from hb.course.queues import WAIT_S, newest_wins
from hb.infer import hints
from hb.infer.live import LiveSession
from hb.infer.pipeline import Model
from hb.infer.turns import Turn
from hb.models.bagel import Bagel
from hb.world.judge.judge import check
from hb.world.judge.reading import read
from hb.world.language import parse

# ---- typing ----------------------------------------------------------------------------------------------------------


def live_canvas(model: Model) -> Canvas:
    """The canvas itself, by the student that the model serves live."""
    return Canvas(model)


def typed_figure(session: LiveSession, texts: Sequence[str], title: str | None = None) -> plots.Chart:
    """What a session shows for one text after another, from the same noise. For readers without a kernel."""
    turns = [turn for turn in map(session.draw, texts) if isinstance(turn, Turn)]
    return plots.sheet([turn.pixels for turn in turns], [turn.text for turn in turns], columns=5, size=1.6, title=title)


def pictures_of(sentence: str, verb: str = hints.DRAW) -> list[str]:
    """The requests that a sentence comes to while it is typed, in order: one picture each."""
    said: list[str] = []
    for text in (sentence[:end] for end in range(1, len(sentence) + 1)):
        now = hints.understood(verb, text)
        if isinstance(now, str) and now not in said[-1:]:
            said.append(now)
    return said


# ---- a budget --------------------------------------------------------------------------------------------------------


def loopback(content: bytes):
    """A job: these bytes through the Jupyter protocol, signed, over a socket of this machine. The browser's half of the
    way (web socket, paint, frame) is not in it."""
    import zmq
    from jupyter_client.session import Session

    context, protocol = zmq.Context.instance(), Session(key=b"key")
    receiver, sender = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    sender.connect(f"tcp://127.0.0.1:{receiver.bind_to_random_port('tcp://127.0.0.1')}")

    def job() -> bytes:
        protocol.send(sender, "comm_msg", content=dict(data=dict(method="custom")), buffers=[content])
        if not receiver.poll(1000 * WAIT_S):
            raise RuntimeError("the message did not arrive")
        return bytes(protocol.deserialize(protocol.feed_identities(receiver.recv_multipart())[1])["buffers"][0])

    return job


# from the back: a picture's source, which only an edit reads, comes first
PART_COLORS = (plots.INK, plots.FAINT, plots.UNDERSTANDING, plots.GENERATION, "#7a4fb0", plots.RIGHT)


def budget_figure(rows: Mapping[str, Mapping[str, float]], title: str | None = None) -> plots.Chart:
    """Milliseconds by part, a stacked bar for each row, with its sum. The longest row says in which order."""
    parts = list(dict.fromkeys(part for row in sorted(rows.values(), key=len, reverse=True) for part in row))
    colors = dict(zip(parts, PART_COLORS[-len(parts) :]))
    figure, axes = plots.new_chart(8.2, 0.95 + 0.42 * len(rows))
    ax = axes[0, 0]
    totals = [sum(row.values()) for row in rows.values()]
    for part, color in colors.items():
        before = [sum(row.get(p, 0.0) for p in parts[: parts.index(part)]) for row in rows.values()]
        ms = [row.get(part, 0.0) for row in rows.values()]
        ax.barh(range(len(rows)), ms, left=before, height=0.62, color=color, label=part)
    for y, total in enumerate(totals):
        ax.text(total + 0.01 * max(totals), y, f"{total:.0f} ms", va="center", fontsize=8.5, color=plots.INK)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_xlim(0, 1.12 * max(totals))
    ax.invert_yaxis()
    plots.plain(ax, "x")
    plots.labels(ax, "milliseconds of one processor core")
    plots.legend(ax, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    plots.titled(figure, title)
    return figure


# ---- what may be kept ------------------------------------------------------------------------------------------------


@torch.no_grad()
def key_value_changes(bagel: Bagel, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """How far keys and values [layers, tokens] change when one text becomes another of as many tokens: norm of the
    difference over the norm."""
    a, b = (bagel.read_ids(bagel.empty(1), torch.tensor([list(ids)]))[1].kv for ids in (before, after))
    a, b = (kv[:, :, 0].movedim(3, 1).flatten(2) for kv in (a, b))
    return (b - a).norm(dim=2) / a.norm(dim=2)


def changes_figure(changes: Tensor, words: Sequence[str], title: str | None = None) -> plots.Chart:
    """Layers down, tokens across. Exactly zero is white."""
    figure, axes = plots.new_chart(6.4, 3.1)
    ax = axes[0, 0]
    shown = ax.imshow(changes.numpy(), aspect="auto", cmap="Blues", vmin=0)
    for layer, token in (changes == 0).nonzero().tolist():
        ax.text(token, layer, "0", ha="center", va="center", fontsize=6, color=plots.FAINT)
    ax.set_xticks(range(len(words)), words, rotation=25, ha="right")
    ax.set_yticks(range(0, len(changes), 3), range(1, len(changes) + 1, 3))
    plots.plain(ax, None)
    plots.labels(ax, None, "layer")
    bar = figure.colorbar(shown, ax=ax, shrink=0.9)
    bar.set_label("relative change", fontsize=8, color=plots.FAINT)
    bar.ax.tick_params(labelsize=7, colors=plots.FAINT)
    bar.outline.set_visible(False)
    plots.titled(figure, title)
    return figure


def by_number_figure(lines: Mapping[str, Sequence], what: str, y: str, title: str | None = None) -> plots.Chart:
    """A value for each key, or each turn (`what`), counted from 1; with its interval where it has one."""
    numbers = range(1, len(next(iter(lines.values()))) + 1)
    figure = plots.response(numbers, lines, xlabel=what, ylabel=y, title=title)
    figure.axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


# ---- one noise -------------------------------------------------------------------------------------------------------


def next_to_each_other(prompts: Sequence[str], count: int) -> list[tuple[str, str]]:
    """Pairs of requests that follow each other while one of these prompts is typed, one pair from each."""
    pairs = []
    for prompt in prompts:
        said = pictures_of(prompt)
        if len(said) > 1:
            pairs.append((said[-2], said[-1]))
        if len(pairs) == count:
            break
    return pairs


def distances(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared distance per pixel between pictures [P, N, ...] of two requests, P pairs of them, drawn from the
    same N noises: from the same noise [P], and from two different ones [P]."""
    a, b = a.flatten(2), b.flatten(2)
    every = torch.cdist(a, b).square() / a.size(2)
    same = every.diagonal(dim1=1, dim2=2).mean(1)
    n = every.size(1)
    return same, (every.sum((1, 2)) - n * same) / (n * (n - 1))


def places_kept(before: Tensor, after: Tensor) -> list[bool | None]:
    """Of pairs of pictures [B, 3, H, W] in [0, 1]: is the first thing of one in the same ninth of the other? It is
    known by its shape. None where the judge cannot tell."""
    seen = [[reading.scene for reading in read(pictures)] for pictures in (before, after)]
    return [None if None in pair else place_is_kept(*(scene.things for scene in pair)) for pair in zip(*seen)]


def place_is_kept(before: Sequence, after: Sequence) -> bool | None:
    """The same of the things of two scenes. None where nothing is there to be found again."""
    if not before:
        return None
    alike = [thing for thing in after if thing.shape == before[0].shape]
    return any(thing.place == before[0].place for thing in alike) if alike else None


# ---- turns -----------------------------------------------------------------------------------------------------------


def edited_in_turn(session: LiveSession, picture: Tensor, instructions: Sequence[str]) -> list[Turn]:
    """The turns of a picture [3, H, W] in [0, 1] that is edited, accepted, edited again."""
    session.open(picture)
    turns = []
    for words in instructions:
        turn = session.edit(words)
        if not isinstance(turn, Turn):
            raise ValueError(f"{words!r} makes no picture: {turn}")
        turns.append(session.accept())
    return turns


@torch.no_grad()
def round_trips(model: Model, pictures: Tensor, turns: int) -> Tensor:
    """Pictures [turns, B, 3, H, W] in [0, 1] that go through the autoencoder and back, in bytes each time."""
    now, out = pictures, []
    for _ in range(turns):
        now = model.decode_pictures(model.bagel.encode(now * 2 - 1, sample=False))
        now = (now * 255).round() / 255
        out.append(now)
    return torch.stack(out)


# ---- others, on demand -----------------------------------------------------------------------------------------------


def by_others(session: LiveSession, requests: Sequence[str], others: Mapping[str, dict]) -> dict[str, list[Turn]]:
    """These requests, each from the session's noise, by others: see `LiveSession.compare`."""
    made: dict[str, list[Turn]] = {name: [] for name in others}
    for text in requests:
        session.draw(text)
        for which, _, turn in session.compare(list(others.values())):
            if turn is not None:
                made[[*others][which]].append(turn)
    return made


def by_others_figure(made: Mapping[str, Sequence[Turn]], title: str | None = None) -> plots.Chart:
    """A row for each, with the judge's verdict."""
    rows = {name: torch.stack([turn.pixels for turn in turns]) for name, turns in made.items()}
    right = {name: [check(turn.reading, parse(turn.said)).right for turn in turns] for name, turns in made.items()}
    captions = [plots.wrapped(turn.said, 20) for turn in next(iter(made.values()))]
    return plots.strip(rows, captions, right=right, size=1.6, title=title)


# ---- exercises -------------------------------------------------------------------------------------------------------

TEXT, PICTURE = "text", "picture"
SEQUENCES = (  # before, after, how many tokens stay
    ([(TEXT, (1, 5, 6, 2))], [(TEXT, (1, 5, 7, 2))], 2),
    ([(TEXT, (1, 5, 6, 2))], [(TEXT, (1, 5, 6, 2))], 4),
    ([(TEXT, (1, 5, 6, 2))], [(TEXT, (1, 7, 6, 2))], 1),
    ([(TEXT, (1, 5, 2))], [(TEXT, (1, 5, 6, 8, 2))], 2),
    ([(PICTURE, (3, 4, 5)), (TEXT, (1, 6, 2))], [(PICTURE, (3, 4, 5)), (TEXT, (1, 7, 2))], 4),
    ([(PICTURE, (3, 4, 5)), (TEXT, (1, 6, 2))], [(PICTURE, (3, 4, 9)), (TEXT, (1, 6, 2))], 0),
    ([(TEXT, (1, 6)), (PICTURE, (3, 4, 5)), (TEXT, (8,))], [(TEXT, (1, 6)), (PICTURE, (3, 9, 5)), (TEXT, (8,))], 2),
    ([(TEXT, (1, 6)), (PICTURE, (3, 4))], [(TEXT, (1, 7)), (PICTURE, (3, 4))], 1),
    ([(TEXT, (1, 6)), (PICTURE, (3, 4))], [(TEXT, (1, 6)), (PICTURE, (3, 4)), (TEXT, (5,))], 4),
    ([(TEXT, (3, 4))], [(PICTURE, (3, 4))], 0),
)


@exercise("12.1")
def _kept(answer):
    """kept(before, after): how many tokens' keys and values may stay. Sequences are lists of (mode, tokens)."""
    given = [call(answer, list(before), list(after)) for before, after, _ in SEQUENCES]
    wanted = [stay for *_, stay in SEQUENCES]
    strip = lambda blocks: [token for _, tokens in blocks for token in tokens]
    flat = [(strip(a), strip(b)) for a, b, _ in SEQUENCES]
    whole = [sum(len(x[1]) for x, _ in _equal_blocks(a, b)) for a, b, _ in SEQUENCES]
    expect(
        torch.tensor([float(value) for value in given]),
        torch.tensor([float(value) for value in wanted]),
        [
            (
                _floats(_common(a, b) for a, b in flat),
                "in a picture every token attends to every other: one new one, and none of them stays",
            ),
            (
                _floats(sum(x == y for x, y in zip(a, b)) for a, b in flat),
                "a token behind the first new one has attended to it: equal tokens there have other keys",
            ),
            (_floats(len(set(a) & set(b)) for a, b in flat), "order counts: what stays is a beginning"),
            (_floats(whole), "of a text that changes, the tokens before the change stay"),
        ],
        "go through the blocks together: equal ones stay whole; of the first that differs a text's common beginning "
        "stays, of a picture nothing; behind it nothing stays",
    )


def _equal_blocks(before, after):
    """The pairs of blocks that both begin with."""
    same = []
    for pair in zip(before, after):
        if pair[0] != pair[1]:
            break
        same.append(pair)
    return same


def _common(a: Sequence, b: Sequence) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def _floats(values) -> Tensor:
    return torch.tensor([float(value) for value in values])


KEYS = (([0.0, 60.0, 120.0, 180.0, 240.0], 100.0), ([0.0, 10.0, 25.0, 300.0, 310.0, 555.0], 100.0), ([5.0], 30.0))


@exercise("12.2")
def _newest(answer):
    """newest(arrivals, service): [(number, when it is done), ...] of the requests that are worked on."""
    for arrivals, service in KEYS:
        given, wanted = call(answer, list(arrivals), service), newest_wins(arrivals, service)
        if not isinstance(given, (list, tuple)) or not all(isinstance(x, (list, tuple)) and len(x) == 2 for x in given):
            raise Hint("a list of pairs is asked for: (number of the request, when it is done)")
        numbers = [int(number) for number, _ in given]
        if numbers == list(range(len(arrivals))) and len(wanted) < len(arrivals):
            raise Hint("every request is worked on: that is first in, first out. A free worker takes the newest only")
        if numbers and numbers[-1] != len(arrivals) - 1:
            raise Hint("the last request is lost: when no key comes any more, the worker still takes what waits")
        if numbers != [number for number, _ in wanted]:
            raise Hint(
                f"for arrivals {arrivals} and {service:g} of work, not {numbers} but "
                f"{[number for number, _ in wanted]} are worked on: a job that has begun is not stopped"
            )
        expect(
            torch.tensor([float(end) for _, end in given]),
            torch.tensor([end for _, end in wanted]),
            [
                (
                    torch.tensor([arrivals[number] + service for number in numbers]),
                    "a request may have to wait for the worker",
                ),
                (
                    torch.tensor([end - arrivals[number] for number, end in wanted]),
                    "when it is done, not how long that took",
                ),
                (torch.tensor([end - service for _, end in wanted]), "when it is done, not when it begins"),
            ],
            "a job begins when it came or when the worker became free, whichever is later",
        )


@exercise("12.3")
def _shared(answer):
    """shared(same, fresh, first, second): correlation over noise of the pictures of two requests."""
    for same, fresh, first, second in ((0.02, 0.07, 0.03, 0.04), (0.1, 0.1, 0.05, 0.02), (0.0, 0.08, 0.04, 0.04)):
        half = (fresh - same) / 2
        expect_number(
            call(answer, same, fresh, first, second),
            half / (first * second) ** 0.5,
            {
                half: "that is the covariance; a correlation is a share of the two standard deviations",
                2 * half / (first * second) ** 0.5: "fresh minus same is twice the covariance",
                half / (first * second): "divide by the standard deviations: first and second are variances",
                1 - same / fresh: "that compares the two distances; what do they differ by? Write both as expectations",
                -half / (first * second) ** 0.5: "the sign: noise in common makes the same-noise distance smaller",
                2 * half / (first + second): "the product of the standard deviations is not the mean of the variances",
            },
            "write E|a - b|^2 with means, variances and covariance, once for the same noise and once for two that are "
            "independent; then subtract",
        )
