"""`hb bench live`: from a key to its picture, in the kernel and in a browser."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch

from hb.cli.browser import browser_page, chromium, open_canvas, served
from hb.cli.output import table
from hb.cli.results import Number, finish
from hb.cli.use import DTYPES, is_shipped, open_model
from hb.eval.live import SENTENCES, TARGETS_MS, of_model, percentiles
from hb.infer.live import live_student
from hb.models.pixel_decoder import FAST_BF16
from hb.world.language import parse, parse_edit, say, say_edit

WAIT_S = 60  # for the picture of the last key of a sentence


def live(args) -> None:
    if args.browser:
        chromium()  # better said before the model is loaded than after
    if args.threads:
        torch.set_num_threads(args.threads)
    model, began = open_model(args), time.monotonic()
    args.student = live_student(model.students) if args.student is None else args.student
    got = of_model(model, student=args.student, nfe=args.nfe, repeats=args.repeats)
    args.nfe = got["nfe"]
    lines, name = _lines(got, "in the kernel"), f"live_{args.student}_nfe{args.nfe}"
    notes = ["Keys that change the picture; others give a hint. Median and 95th percentile; everything included."]
    notes.append(
        table(["", "part", "ms"], [[v, p, f"{ms:.1f}"] for v, ps in got["parts"].items() for p, ms in ps.items()])
    )
    if args.browser:
        got["browser"] = dict(server=args.server, delay_ms=args.delay_ms) | _in_browser(args)
        lines += _of_keys(got["browser"]["keys"], f"in the browser ({args.server})", headline=True)
    notes.append(_about_targets())
    finish(args, name, model, lines, got, began, between="range", notes=notes)


def _lines(got: dict, where: str) -> list[Number]:
    lines = []
    for verb, keys in got["verbs"].items():
        lines += [_number(f"{verb}, key to picture {where}, {which}", keys, which) for which in TARGETS_MS]
    return lines + _of_keys(got["keys"], where, headline=True)


def _of_keys(keys: dict, where: str, **more) -> list[Number]:
    """All keys, held against the targets."""
    return [
        _number(f"key to picture {where}, {which}", keys, which, at_most=ms * _slack(), **more)
        for which, ms in TARGETS_MS.items()
    ]


def _number(what: str, keys: dict, which: str, **more) -> Number:
    return Number(what, keys[which], keys["low"], keys["high"], keys["n"], unit="ms", **more)


def _slack() -> int:
    return 1 if FAST_BF16 else 2


def _about_targets() -> str:
    if FAST_BF16:
        return "This processor has bfloat16 units."
    return "This processor has no bfloat16 units, so the targets are twice those of one that has."


# ---- in a browser ---------------------------------------------------------------------------------------------------


def cells_of(args) -> list[str]:
    """The notebook: one cell that shows the canvas."""
    name = args.model if is_shipped(args.model) or not Path(args.model).is_dir() else str(Path(args.model).resolve())
    how = f"device={args.device!r}, dtype={DTYPES[args.dtype]}"
    threads = f"torch.set_num_threads({args.threads})\n" if args.threads else ""
    decoder = "model.pixel_decoder = None\n" if args.full_decoder else ""
    return [
        f"import torch\nimport hb\nfrom hb.course.canvas import Canvas\n{threads}model = hb.load({name!r}, {how})\n"
        f"{decoder}Canvas(model, student={args.student!r}, nfe={args.nfe!r})"
    ]


def _in_browser(args) -> dict:
    """The same sentences, typed in a page. Raises RuntimeError if the page's script failed."""
    with served(args.server, cells_of(args), args.threads) as address, browser_page() as page:
        open_canvas(page, address)
        type_sentences(page, SENTENCES[:1], args.delay_ms)  # warms up
        skip = len(latencies(page))
        for _ in range(args.repeats):
            type_sentences(page, SENTENCES, args.delay_ms)
        measured, errors = latencies(page)[skip:], page.errors
    if errors:
        raise RuntimeError(f"the page's script failed: {errors[0]}")
    return dict(keys=percentiles(measured), latencies=measured)


def type_sentences(page, sentences, delay_ms: float) -> None:
    """Draw each prompt letter by letter, keep its picture, and type the instruction."""
    box = page.locator(".hb-text")
    for prompt, instruction in sentences:
        for verb, words, said in (
            ("draw", prompt, say(parse(prompt))),
            ("edit", instruction, say_edit(parse_edit(instruction))),
        ):
            page.locator(f".hb-canvas input[value={verb}]").check()
            box.fill("")
            box.press_sequentially(words, delay=delay_ms, timeout=1000 * WAIT_S)
            page.wait_for_selector(f'.hb-canvas[data-shown="{said}"]', timeout=1000 * WAIT_S)
            page.wait_for_timeout(300)  # the last picture's time is taken after it is on the screen
            box.press("Enter")


def latencies(page) -> list[float]:
    """Milliseconds from a key to its picture, as the page measured them."""
    return json.loads(page.locator(".hb-canvas").get_attribute("data-latencies") or "[]")
