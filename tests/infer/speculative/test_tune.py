"""The cost model is arithmetic, a worthless draft is turned off, and lookups find what was said before."""

from dataclasses import replace

import pytest
import torch

from hb.infer.fused import FastText, decode_fast
from hb.infer.speculative import decode as module
from hb.infer.speculative import tune as tuning
from hb.infer.speculative.draft import DraftConfig
from hb.infer.speculative.lookup import Lookup, decode_with_lookup
from hb.infer.speculative.plan import Plan
from hb.infer.speculative.runner import DraftModel
from hb.infer.speculative.tune import DEEPEST, Costs, acceptance_table, all_plans, expected_tokens, race, tune
from tests.infer.speculative.test_decode import Prompter
from tests.infer.speculative.test_draft import read, shaken

COSTS = Costs(target={n: 1.0 + 0.05 * (n - 1) for n in (1, 2, 4, 8, 16, 32)}, step={1: 0.1, 2: 0.2, 4: 0.3}, cycle=0.5)


@pytest.fixture(scope="module")
def parts(tiny):
    return FastText(tiny.bagel), DraftModel(shaken(tiny, DraftConfig(layers=1)), tiny.bagel)


def test_a_chain_gives_the_geometric_sum():
    table = torch.zeros(DEEPEST, 4)
    table[:, 0], table[:, 1] = 0.7, 0.1
    chain = (1 - 0.7**6) / 0.3
    hoped = lambda **plan: expected_tokens(table, Plan(depth=5, **plan))
    assert hoped(width=1, budget=5) == pytest.approx(chain)
    assert hoped(width=2, budget=10) == pytest.approx((1 - 0.8**6) / 0.2)
    assert hoped(width=2, budget=5) == hoped(width=1, budget=5)  # no budget for a second guess
    # a leaf is reached as often as its brother, and nothing comes behind it
    assert hoped(width=2, budget=10, main_path=True) == pytest.approx(chain + 0.1 * (1 - 0.7**5) / 0.3)
    assert hoped(width=2, budget=5, main_path=True) == pytest.approx(chain)


def test_costs_add_up_and_come_in_plain_steps():
    plan = Plan(depth=4, width=2, budget=7)
    assert COSTS.of(plan) == pytest.approx(1.35 + 0.5 + 3 * 0.2)
    assert COSTS.of(replace(plan, main_path=True)) == pytest.approx(1.35 + 0.5 + 3 * 0.1)  # a level is a chain's
    assert COSTS.node() == pytest.approx(0.05)
    plan = replace(plan, costs=COSTS.in_plain_steps(plan))
    assert plan.cost(4, 7) == pytest.approx(COSTS.of(plan) / COSTS.plain)


def test_another_level_is_worth_it_until_its_cost_is_more():
    plan = Plan(reward=2.0, costs=(0.2, 0.4, 0.05))
    assert plan.is_worth(torch.tensor([0.51])) and not plan.is_worth(torch.tensor([0.49]))
    tree = Plan(depth=4, width=2, budget=12, reward=2.0, costs=(0.2, 0.4, 0.05))  # three nodes a level
    assert tree.is_worth(torch.tensor([0.71])) and not tree.is_worth(torch.tensor([0.69]))
    assert Plan(reward=0.0).is_worth(torch.tensor([0.0]))


@pytest.fixture
def no_clock(monkeypatch):
    """Races are run, but timed by the plans' own costs: a busy machine must not fail a test."""
    real = tuning.race

    def race(fast, draft, reads, plans, *args, **more):
        return [
            (tau / p.cost(p.depth, p.budget), tau)
            for p, (_, tau) in zip(plans, real(fast, draft, reads, plans, *args, **more))
        ]

    monkeypatch.setattr(tuning, "race", race)


def test_a_worthless_draft_is_turned_off(tiny, parts, no_clock):
    tuned = tune(*parts, [read(tiny, ["describe the picture"])], finalists=2)
    assert tuned.plan.depth == 0 and all(t.tau < 1.5 for t in tuned.trials)


def test_a_perfect_draft_is_found_right_at_every_depth(tiny, parts, monkeypatch):
    """What the table counts: here the draft's likeliest word is made the target's at every other token."""
    state = read(tiny, ["describe the picture"])
    answer = [parts[0].markers[0], *decode_fast(parts[0], state.context, max_tokens=20)[0][0]]
    calls = iter(range(10**6))

    def log_q(a, distribution, before):
        out = torch.zeros(*a.shape[:-1], parts[0].config.vocab_size)
        depth = next(calls) % DEEPEST
        out[..., (answer[1:] + [parts[0].markers[1]] + [0] * 40)[1 + depth]] = 9.0 if depth % 2 == 0 else -9.0
        return out.log_softmax(-1)

    monkeypatch.setattr(parts[1], "log_q", log_q)
    table = acceptance_table(*parts, [state], every=1000, most=20)
    right = min(DEEPEST, len(answer) - 2)
    assert table[:right, 0].tolist() == [float(d % 2 == 0) for d in range(right)]


def test_racing_counts_all_tokens_of_all_rounds(tiny, parts, monkeypatch):
    state = read(tiny, ["describe the picture"])
    wanted, _ = decode_fast(parts[0], state.context, max_tokens=24)
    monkeypatch.setattr(module, "DraftRunner", Prompter(wanted))
    good = Plan(depth=5, width=2, budget=10, start_after=0, costs=(0.0, 0.0, 0.0))
    ((_, tau), (_, plain)) = race(*parts, [state], [good, Plan(depth=0)], most=24)
    assert tau > 1.2 and plain == 1.0


def test_the_grid_holds_chains_and_trees():
    plans = all_plans()
    assert len(set(plans)) == len(plans) > 30 and {p.width for p in plans} == {1, 2, 4}
    assert {p.main_path for p in plans} == {True, False}


@pytest.mark.parametrize(
    "said, texts, wanted",
    [
        ([1, 2, 3, 9, 1, 2], [], [3, 9, 1]),
        ([1, 2, 3, 1, 2, 4, 1, 2], [], [4, 1, 2]),  # the latest place counts
        ([5], [[4, 5, 6, 7]], [6, 7]),
        ([1, 2, 3], [], []),
        ([], [], []),
    ],
)
def test_lookup_finds_what_followed_before(said, texts, wanted):
    assert Lookup(texts=texts).find(said, 3) == wanted


def test_lookup_changes_no_word(tiny, parts):
    state = read(tiny, ["describe the picture", "how many?"])
    wanted, _ = decode_fast(parts[0], state.context, max_tokens=24)
    assert decode_with_lookup(parts[0], state, max_tokens=24).tokens == wanted


def test_drafting_begins_late_or_where_long_answers_begin():
    plan = Plan(start_after=3, long_after=(7, 9))
    assert not plan.begins([[]]) and not plan.begins([[5, 6]]) and plan.begins([[5, 6, 5]])
    assert plan.begins([[9]]) and not plan.begins([[5, 9]]) and plan.begins([[5], [7]])
    assert Plan(start_after=0).begins([[]])
    assert Plan.from_dict(dict(depth=2, costs=[1, 2, 3], long_after=[4])) == Plan(
        depth=2, costs=(1, 2, 3), long_after=(4,)
    )
