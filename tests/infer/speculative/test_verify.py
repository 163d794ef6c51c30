"""What is emitted is the target's own distribution: summed over all generator, to rounding. And what would not be is
noticed."""

from itertools import product

import pytest
import torch
from scipy.stats import chisquare

from hb.infer.speculative.exact import (
    HONEST,
    SABOTAGES,
    TINY_DRAFT,
    TINY_TARGET,
    World,
    cycle_lengths,
    emitted_distribution,
    largest_error,
    node_outcomes,
    propose,
    random_table,
    target_distribution,
    tokens_per_cycle,
)
from hb.infer.speculative.verify import RULES, children_of, node_distribution, verify, verify_greedy
from hb.models.distribution import TokenDistribution

ROUNDING = 1e-12
SHAPES = {(1, 1): 4, (1, 1, 1): 4, (2, 2): 3, (3, 1): 3}  # candidates at each depth -> tokens looked at
LAWS = {
    "greedy": TokenDistribution(),
    "0.7": TokenDistribution(temperature=0.7),
    "1": TokenDistribution(temperature=1.0),
    "1.5": TokenDistribution(temperature=1.5),
    "0.7, top-k": TokenDistribution(temperature=0.7, top_k=2),
    "1, top-p": TokenDistribution(temperature=1.0, top_p=0.8),
    "1.5, both": TokenDistribution(temperature=1.5, top_k=2, top_p=0.9),
}
each_rule = pytest.mark.parametrize("rule", RULES)
each_law = pytest.mark.parametrize("distribution", LAWS.values(), ids=LAWS)


def _law(size: int, seed: int, spread: float = 1.5) -> torch.Tensor:
    return random_table(size, seed=seed, distance=spread)(())


def _error(distribution=LAWS["1"], length=4, target=TINY_TARGET, draft=TINY_DRAFT, **how) -> float:
    return largest_error(
        emitted_distribution(target, draft, distribution=distribution, length=length, **how),
        target_distribution(target, length, distribution),
    )


# ---- the distribution of what is emitted
# -------------------------------------------------------------------------------------


@each_law
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "-".join(map(str, s)))
@each_rule
def test_output_law_is_the_target_law(rule, shape, distribution):
    assert _error(distribution, SHAPES[shape], rule=rule, shape=shape) < ROUNDING


@each_rule
def test_it_stays_the_target_law_into_the_second_cycle_of_a_tree(rule):
    assert _error(LAWS["0.7"], 4, rule=rule, shape=(2,)) < ROUNDING


@each_rule
def test_a_processor_with_memory_changes_nothing(rule):
    """The repetition penalty of a guess counts the guesses before it."""
    distribution = TokenDistribution(temperature=0.7, repetition_penalty=1.5)
    assert _error(distribution, rule=rule, shape=(1, 1)) < ROUNDING
    plain = target_distribution(TINY_TARGET, 4, LAWS["0.7"])
    assert largest_error(target_distribution(TINY_TARGET, 4, distribution), plain) > 1e-2


@each_rule
@pytest.mark.parametrize("seed", range(5))
def test_temperature_0_emits_the_greedy_sequence_whatever_the_draft(rule, seed):
    target, draft = random_table(4, seed=seed), random_table(4, seed=100 + seed)
    greedy = ()
    for _ in range(5):
        greedy += (int(target(greedy).argmax()),)
    for shape in ((1, 1, 1), (2, 2)):
        emitted = emitted_distribution(
            target, draft, rule=rule, shape=shape, length=5, distribution=TokenDistribution()
        )
        assert emitted[greedy] == 1 and emitted.sum() == 1


def _tree_outcomes(tokens, parents, p, rule, q):
    """What `verify` may return, as (path, token) -> probability."""
    out, todo = {}, [((0,), 1.0)]
    while todo:
        path, mass = todo.pop()
        children = children_of(parents)[path[-1]]
        q_here = None if q is None else q[path[-1]]
        distribution = node_distribution(p[path[-1]], [tokens[c] for c in children], rule, q_here)
        todo += [((*path, c), mass * float(a)) for c, a in zip(children, distribution.accept)]
        for x, b in enumerate((distribution.none * distribution.rest).tolist()):
            out[path, x] = mass * b
    return out


def _grown(world, shape, rule, choose):
    """A draft tree as `verify` wants it: tokens, parents, p, q, all nodes' candidates chosen by `choose(q, k)`."""
    tokens, parents, prefixes, last = [-1], [-1], [()], [0]
    for k in shape:
        level = []
        for node in last:
            for x in choose(world, prefixes[node], k, rule):
                level.append(len(tokens))
                tokens.append(x)
                parents.append(node)
                prefixes.append((*prefixes[node], x))
        last = level
    p, q = (torch.stack([f(prefix) for prefix in prefixes]) for f in (world.p, world.q))
    return tokens, parents, p, q, prefixes


def _tree_of(world, shape, rule, drawn):
    """The tree whose nodes' candidates, from the root down, are those in `drawn`."""
    drawn = iter(drawn)
    return _grown(world, shape, rule, lambda *_: next(drawn))


@each_rule
def test_whole_trees_summed_over_say_the_same_as_the_path_that_is_walked(rule):
    """Every tree that the draft may grow, drawn as a whole, walked by what `verify` does: no shortcut."""
    world, total = World(TINY_TARGET, TINY_DRAFT, LAWS["0.7"]), torch.zeros(3, 3, dtype=torch.float64)
    for first, chance in propose(world, (), 2, rule):
        for (left, a), (right, b) in product(*(list(propose(world, (x,), 1, rule)) for x in first)):
            tokens, parents, p, q, prefixes = _tree_of(world, (2, 1), rule, [first, left, right])
            for (path, x), mass in _tree_outcomes(tokens, parents, p, rule, q).items():
                said, weight = (*prefixes[path[-1]], x), chance * a * b * mass
                if (
                    len(said) == 1
                ):  # the next cycle says the second token; its distribution is the target's, as shown above
                    total[said[0]] += weight * world.p(said)
                else:
                    total[said[:2]] += weight
    assert largest_error(total, target_distribution(TINY_TARGET, 2, world.distribution)) < ROUNDING


# ---- one node -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_one_candidate_stays_with_1_minus_the_total_variation(seed):
    world = World(random_table(5, seed=seed), random_table(5, seed=seed + 50))
    p, q = world.p(()), world.q(())
    kept, said = node_outcomes(world, (), 1, "drawn")
    assert torch.allclose(kept.sum(), torch.minimum(p, q).sum())
    assert torch.allclose(kept.sum(), 1 - (p - q).abs().sum() / 2)
    assert torch.allclose(kept, torch.minimum(p, q)) and torch.allclose(kept + said, p)


@each_rule
@pytest.mark.parametrize("seed", range(10))
def test_another_candidate_is_kept_more_often(rule, seed):
    world = World(random_table(5, seed=seed), random_table(5, seed=seed + 50))
    chance = [float(node_outcomes(world, (), k, rule)[0].sum()) for k in (1, 2)]
    assert chance[0] < chance[1] <= 1 + ROUNDING


@pytest.mark.parametrize("rule", ["drawn", "removed"])
def test_a_draft_that_is_the_target_is_always_believed(rule):
    p = _law(5, 3)
    for x in range(5):
        distribution = node_distribution(p, [x], rule, p)
        assert distribution.accept[0] == 1 and distribution.none == 0
    assert tokens_per_cycle(TINY_TARGET, TINY_TARGET, rule=rule, shape=(1, 1, 1)) == pytest.approx(4)
    assert _error(draft=TINY_TARGET, rule=rule, shape=(2, 1)) < ROUNDING


@each_rule
def test_tokens_that_one_model_never_says(rule):
    p, q = torch.tensor([0.6, 0.4, 0.0]), torch.tensor([0.0, 0.5, 0.5])
    never = node_distribution(p, [2], rule, q)
    assert never.accept[0] == 0 and never.rest[2] == 0
    distribution = node_distribution(
        p, [0], rule, q
    )  # refused, unless the draft's distribution does not matter: it cannot have been drawn
    assert distribution.accept[0] == (p[0] if rule == "point" else 0) and distribution.rest.isfinite().all()
    target, draft = (lambda prefix, distribution=distribution: distribution.double() for distribution in (p, q))
    assert _error(target=target, draft=draft, rule=rule, shape=(2, 1)) < ROUNDING
    assert _error(target=draft, draft=target, rule=rule, shape=(2, 1)) < ROUNDING


@each_rule
def test_a_node_without_candidates_says_what_the_target_says(rule):
    p = _law(4, 0)
    distribution = node_distribution(p, [], rule, _law(4, 1))
    assert torch.equal(distribution.rest, p) and distribution.none == 1 and len(distribution.accept) == 0


def test_a_repeated_candidate_has_no_second_chance_as_a_point():
    distribution = node_distribution(torch.tensor([0.5, 0.3, 0.2]), [0, 0, 1], "point")
    assert torch.allclose(distribution.accept, torch.tensor([0.5, 0.0, 0.3]))
    assert torch.allclose(distribution.rest, torch.tensor([0.0, 0.0, 1.0]))


def test_rules_and_laws_that_are_missing_are_named():
    p = _law(3, 0)
    with pytest.raises(ValueError, match="no rule 'typical'; choose from point, drawn, removed"):
        node_distribution(p, [0], "typical")
    for rule in ("drawn", "removed"):
        with pytest.raises(
            ValueError, match=f"rule '{rule}' needs q, the distribution that the candidates were drawn from"
        ):
            node_distribution(p, [0], rule)


# ---- walking a tree -------------------------------------------------------------------------------------------------


def _random_tree(seed: int, rule: str, nodes: int = 9, size: int = 4):
    """Brothers differ where they are drawn without replacement."""
    generator = torch.Generator().manual_seed(seed)
    tokens, parents = [-1], [-1]
    while len(tokens) < nodes:
        x, parent = (int(torch.randint(n, (), generator=generator)) for n in (size, len(tokens)))
        if rule != "removed" or (x, parent) not in set(zip(tokens, parents)):
            tokens.append(x)
            parents.append(parent)
    best = torch.randint(size, (nodes,), generator=generator).tolist()
    return tokens, parents, best, torch.rand(nodes, size, generator=generator).softmax(-1)


def test_children_stand_in_order_under_their_parents():
    assert children_of([-1, 0, 0, 1, 0, 3]) == [[1, 2, 4], [3], [], [5], [], []]


@each_rule
def test_greedy_is_the_walk_on_one_hot_laws(rule):
    lengths = set()
    for seed in range(150):
        tokens, parents, best, q = _random_tree(seed, rule)
        p = torch.nn.functional.one_hot(torch.tensor(best), 4).float()
        quick = verify_greedy(tokens, parents, best)
        slow = verify(tokens, parents, p, rule=rule, q=q)
        assert (slow.path, slow.token) == (quick.path, quick.token)
        lengths.add(len(quick.path))
    assert len(lengths) >= 4  # trees short and long were met


@each_rule
def test_a_kept_path_is_a_path(rule):
    for seed in range(40):
        tokens, parents, _, q = _random_tree(seed, rule)
        generator = torch.Generator().manual_seed(seed)
        path = verify(tokens, parents, q.flip(0), rule=rule, q=q, generator=generator).path
        assert path[0] == 0 and all(parents[b] == a for a, b in zip(path, path[1:]))


def _fits(seen: dict, distribution: dict) -> float:
    """p-value of what was seen under the distribution; rare outcomes are one class."""
    total = sum(seen.values())
    assert seen.keys() <= {k for k, v in distribution.items() if v > 0}
    common = [k for k, v in distribution.items() if v * total >= 5]
    counts = [seen.get(k, 0) for k in common]
    wanted = [distribution[k] * total for k in common]
    rest = total - sum(counts), total - sum(wanted)
    return chisquare([*counts, rest[0]], [*wanted, rest[1]]).pvalue if rest[1] > 1 else chisquare(counts, wanted).pvalue


@each_rule
def test_verify_throws_its_dice_by_the_law(rule):
    tokens, parents, q = [-1, 0, 1, 2, 0, 2], [-1, 0, 0, 1, 1, 2], torch.stack([_law(3, i) for i in range(6)])
    p, generator, seen = torch.stack([_law(3, 20 + i, 1.0) for i in range(6)]), torch.Generator().manual_seed(0), {}
    for _ in range(400):
        verdict = verify(tokens, parents, p, rule=rule, q=q, generator=generator)
        key = tuple(verdict.path), verdict.token
        seen[key] = seen.get(key, 0) + 1
    assert _fits(seen, _tree_outcomes(tokens, parents, p, rule, q)) > 0.01


@each_rule
def test_drafting_and_verifying_with_dice_writes_by_the_target_law(rule):
    """The draft draws as a decoder would: torch.multinomial, whose order without replacement is that of drawing."""
    world, generator, seen, runs = World(TINY_TARGET, TINY_DRAFT, LAWS["1"]), torch.Generator().manual_seed(1), {}, 200

    def choose(world, prefix, k, rule):
        q = world.q(prefix)
        if rule == "point":
            return q.topk(k).indices.tolist()
        return torch.multinomial(q, k, replacement=rule == "drawn", generator=generator).tolist()

    for _ in range(runs):
        said = ()
        while len(said) < 2:
            here = World(lambda rest, s=said: world.p(s + rest), lambda rest, s=said: world.q(s + rest))
            tokens, parents, p, q, prefixes = _grown(here, (2, 1), rule, choose)
            verdict = verify(tokens, parents, p, rule=rule, q=q, generator=generator)
            said += (*prefixes[verdict.path[-1]], verdict.token)
        seen[said[:2]] = seen.get(said[:2], 0) + 1
    distribution = target_distribution(TINY_TARGET, 2)
    assert _fits(seen, {key: float(distribution[key]) for key in product(range(3), repeat=2)}) > 0.01


# ---- how much a pass brings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("g", [1, 2, 4])
def test_a_cycle_of_equal_chances_has_the_geometric_length(g):
    p, q = _law(4, 1), _law(4, 2)
    target, draft = (lambda prefix, distribution=distribution: distribution for distribution in (p, q))
    alpha = float(torch.minimum(p, q).sum())
    distribution = cycle_lengths(target, draft, shape=(1,) * g)
    assert torch.allclose(distribution, torch.tensor([(1 - alpha) * alpha**i for i in range(g)] + [alpha**g]).double())
    mean = tokens_per_cycle(target, draft, shape=(1,) * g)
    assert mean == pytest.approx((1 - alpha ** (g + 1)) / (1 - alpha))


# ---- mistakes are seen ----------------------------------------------------------------------------------------------


@each_rule
@pytest.mark.parametrize("name", SABOTAGES)
def test_each_sabotage_is_caught(name, rule):
    assert _error(LAWS["0.7"], 3, rule=rule, shape=(1, 1), decoder=SABOTAGES[name]) > 1e-3
    assert _error(LAWS["0.7"], 3, rule=rule, shape=(2, 1), decoder=SABOTAGES[name]) > 1e-3
    assert len(SABOTAGES[name].why) > 30


def test_no_single_common_temperature_shows_every_sabotage():
    seen = {t: {n for n, d in SABOTAGES.items() if _error(LAWS[t], 3, shape=(1, 1), decoder=d) > 1e-9} for t in LAWS}
    assert seen["greedy"] == SABOTAGES.keys() - {"residual not renormalized", "rejected token used again"}
    assert seen["1"] == SABOTAGES.keys() - {"bonus from raw logits"}
    assert seen["0.7"] == SABOTAGES.keys()


@pytest.mark.parametrize("name", SABOTAGES)
def test_a_sabotage_changes_one_thing(name):
    """Where the thing is not met, the distribution is right: no rejection, or nothing kept to the end."""
    spoilt = SABOTAGES[name]
    if spoilt.bonus is not HONEST.bonus:
        assert _error(LAWS["0.7"], 2, shape=(1, 1), decoder=spoilt) < ROUNDING  # two tokens: no bonus yet
    elif spoilt.propose is HONEST.propose:
        assert _error(LAWS["0.7"], draft=TINY_TARGET, shape=(1, 1), decoder=spoilt) < ROUNDING  # never a rejection


def test_argmax_treated_as_drawn_is_not_greedy_at_temperature_0():
    """A known mistake (method.md 4.1.1): litgpt drafted by argmax, verified with the softmax at temperature 1, and
    wrote token 1 in 1,744 of 2,000 runs where greedy decoding always writes token 0."""
    p, q = torch.tensor([0.40, 0.35, 0.25]).double(), torch.tensor([0.30, 0.40, 0.30]).double()
    how = dict(shape=(1,), length=1, distribution=TokenDistribution())
    wrong = emitted_distribution(lambda _: p, lambda _: q, decoder=SABOTAGES["argmax treated as drawn"], **how)
    assert torch.allclose(wrong, torch.tensor([0.125, 0.875, 0.0]).double())
    assert torch.equal(emitted_distribution(lambda _: p, lambda _: q, **how), torch.tensor([1.0, 0.0, 0.0]).double())


def test_where_nothing_is_left_over_rounding_draws_nothing():
    """float32, candidates that cover all of p: what is missing from 1 is rounding, and no distribution stands behind
    it."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        p = torch.zeros(40)
        p[:5] = torch.rand(5, generator=generator).softmax(0)
        distribution = node_distribution(p, [0, 1, 2, 3, 4])
        assert float(distribution.none) == 0.0 and float(distribution.accept.sum()) == pytest.approx(1.0, abs=1e-5)
