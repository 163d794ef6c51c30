"""Understanding: exact match of answers, and descriptions read back into scenes (metrics.md section 1)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from hb.eval.cache import Progress, key_of
from hb.eval.protocol import BATCH
from hb.eval.stats import Share, clustered_share
from hb.infer.pipeline import Model
from hb.world import benchmark as bench
from hb.world.language import DESCRIBE_REQUEST, described_right, parse_description
from hb.world.render import render


def understand_eval(model: Model, *, keep: Path | None = None, bar: bool = True) -> dict:
    """Exact match of answers, by kind; of descriptions recall and precision of things, each description a cluster."""
    answers, told = _answers(model, keep, bar), _descriptions(model, keep, bar)
    kinds = {kind: [r["right"] for r in answers if r["kind"] == kind] for kind in sorted({r["kind"] for r in answers})}
    column = lambda name: [row[name] for row in told]
    return dict(
        answers=Share(sum(r["right"] for r in answers), len(answers)).to_dict(),
        kinds={kind: Share(sum(right), len(right)).to_dict() for kind, right in kinds.items()},
        recall=clustered_share(column("found"), column("true")).to_dict(),
        precision=(clustered_share(column("found"), column("told")) if any(column("told")) else Share(0, 1)).to_dict(),
        background=Share(sum(column("background")), len(told)).to_dict(),
        verdicts={kind: "".join(map(str, right)) for kind, right in kinds.items()},
        descriptions={name: [int(v) for v in column(name)] for name in ("found", "true", "told", "background")},
        rows=answers,
        told=told,
    )


def _answers(model: Model, keep: Path | None, bar: bool) -> list[dict]:
    cases, side = bench.question_set(), model.bagel.config.picture_side

    def work(numbers: list[int]) -> list[dict]:
        chosen = [cases[i] for i in numbers]
        output = model.ask(render([c.scene for c in chosen], side), [c.question.text for c in chosen], max_tokens=12)
        return [
            dict(kind=c.question.kind, right=int(text.strip() == c.question.answer), said=text, truth=c.question.answer)
            for c, text in zip(chosen, output.texts)
        ]

    asked = [f"{c.scene}: {c.question.text} {c.question.answer}" for c in cases]
    return Progress(keep, key_of(model, "answers", "ask", cases=asked)).run(len(cases), BATCH, work, "asking", bar)


def _descriptions(model: Model, keep: Path | None, bar: bool) -> list[dict]:
    scenes, side = bench.description_set(), model.bagel.config.picture_side

    def work(numbers: list[int]) -> list[dict]:
        chosen = [scenes[i] for i in numbers]
        output = model.ask(render(chosen, side), DESCRIBE_REQUEST, max_tokens=128)
        matches = [described_right(parse_description(text), scene) for text, scene in zip(output.texts, chosen)]
        return [dict(asdict(m), text=t) for m, t in zip(matches, output.texts)]

    key = key_of(model, "descriptions", "ask", cases=[f"{DESCRIBE_REQUEST} {s}" for s in scenes])
    return Progress(keep, key).run(len(scenes), BATCH, work, "describing", bar)
