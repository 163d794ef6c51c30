"""Speculation changes how many passes it takes, never a word: whatever the draft guesses, alone or among other rows."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from hb.infer.fused import FastText, decode_fast
from hb.infer.speculative import decode as module
from hb.infer.speculative.decode import Decoded, Governor, VerifyStep, decode_speculative
from hb.infer.speculative.draft import DraftConfig
from hb.infer.speculative.plan import Plan
from hb.infer.speculative.runner import AcceptedTokens, DraftModel
from hb.infer.speculative.tree import Tree, root_only
from hb.models.distribution import TokenDistribution
from tests.infer.speculative.test_draft import read, shaken

PLANS = [
    Plan(depth=0),
    Plan(depth=1, budget=1),
    Plan(depth=6, budget=6),
    Plan(depth=4, width=3, budget=9),
    Plan(depth=4, width=3, budget=9, reward=1.5, start_after=3),
    Plan(depth=5, width=3, budget=9, main_path=True),
    Plan(depth=5, width=2, budget=9, main_path=True, reward=1.5),
]
QUESTIONS = ["describe the picture", "how many?", "what color is the star in the picture?"]


@pytest.fixture(scope="module")
def parts(tiny):
    return FastText(tiny.bagel), DraftModel(shaken(tiny, DraftConfig(layers=1)), tiny.bagel)


class Prompter:
    """A draft that knows the answer and spoils it: of every row's continuation, and of false ones, it makes a tree."""

    def __init__(self, answers, seed=0):
        self.answers, self.rng = answers, np.random.default_rng(seed)

    def __call__(self, fast, batch, room):
        return self

    def absorb(self, sure):
        pass

    def grow(self, root, plan, distribution=None, said=(), limit=None):
        depth = min(plan.depth, limit)
        n = 2 * depth + 1
        tokens, parents, level = (np.zeros((len(root), n), np.int64) for _ in range(3))
        tokens[:, 0] = root
        for row, answer in enumerate(self.answers):
            ahead = answer[len(said[row]) :] + [0] * depth
            right = self.rng.integers(0, depth + 1)  # so many of the guesses are right
            above = 0
            for d in range(depth):  # two brothers at every depth, behind the first or the second of the level above
                first, second = 1 + 2 * d, 2 + 2 * d
                true_first = self.rng.random() < 0.5
                truth = ahead[d] if d < right else 7
                tokens[row, [first, second]] = (truth, 8) if true_first else (8, truth)
                parents[row, [first, second]] = above
                level[row, [first, second]] = d + 1
                above = first if true_first else second
        as_tensor = lambda a: torch.from_numpy(a)
        return Tree(as_tensor(tokens), as_tensor(parents), as_tensor(level), torch.zeros(len(root), n))


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("rows", [1, 3])
def test_greedy_words_are_those_of_plain_decoding(tiny, parts, plan, rows):
    state = read(tiny, QUESTIONS[:rows])
    wanted, _ = decode_fast(parts[0], state.context, max_tokens=20)
    assert decode_speculative(*parts, state, plan=plan, max_tokens=20).tokens == wanted


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "distribution", [TokenDistribution(), TokenDistribution(repetition_penalty=1.5)], ids=["greedy", "with memory"]
)
def test_words_stay_whatever_is_right_or_wrong_in_each_row(tiny, parts, monkeypatch, rows, seed, distribution):
    state = read(tiny, QUESTIONS[:rows])
    wanted, plain = decode_fast(parts[0], state.context, max_tokens=24, distribution=distribution)
    monkeypatch.setattr(module, "DraftRunner", Prompter(wanted, seed))
    plan = Plan(depth=5, width=2, budget=10, start_after=0, costs=(0.0, 0.0, 0.0))
    got = decode_speculative(*parts, state, plan=plan, max_tokens=24, distribution=distribution)
    assert got.tokens == wanted
    assert got.passes < plain and got.acceptance_length > 1.2  # or the guesses were never kept, and nothing was tested


class Listener(Prompter):
    """A draft that hears everything and guesses nothing."""

    def absorb(self, sure):
        self.answers.append(sure)

    def grow(self, root, plan, distribution=None, said=(), limit=None):
        return root_only(root)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("late", [1, 2, 5])
def test_a_draft_that_begins_late_has_missed_nothing(tiny, parts, monkeypatch, rows, late):
    state, heard = read(tiny, QUESTIONS[:rows]), []
    for start in (0, late):
        monkeypatch.setattr(module, "DraftRunner", Listener([]))
        spoken = decode_speculative(*parts, state, plan=Plan(start_after=start), max_tokens=8)
        assert spoken.passes > late, "the answer is too short to test anything"
        heard.append(AcceptedTokens.joined(module.DraftRunner.answers))
    for name in ("hidden_states", "following", "positions", "next_positions"):
        torch.testing.assert_close(*(getattr(sure, name) for sure in heard))


@pytest.mark.parametrize("most", [1, 2, 5])
def test_an_answer_is_no_longer_than_allowed(tiny, parts, monkeypatch, most):
    state = read(tiny, QUESTIONS[:1])
    wanted, _ = decode_fast(parts[0], state.context, max_tokens=most)
    longer, _ = decode_fast(parts[0], state.context, max_tokens=24)
    monkeypatch.setattr(module, "DraftRunner", Prompter(longer))
    got = decode_speculative(*parts, state, plan=Plan(depth=5, width=2, budget=10, start_after=0), max_tokens=most)
    assert got.tokens == wanted and sum(k for c in got.cycles for k in c.kept) <= most


@pytest.mark.parametrize(
    "plan",
    [Plan(depth=2, width=2, budget=4, start_after=0), Plan(depth=2, budget=2, start_after=0, rule="drawn")],
    ids=["tree", "drawn chain"],
)
def test_sampled_words_follow_the_target_law(tiny, parts, plan):
    """The first two tokens, with top-k 3 so that nine pairs hold all there is: counted and compared with the exact
    distribution."""
    fast, draft = parts
    state = read(tiny, QUESTIONS[:1])
    distribution, n = TokenDistribution(temperature=1.3, top_k=3), 600
    many = read(tiny, QUESTIONS[:1])
    rows = torch.zeros(n, dtype=torch.long)
    many = type(state)(state.context.select(rows), [t[rows] for t in state.hidden_states], state.positions[rows])
    got = decode_speculative(
        fast,
        draft,
        many,
        plan=plan,
        max_tokens=2,
        distribution=distribution,
        generator=torch.Generator().manual_seed(5),
    )
    exact = exact_pairs(tiny, state, distribution)
    end = fast.markers[1]
    seen = [tuple((row + [end, end])[:2]) if len(row) < 2 else tuple(row) for row in got.tokens]
    pairs = sorted(exact, key=exact.get, reverse=True)
    counts = np.array([seen.count(p) for p in pairs])
    assert counts.sum() == n
    expected = np.array([exact[p] for p in pairs]) * n
    assert chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-3


@torch.no_grad()
def exact_pairs(model, state, distribution) -> dict[tuple[int, int], float]:
    bagel = model.bagel
    start, end = bagel.markers[:2]
    hidden, context = bagel.read_ids(state.context, torch.tensor([[start]]))
    first, out = distribution(bagel.logits(hidden[:, -1]), [[]])[0], {}
    for a in first.nonzero()[:, 0].tolist():
        if a == end:
            out[(end, end)] = float(first[a])
            continue
        hidden, _ = bagel.read_ids(context, torch.tensor([[a]]))
        second = distribution(bagel.logits(hidden[:, -1]), [[a]])[0]
        for b in second.nonzero()[:, 0].tolist():
            out[(a, b)] = float(first[a] * second[b])
    return out


def test_a_draft_that_does_not_pay_pauses_longer_and_longer():
    governor = Governor(Plan(depth=5, budget=5))
    drafted = []
    for _ in range(200):
        now = governor.drafts_now()
        drafted.append(now)
        if now:
            governor.update(5, 5, [1])
    assert sum(drafted) <= 10 and not any(drafted[-20:])
    good = Governor(Plan(depth=5, budget=5))
    for _ in range(50):
        assert good.drafts_now()
        good.update(5, 5, [6])


def test_acceptance_by_depth_and_length():
    spoken = Decoded(
        [[1]], [VerifyStep(2, 2, [3]), VerifyStep(2, 2, [1]), VerifyStep(2, 2, [2]), VerifyStep(0, 0, [1])]
    )
    assert spoken.acceptance_length == 7 / 4
    assert spoken.acceptance() == [2 / 3, 1 / 2]


def test_the_engine_speaks_the_same_words_with_a_draft(tiny):
    from hb.infer.artifacts import DraftCheckpoint, fingerprint
    from hb.infer.pipeline import Model

    draft = shaken(tiny, DraftConfig(layers=1))
    parcel = DraftCheckpoint(
        dict(layers=1, zero_init=False),
        {"0": dict(depth=3, budget=3), "1.0": dict(depth=0)},
        fingerprint(tiny.bagel),
        draft.state_dict(),
    )
    model = Model(tiny.bagel, tiny.text, draft=parcel)
    picture = torch.rand(3, 64, 64)
    plain = model.ask(picture, "describe the picture", max_tokens=10, speculate=False)
    ahead = model.ask(picture, "describe the picture", max_tokens=10)
    assert plain.texts == ahead.texts and ahead.cycles and not plain.cycles
    assert not model.ask(picture, "what?", max_tokens=4, temperature=1.2).cycles  # the plan for 1.0 says: plainly
    with pytest.raises(ValueError, match="hb train draft"):
        tiny.ask(picture, "what?", speculate=Plan())
