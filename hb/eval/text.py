"""Is speculation lossless, and is it fast? Both measured on the real model, against an equally optimised plain loop.

Every method takes every question in turn, in one run, so a noisy machine is equally noisy for all. Time counts from
the end of the target's own reading of picture and question, which all share; what a draft needs before its first
guess is its own cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
import torch
from scipy.stats import chi2
from tqdm import tqdm

from hb.eval import stats
from hb.eval.speed import clock
from hb.infer.fused import decode_fast
from hb.infer.pipeline import Model
from hb.infer.speculative.decode import Decoded, Prefill, VerifyStep, decode_speculative
from hb.infer.speculative.exact import TINY_DRAFT, TINY_TARGET, emitted_distribution, largest_error, target_distribution
from hb.infer.speculative.lookup import decode_with_lookup
from hb.infer.speculative.plan import Plan
from hb.infer.speculative.runner import DraftModel
from hb.infer.speculative.verify import RULES
from hb.models.distribution import GREEDY, TokenDistribution
from hb.models.hf_generation import AnswerModel
from hb.models.kv_cache import KVCache
from hb.world import benchmark as bench
from hb.world.language import DESCRIBE_REQUEST
from hb.world.render import render

CHAIN = Plan(depth=10, width=1, budget=10, start_after=0, pauses=False)  # the paper's setting
TREE = Plan(depth=6, width=3, budget=16, start_after=0, pauses=False)


# ---- losslessness ---------------------------------------------------------------------------------------------------


def same_words(
    model: Model, *, plans: dict[str, Plan], batches: Sequence[int] = (1, 8), limit: int | None = None, bar: bool = True
) -> dict:
    """Greedy: every question and description of the frozen sets, plain and speculated; which answers differ?

    Cases of one batch have one kind; plain decoding is one row at a time, so batches are checked too.
    """
    cases = _cases(limit)
    fast, draft = model.fast_text(), model.fast_draft()
    plain = []
    for scene, question, most in tqdm(cases, desc="plain", disable=not bar, leave=False):
        read = read_scene(model, [scene], [question])
        plain.append(decode_fast(fast, read.context, max_tokens=most)[0][0])
    rows = []
    for (name, plan), batch in product(plans.items(), batches):
        different, passes, tokens = [], 0, 0
        for at in tqdm(range(0, len(cases), batch), desc=f"{name}, {batch} at once", disable=not bar, leave=False):
            part = cases[at : at + batch]
            most = max(m for _, _, m in part)
            speculated = decode_speculative(
                fast,
                draft,
                read_scene(model, [s for s, _, _ in part], [q for _, q, _ in part]),
                plan=plan,
                max_tokens=most,
            )
            for i, got in enumerate(speculated.tokens):
                if got[: len(plain[at + i])] != plain[at + i] or len(got) != len(plain[at + i]) < part[i][2]:
                    different.append(at + i)
            passes += sum(len(c.kept) for c in speculated.cycles)
            tokens += sum(sum(c.kept) for c in speculated.cycles)
        rows.append(
            dict(plan=name, batch=batch, prompts=len(cases), different=different, tau=round(tokens / passes, 3))
        )
    return dict(rows=rows, prompts=len(cases))


def _cases(limit: int | None) -> list[tuple[object, str, int]]:
    """(scene, question, longest answer): all descriptions, then all questions."""
    told = [(s, DESCRIBE_REQUEST, 128) for s in bench.description_set()]
    asked = [(c.scene, c.question.text, 12) for c in bench.question_set()]
    return told[:limit] + asked[:limit]


def read_scene(model: Model, scenes, questions: Sequence[str] | None = None) -> Prefill:
    """Pictures of these scenes and a question about each, read; without questions, a description is asked for."""
    questions = [DESCRIBE_REQUEST] * len(scenes) if questions is None else questions
    return model.read_for_asking(render(list(scenes), model.bagel.config.picture_side) * 2 - 1, questions)


def exact_errors() -> dict[str, float]:
    """For each rule the largest error of the emitted distribution, by enumeration: over shapes of trees and
    processors."""
    distributions = (
        TokenDistribution(1.0),
        TokenDistribution(0.7),
        TokenDistribution(1.5),
        TokenDistribution(0.0),
        TokenDistribution(1.0, top_k=2),
        TokenDistribution(1.0, top_p=0.8),
    )
    shapes = {(1, 1): 4, (2, 2): 4, (3, 1): 4}  # and how many tokens are followed: into the next cycle
    out = {}
    for rule in RULES:
        out[rule] = max(
            largest_error(
                emitted_distribution(
                    TINY_TARGET, TINY_DRAFT, rule=rule, shape=shape, length=length, distribution=distribution
                ),
                target_distribution(TINY_TARGET, length, distribution),
            )
            for (shape, length), distribution in product(shapes.items(), distributions)
        )
    return out


@torch.no_grad()
def distribution_of_beginnings(
    model: Model, context: KVCache, distribution: TokenDistribution, *, length: int = 4, least: float = 0.01
) -> dict[tuple, float]:
    """Exact probabilities of the likely first tokens of an answer: every beginning of `length` tokens (or shorter and
    ended) whose own probability is at least `least`. What is missing from 1 are the others."""
    start, end = model.bagel.markers[:2]
    out: dict[tuple, float] = {}

    def extend(context: KVCache, token: int, before: tuple, chance: float):
        hidden, context = model.bagel.read_ids(context, torch.tensor([[token]]))
        after = distribution(model.bagel.logits(hidden[:, -1]).float().cpu(), [list(before)])[0].double() * chance
        for token in (after >= least).nonzero()[:, 0].tolist():
            path = (*before, token)
            if token == end or len(path) == length:
                out[path] = float(after[token])
            else:
                extend(context, token, path, float(after[token]))

    extend(context, start, (), 1.0)
    return out


def chi_square(
    model: Model,
    *,
    plans: dict[str, Plan],
    pictures: int = 4,
    draws: int = 600,
    length: int = 4,
    seed: int = 0,
    distribution: TokenDistribution = TokenDistribution(temperature=1.0),
    bar: bool = True,
) -> list[dict]:
    """At a temperature the real model's answers must follow the target's distribution: the first tokens of many
    answers, counted and compared with exact probabilities. One statistic per plan, over all pictures."""
    fast, draft = model.fast_text(), model.fast_draft()
    end = model.bagel.markers[1]
    out = []
    for name, plan in plans.items():
        statistic = freedom = accepted = passes = 0
        for number, scene in enumerate(
            tqdm(bench.description_set()[:pictures], desc=f"chi-square, {name}", disable=not bar, leave=False)
        ):
            read = read_scene(model, [scene])
            exact = distribution_of_beginnings(model, read.context, distribution, length=length)
            rows = torch.zeros(draws, dtype=torch.long)
            many = Prefill(read.context.select(rows), [t[rows] for t in read.hidden_states], read.positions[rows])
            generator = torch.Generator().manual_seed(seed * 1000 + number)
            answers = decode_speculative(
                fast, draft, many, plan=plan, max_tokens=length, distribution=distribution, generator=generator
            )
            begun = [tuple(row) if len(row) == length else (*row, end) for row in answers.tokens]
            counted = [begun.count(path) for path in exact]
            expected = [p * draws for p in exact.values()]
            counted, expected = [*counted, draws - sum(counted)], [*expected, draws - sum(expected)]
            counted, expected = _merged(counted, expected)
            statistic += float(((counted - expected) ** 2 / expected).sum())
            freedom += len(expected) - 1
            passes += sum(len(c.kept) for c in answers.cycles)
            accepted += sum(sum(c.kept) for c in answers.cycles)
        p = float(chi2.sf(statistic, freedom)) if freedom else 1.0
        out.append(
            dict(
                plan=name,
                statistic=round(statistic, 2),
                freedom=freedom,
                p_value=round(p, 4),
                draws=draws * pictures,
                tau=round(accepted / passes, 3),
            )
        )
    return out


def _merged(counted: list[float], expected: list[float], least: float = 5.0) -> tuple[np.ndarray, np.ndarray]:
    """Cells with fewer than `least` expected counts put together, as the test asks."""
    small = [i for i, w in enumerate(expected) if w < least]
    big = [i for i in range(len(expected)) if i not in small]
    cells = [[i] for i in big]
    if small:
        if sum(expected[i] for i in small) >= least or not cells:
            cells.append(small)
        else:
            cells[int(np.argmin([expected[i] for i in big]))] += small
    return np.array([sum(counted[i] for i in c) for c in cells], float), np.array(
        [sum(expected[i] for i in c) for c in cells]
    )


# ---- speed ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """Questions of one kind, and how the words are drawn. rounds: times that each is answered; answers of two words
    are over in milliseconds, and need more of them for the same interval."""

    name: str
    reads: list[Callable[[], Prefill]] = field(repr=False)
    most: int = 128
    distribution: TokenDistribution = GREEDY
    rounds: int = 2


def tasks(model: Model, n: int, temperatures: Sequence[float], batch: int = 1) -> list[Task]:
    """Dense descriptions at each temperature, short answers, and a question from outside the tiny world."""
    scenes, questions = bench.description_set()[: n * batch], bench.question_set()
    step = max(1, len(questions) // (n * batch))  # of every kind
    asked = questions[::step][: n * batch]
    group = lambda cases, make: [lambda part=cases[i : i + batch]: make(part) for i in range(0, len(cases), batch)]
    told = group(scenes, lambda part: read_scene(model, part))
    short = group(asked, lambda part: read_scene(model, [c.scene for c in part], [c.question.text for c in part]))
    foreign = group(scenes, lambda part: read_scene(model, part, [FOREIGN] * len(part)))
    out = [
        Task(
            "descriptions" + (f", temperature {t:g}" if t else ""), told, distribution=TokenDistribution(temperature=t)
        )
        for t in temperatures
    ]
    return [*out, Task("short answers", short, most=12, rounds=12), Task("out of domain", foreign, most=48, rounds=12)]


FOREIGN = "Compose, in three verses, a lament for the last steam engine of the valley."

Method = Callable[[Prefill, int, TokenDistribution, torch.Generator], Decoded]


def methods(
    model: Model, plans: dict[str, Plan], eagle3: DraftModel | None = None, generate: bool = False
) -> dict[str, Method]:
    """Ways to decode, by name. "plain" is what the others are compared with. generate: `transformers` too, greedy, one
    row."""
    fast, draft = model.fast_text(), model.fast_draft()

    def with_draft(used: DraftModel, plan: Plan) -> Method:
        return lambda read, most, distribution, generator: decode_speculative(
            fast, used, read, plan=plan, max_tokens=most, distribution=distribution, generator=generator
        )

    def plain(read, most, distribution, generator):
        rows, passes = decode_fast(fast, read.context, max_tokens=most, distribution=distribution, generator=generator)
        return Decoded.plainly(rows, passes, most)

    out: dict[str, Method] = {"plain": plain}
    out["prompt lookup"] = lambda read, most, distribution, generator: decode_with_lookup(
        fast, read, max_tokens=most, distribution=distribution, generator=generator
    )
    if generate:
        out["transformers, assisted by prompt lookup"] = _with_generate(AnswerModel(model.bagel))
    if eagle3 is not None:
        out["EAGLE-3 chain"] = with_draft(eagle3, replace(plans["chain"], start_after=0))
    return out | {name: with_draft(draft, plan) for name, plan in plans.items()}


def _with_generate(answers: AnswerModel) -> Method:
    def method(read, most, distribution, generator):
        before = answers.passes
        row = answers.say(read.context, max_new_tokens=most, do_sample=False, prompt_lookup_num_tokens=10)
        spoken = Decoded.plainly([row], answers.passes - before, most)
        # it does not tell what each pass gave: the first is credited with all that is more than one
        more = min(len(row) + 1, most) - spoken.passes
        return Decoded([row], [VerifyStep(0, 0, [1 + more]), *spoken.cycles[1:]])

    return method


def race(
    task: Task, ways: dict[str, Method], *, rounds: int | None = None, seed: int = 0, bar: bool = True
) -> dict[str, dict]:
    """Every method answers every question of the task, `rounds` times or as often as the task says, in varying order.
    Per method: tokens a second, ratio to plain with a BCa interval over questions, tau, acceptance by depth, share
    of the time drafting."""
    names, order = list(ways), np.random.default_rng(seed)
    seconds = np.zeros((len(names), len(task.reads)))
    tokens = np.zeros_like(seconds)
    answers: dict[str, list[Decoded]] = {name: [] for name in names}
    for number, make in enumerate(tqdm(task.reads, desc=task.name, disable=not bar, leave=False)):
        read = make()
        for turn in range((rounds or task.rounds) + 1):  # the first is to warm up
            for k in order.permutation(len(names)):
                generator = torch.Generator().manual_seed(seed + 1000 * turn + number)
                began = clock()
                answer = ways[names[k]](read, task.most, task.distribution, generator)
                spent = clock() - began
                if turn:
                    seconds[k, number] += spent
                    tokens[k, number] += sum(sum(c.kept) for c in answer.cycles)
                    answers[names[k]].append(answer)
    plain = names.index("plain")
    return {
        name: _summary(answers[name], seconds[k], tokens[k], seconds[plain], tokens[plain])
        for k, name in enumerate(names)
    }


def _summary(answers: list[Decoded], seconds, tokens, plain_seconds, plain_tokens) -> dict:
    def ratio(at) -> np.ndarray:
        """Seconds a token of plain decoding over ours, on the questions `at`: [..., n]."""
        mine, plain = (a[at].sum(-1) / b[at].sum(-1) for a, b in ((seconds, tokens), (plain_seconds, plain_tokens)))
        return plain / mine

    whole = np.arange(len(seconds))
    low, high = stats.bca([len(seconds)], lambda at: ratio(at[0]), seed=9) or (None, None)
    merged = Decoded([], [c for a in answers for c in a.cycles])
    parts: dict[str, float] = {}
    for answer in answers:
        for part, spent in answer.seconds.items():
            parts[part] = parts.get(part, 0.0) + spent
    total = max(sum(parts.values()), 1e-9)
    return dict(
        tokens_per_second=round(float(tokens.sum() / seconds.sum()), 2),
        ratio=round(float(ratio(whole)), 4),
        low=low and round(low, 4),
        high=high and round(high, 4),
        tau=round(merged.acceptance_length, 3),
        passes_per_answer=round(sum(a.passes for a in answers) / len(answers), 2),
        acceptance=[round(a, 3) for a in merged.acceptance()[:10]],
        shares={part: round(spent / total, 3) for part, spent in parts.items()},
        answers=len(answers),
    )


def alpha(tau: float, guesses: int) -> float:
    """The single rate that gives tau over a chain of so many guesses: tau = (1 - a^(g+1)) / (1 - a) (method.md,
    4.1)."""
    low, high = 0.0, 1.0 - 1e-12
    for _ in range(80):
        middle = (low + high) / 2
        length = (1 - middle ** (guesses + 1)) / (1 - middle)
        low, high = (middle, high) if length < tau else (low, middle)
    return low
