"""What speculation is judged by can tell right from wrong."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hb.eval import text as evaluate_text
from hb.eval.text import CHAIN, TREE, alpha, distribution_of_beginnings, read_scene
from hb.infer.artifacts import DraftCheckpoint, fingerprint
from hb.infer.pipeline import Model
from hb.infer.speculative import decode as module
from hb.infer.speculative.draft import DraftConfig
from hb.infer.speculative.verify import Verdict
from hb.models.distribution import TokenDistribution
from hb.world import benchmark as bench
from tests.infer.speculative.test_draft import shaken


@pytest.fixture(scope="module")
def model(tiny):
    draft = shaken(tiny, DraftConfig(layers=1))
    parcel = DraftCheckpoint(
        dict(layers=1, zero_init=False), {"0": dict(depth=3, budget=3)}, fingerprint(tiny.bagel), draft.state_dict()
    )
    return Model(tiny.bagel, tiny.text, draft=parcel)


@pytest.mark.parametrize(
    "tau, rate", [(3.6184, 0.7327), (3.7709, 0.7452), (2.8273, 0.6494), (3.6642, 0.7365), (3.4832, 0.7207)]
)
def test_alpha_is_the_papers(tau, rate):
    """Every row of Hyper-Bagel's table 1 follows from its other column, with ten guesses and the bonus counted."""
    assert alpha(tau, 10) == pytest.approx(rate, abs=6e-4)


def test_exact_laws_are_exact():
    errors = evaluate_text.exact_errors()
    assert set(errors) == {"point", "drawn", "removed"} and max(errors.values()) < 1e-12


@pytest.fixture
def short(monkeypatch):
    """Answers of 16 tokens at most: those of an untrained model go on to the limit."""
    cases = evaluate_text._cases
    monkeypatch.setattr(evaluate_text, "_cases", lambda limit: [(s, q, min(most, 16)) for s, q, most in cases(limit)])


def test_same_words_are_seen_to_be_the_same(model, short):
    got = evaluate_text.same_words(model, plans={"chain": CHAIN, "tree": TREE}, batches=(1, 3), limit=3, bar=False)
    assert got["prompts"] == 6 and len(got["rows"]) == 4
    assert all(row["different"] == [] for row in got["rows"])


def test_other_words_are_seen_to_be_others(model, monkeypatch, short):
    """A verifier that keeps whatever was guessed first."""
    greedy = module.verify_greedy
    wrong = lambda tokens, parents, best: Verdict([0, 1], best[1]) if len(tokens) > 1 else greedy(tokens, parents, best)
    monkeypatch.setattr(module, "verify_greedy", wrong)
    got = evaluate_text.same_words(model, plans={"chain": CHAIN}, batches=(1,), limit=3, bar=False)
    assert len(got["rows"][0]["different"]) >= 3


@torch.no_grad()
def test_beginnings_have_the_probability_of_their_tokens(model):
    context, distribution = (
        read_scene(model, bench.description_set()[:1]).context,
        TokenDistribution(temperature=0.7, top_k=4),
    )
    exact = distribution_of_beginnings(model, context, distribution, length=2, least=0.0001)
    assert sum(exact.values()) == pytest.approx(1.0, abs=0.02)
    path = max(exact, key=exact.get)
    hidden, context = model.bagel.read_ids(context, torch.tensor([[model.bagel.markers[0]]]))
    first = distribution(model.bagel.logits(hidden[:, -1]), [[]])[0, path[0]]
    hidden, _ = model.bagel.read_ids(context, torch.tensor([[path[0]]]))
    assert exact[path] == pytest.approx(
        float(first * distribution(model.bagel.logits(hidden[:, -1]), [[path[0]]])[0, path[1]]), rel=1e-4
    )


def test_chi_square_sees_a_wrong_law(model, monkeypatch):
    distribution = TokenDistribution(temperature=0.3, top_k=4)
    plans = {"tree": replace(TREE, depth=2, budget=6)}
    options = dict(plans=plans, pictures=1, draws=300, length=2, distribution=distribution, bar=False)
    assert evaluate_text.chi_square(model, **options)[0]["p_value"] > 0.001
    honest = module.verify
    flat = lambda tokens, parents, p, **more: honest(tokens, parents, ((p > 0) / (p > 0).sum(-1, keepdim=True)), **more)
    monkeypatch.setattr(module, "verify", flat)
    assert evaluate_text.chi_square(model, **options)[0]["p_value"] < 1e-6


def test_small_cells_are_put_together_and_nothing_is_lost():
    seen, wanted = evaluate_text._merged([50, 1, 2, 47], [48.0, 2.0, 1.0, 49.0])
    assert seen.sum() == 100 and wanted.sum() == 100 and (wanted >= 5).all()


def test_a_race_compares_with_plain_and_counts_all_methods(model):
    (task, *_) = evaluate_text.tasks(model, 2, (0.0,))
    ways = evaluate_text.methods(model, {"chain": replace(CHAIN, depth=2, budget=2)}, generate=True)
    got = evaluate_text.race(replace(task, most=8), ways, rounds=1, bar=False)
    assert set(got) == {"plain", "prompt lookup", "transformers, assisted by prompt lookup", "chain"}
    assert got["plain"]["ratio"] == 1.0 and got["plain"]["tau"] == 1.0
    assert np.isclose(sum(got["chain"]["shares"].values()), 1, atol=0.01)
