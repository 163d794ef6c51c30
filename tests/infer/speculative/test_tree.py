"""Trees grow where the draft is surest, stay connected, and a chain is the tree of width one."""

import itertools
from dataclasses import replace

import pytest
import torch

from hb.infer.speculative.runner import Plan
from hb.infer.speculative.tree import Growth, Tree, main_path, root_only


def law_after(path, vocabulary=5):
    """Some distribution that depends on the path."""
    generator = torch.Generator().manual_seed(hash(path) % 2**31)
    return (3 * torch.randn(vocabulary, generator=generator)).log_softmax(-1)


def grown(width: int, depth: int, budget: int, vocabulary: int = 5, least: float = 0.0) -> Tree:
    growth, paths = Growth(torch.tensor([0]), width), [()]
    for _ in range(depth):
        log_q = torch.stack([law_after(p, vocabulary) for p in paths])[None]
        tokens, place = growth.add(log_q)
        paths = [paths[p] + (t,) for t, p in zip(tokens[0].tolist(), place[0].tolist())]
    return growth.best(budget, least)


def paths_of(tree: Tree) -> dict[tuple, float]:
    out, parents, tokens = {}, tree.parents[0].tolist(), tree.tokens[0].tolist()
    paths = {0: ()}
    for i in range(1, len(tokens)):
        paths[i] = paths[parents[i]] + (tokens[i],)
        out[paths[i]] = float(tree.value[0, i])
    return out


def test_a_wide_tree_is_the_best_of_all_paths():
    """With every node expanded, the tree must hold the most valuable paths there are."""
    tree = grown(width=25, depth=3, budget=12)
    all_paths = {}
    for length in (1, 2, 3):
        for path in itertools.product(range(5), repeat=length):
            all_paths[path] = sum(float(law_after(path[:i])[path[i]]) for i in range(length))
    wanted = sorted(all_paths, key=all_paths.get, reverse=True)[:12]
    got = paths_of(tree)
    assert set(got) == set(wanted)
    assert all(got[p] == pytest.approx(all_paths[p], abs=1e-5) for p in got)


@pytest.mark.parametrize("width, depth, budget", [(1, 6, 6), (2, 4, 5), (3, 5, 20), (5, 3, 1)])
def test_trees_are_connected_and_within_budget(width, depth, budget):
    tree = grown(width, depth, budget)
    n = tree.tokens.size(1)
    parents, level = tree.parents[0].tolist(), tree.depth[0].tolist()
    assert n <= budget + 1
    for i in range(1, n):
        assert parents[i] < i and level[i] == level[parents[i]] + 1
        assert tree.value[0, i] <= tree.value[0, parents[i]] + 1e-6
    assert len(set(paths_of(tree))) == n - 1  # no path twice


def test_a_chain_is_the_tree_of_width_one():
    tree = grown(1, 5, 5)
    assert tree.is_chain and tree.mask() is None
    assert tree.ancestors()[0].tolist() == torch.ones(6, 6).tril().bool().tolist()
    path, tokens = (), tree.tokens[0].tolist()[1:]
    for token in tokens:
        assert token == int(law_after(path).argmax())
        path += (token,)


def test_ancestors_are_the_path_to_the_root():
    tree = grown(3, 4, 15)
    parents = tree.parents[0].tolist()
    for i, row in enumerate(tree.ancestors()[0].tolist()):
        path, node = {0}, i
        while node:
            path.add(node)
            node = parents[node]
        assert {j for j, seen in enumerate(row) if seen} == path


def test_a_root_may_say_that_it_has_no_parent():
    tree = grown(3, 4, 15)
    bare = replace(tree, parents=torch.cat([torch.full((1, 1), -1), tree.parents[:, 1:]], 1))
    assert torch.equal(bare.ancestors(), tree.ancestors())


def test_a_spine_is_the_best_child_and_its_brothers_level_by_level():
    path, tokens, log_q, wanted = (), [], [], {}
    for _ in range(4):
        distribution = law_after(path)
        top = distribution.topk(3)
        tokens.append(top.indices)
        log_q.append(top.values)
        value = sum(float(law_after(path[:i])[path[i]]) for i in range(len(path)))
        wanted |= {path + (int(t),): value + float(v) for t, v in zip(top.indices, top.values)}
        path += (int(top.indices[0]),)
    tree = main_path(torch.tensor([0]), torch.stack(tokens)[None], torch.stack(log_q)[None], leaves=5)
    got, trunk = paths_of(tree), {path[:i] for i in range(1, 5)}
    leaves = sorted(set(wanted) - trunk, key=wanted.get, reverse=True)
    assert set(got) == trunk | set(leaves[:5])
    assert all(got[p] == pytest.approx(wanted[p], abs=1e-5) for p in got)
    assert tree.trunk == 5 and torch.equal(tree.ancestors(), replace(tree, trunk=None).ancestors())
    few = main_path(torch.tensor([0]), torch.stack(tokens)[None], torch.stack(log_q)[None], leaves=5, least=0.1)
    assert set(paths_of(few)) == trunk | {p for p in leaves[:5] if wanted[p] >= torch.tensor(0.1).log()}
    assert len(paths_of(few)) < len(got)
    alone = main_path(torch.tensor([0]), torch.stack(tokens)[None], torch.stack(log_q)[None], leaves=0)
    assert alone.is_chain and set(paths_of(alone)) == trunk


def test_what_is_hardly_reached_is_left_out():
    full, cut = grown(3, 4, 15), grown(3, 4, 15, least=0.1)
    kept = {p: v for p, v in paths_of(full).items() if v >= torch.tensor(0.1).log()}
    assert set(paths_of(cut)) == set(kept) and len(kept) < len(paths_of(full))


def test_expected_tokens_count_the_root_and_every_guess():
    assert root_only(torch.tensor([3, 4])).expected_tokens() == 1.0
    tree = grown(2, 3, 6)
    assert tree.expected_tokens() == pytest.approx(1 + sum(2.718281828**v for v in paths_of(tree).values()), rel=1e-5)


@pytest.mark.parametrize(
    "values, words",
    [(dict(depth=-1), "count from 0"), (dict(budget=0), "from 1"), (dict(width=2, rule="drawn"), "takes 'point'")],
)
def test_plans_that_cannot_be_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        Plan(**values)
