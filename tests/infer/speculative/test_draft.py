"""The draft: its start is the paper's, training sees what decoding does, and the fused path has the same numbers."""

import pytest
import torch

from hb.infer.artifacts import DraftCheckpoint, fingerprint
from hb.infer.fused import FastText
from hb.infer.speculative.decode import _before
from hb.infer.speculative.draft import Draft, DraftConfig, draft_loss, feature_layers, open_draft
from hb.infer.speculative.plan import Plan
from hb.infer.speculative.runner import AcceptedTokens, DraftModel, DraftRunner
from hb.models.checkpoint import CheckpointError
from hb.models.distribution import GREEDY

ALL = [DraftConfig(kind, layers, zero_init=False) for kind in ("hyper-bagel", "eagle3") for layers in (1, 2)]


def shaken(model, config: DraftConfig, seed: int = 0) -> Draft:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        draft = Draft(model.bagel.config.llm, config)
        draft.initialize(model.bagel)
        with torch.no_grad():
            for p in draft.parameters():
                p.add_(0.1 * torch.randn_like(p))
    return draft.eval()


def read(model, questions):
    pixels = torch.rand(len(questions), 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return model.read_for_asking(pixels, questions)


@pytest.mark.parametrize("layers, wanted", [(28, (3, 15, 26)), (12, (3, 7, 10)), (2, (2, 2, 1)), (1, (1, 1, 1))])
def test_low_middle_and_high(layers, wanted):
    assert feature_layers(layers) == wanted


@pytest.mark.parametrize("config", ALL, ids=str)
@torch.no_grad()
def test_training_sees_what_decoding_does(tiny, config):
    """Step j of the training-time test = the j-th guess of a run that drafts the same tokens, rows of unequal
    length."""
    draft = shaken(tiny, config)
    fast, target = DraftModel(draft, tiny.bagel), FastText(tiny.bagel)
    state = read(tiny, ["how many stars are there?", "describe"])
    answer = torch.tensor([[target.markers[0], 300, 301, 302, 303], [target.markers[0], 310, 311, 312, 313]])
    # the run: absorb the context, then be led along the answer
    run = DraftRunner(fast, 2, 200)
    run.absorb(_before(state, answer[:, 0], target))
    a, guesses = run.a[:, None], [run.a]
    for j in range(1, 4):
        e = torch.nn.functional.embedding(answer[:, j], fast.table)[:, None]
        at = (run.next + j)[:, None]
        a = run._step(a, e, fast.angles(at, 200), run.layers.mask(1))
        run.layers.length += 1
        guesses.append(a[:, 0])
    # the training: one row at a time, whole
    for row in range(2):
        keep = state.context.visible[row]
        trace = [t[row : row + 1, keep] for t in state.hidden_states]
        context = state.context.select(torch.tensor([row]))
        said: list = []
        tiny.bagel.read_ids(context, answer[row : row + 1], hidden_states=said)
        trace = [torch.cat(part, 1) for part in zip(trace, said)]
        n = int(keep.sum())
        positions = torch.cat([state.positions[row, keep], context.position + torch.arange(5)])[None]
        logits = draft(trace, positions, torch.ones(1, n + 5, dtype=torch.bool), steps=4, window=n - 1)
        for j in range(4):
            mine = draft.head(draft.norm(guesses[j][row]))
            assert torch.allclose(logits[j][0, 0], mine, atol=2e-4), (row, j)


@pytest.mark.parametrize("config", ALL, ids=str)
@torch.no_grad()
def test_absorbing_in_pieces_is_absorbing_at_once(tiny, config):
    draft = shaken(tiny, config)
    fast = DraftModel(draft, tiny.bagel)
    state = read(tiny, ["describe the picture", "describe the picture"])
    whole = _before(state, torch.tensor([5, 6]), FastText(tiny.bagel))
    one, many = DraftRunner(fast, 2, 200), DraftRunner(fast, 2, 40)  # the second has to make room
    one.absorb(whole)
    n, cut = whole.positions.size(1), (0, 30, 31, 60)
    parts = [
        AcceptedTokens(
            *(
                getattr(whole, f)[:, a:b]
                for f in ("hidden_states", "following", "positions", "next_positions", "present")
            )
        )
        for a, b in zip(cut, (*cut[1:], n))
    ]
    many.absorb(parts[0])
    many.absorb(AcceptedTokens.joined(parts[1:3]))
    many.absorb(parts[3])
    assert torch.allclose(one.a, many.a, atol=1e-4) and torch.equal(one.next, many.next)


@pytest.mark.parametrize("config", ALL, ids=str)
@torch.no_grad()
def test_a_draft_does_not_attend_to_padding(tiny, config):
    """Rows of different lengths absorbed together, then more tokens in the same step: each row is as it is alone. Red
    with a causal mask, which shows the padding between the question and the answer to what comes behind it."""
    fast, target = DraftModel(shaken(tiny, config), tiny.bagel), FastText(tiny.bagel)
    questions, root = ["how many stars are there?", "describe"], torch.tensor([5, 6])
    state = read(tiny, questions)
    before = _before(state, root, target)
    assert not before.present.all(), "rows of one length have no padding"

    def behind(rows):
        """The start of an answer, one token of which only the first row keeps."""
        n, generator = 3, torch.Generator().manual_seed(4)
        parts = dict(
            hidden_states=torch.randn(2, n, *before.hidden_states.shape[2:], generator=generator)[rows],
            following=torch.randn(2, n, before.following.size(-1), generator=generator)[rows],
            positions=state.context.position[rows, None] + torch.arange(n),
        )
        present = torch.tensor([[True] * 3, [True, True, False]])[rows]
        return AcceptedTokens(**parts, next_positions=parts["positions"] + 1, present=present)

    together = DraftRunner(fast, 2, 200)
    together.absorb(AcceptedTokens.joined([before, behind([0, 1])]))
    for row in range(2):
        keep = before.present[row]
        names = ("hidden_states", "following", "positions", "next_positions")
        own = AcceptedTokens(*(getattr(before, f)[row : row + 1, keep] for f in names))
        more = behind([row])
        more = AcceptedTokens(*(getattr(more, f)[:, more.present[0]] for f in names))
        alone = DraftRunner(fast, 1, 200)
        alone.absorb(AcceptedTokens.joined([own, more]))
        assert torch.allclose(together.a[row], alone.a[0], atol=1e-4)
        trees = [r.grow(torch.tensor(t), Plan(depth=3, budget=3)) for r, t in ((together, [7, 7]), (alone, [7]))]
        assert torch.equal(trees[0].tokens[row], trees[1].tokens[0])


@torch.no_grad()
def test_guesses_leave_no_trace(tiny):
    """A tree grown and thrown away changes nothing that comes after."""
    fast = DraftModel(shaken(tiny, DraftConfig()), tiny.bagel)
    state = read(tiny, ["describe the picture"])
    runs = [DraftRunner(fast, 1, 200) for _ in range(2)]
    for run in runs:
        run.absorb(_before(state, torch.tensor([5]), FastText(tiny.bagel)))
    runs[0].grow(torch.tensor([5]), Plan(depth=5, width=4, budget=12))
    trees = [run.grow(torch.tensor([5]), Plan(depth=3, width=2, budget=6)) for run in runs]
    assert torch.equal(trees[0].tokens, trees[1].tokens) and torch.equal(trees[0].value, trees[1].value)


@pytest.mark.parametrize(
    "plan",
    [
        Plan(depth=4, width=3, budget=20),
        Plan(depth=4, width=3, budget=12, main_path=True),
        Plan(depth=4, width=1, budget=4),
        Plan(depth=4, width=1, budget=4, reward=1e-9),
    ],
)
@pytest.mark.parametrize("words", [(), tuple(range(0, 200, 2))])
@torch.no_grad()
def test_a_tree_holds_what_its_paths_would_have_said_alone(tiny, plan, words):
    """Values in a tree are those of the path drafted as a chain of its own, and a node's children are the likeliest
    words."""
    fast = DraftModel(shaken(tiny, DraftConfig(layers=2, vocabulary=words)), tiny.bagel)
    run = DraftRunner(fast, 1, 200)
    run.absorb(_before(read(tiny, ["describe the picture"]), torch.tensor([5]), FastText(tiny.bagel)))
    tree = run.grow(torch.tensor([5]), plan)
    assert tree.tokens.size(1) > 4
    tokens, parents = tree.tokens[0].tolist(), tree.parents[0].tolist()
    for node in range(1, len(tokens)):
        path = [node]
        while parents[path[0]]:
            path.insert(0, parents[path[0]])
        a, value, start = run.a[:, None], 0.0, run.layers.length
        for level, i in enumerate(path):
            log_q = fast.on_all_words(fast.log_q(a, GREEDY, None)[0])[0]
            assert tokens[i] in log_q.topk(plan.width).indices
            value += float(log_q[tokens[i]])
            at = (run.next + 1 + level)[:, None]
            e = torch.nn.functional.embedding(torch.tensor([[tokens[i]]]), fast.table)
            a = run._step(a, e, fast.angles(at, 300), run.layers.mask(1))
            run.layers.length += 1
        run.layers.length = start
        assert value == pytest.approx(float(tree.value[0, node]), abs=1e-3)


@pytest.mark.parametrize("kind", ["hyper-bagel", "eagle3"])
@torch.no_grad()
def test_folded_attention_over_layers_is_the_written_one(tiny, kind):
    draft = shaken(tiny, DraftConfig(kind))
    trace = [torch.randn(2, 7, 32) for _ in range(3)]
    wanted = draft.bridge.slots(trace)
    assert torch.allclose(DraftModel(draft, tiny.bagel).slots(torch.stack(trace, 2)), wanted, atol=1e-4)


def test_the_start_is_the_papers(tiny):
    draft = Draft(tiny.bagel.config.llm, DraftConfig(layers=2))
    draft.initialize(tiny.bagel)
    last = tiny.bagel.mot.understanding.layers[-1]
    assert torch.equal(draft.layers[-1].mlp.up_proj.weight, last.mlp.up_proj.weight)
    assert torch.equal(draft.head.weight, tiny.bagel.lm_head.weight)
    assert all(not w.any() for w in draft.zeroed()) and len(draft.zeroed()) == 5
    trace = [torch.randn(1, 4, 32) for _ in range(3)]
    triple = torch.stack([trace[i] for i in draft.bridge.picked], dim=2)
    assert torch.equal(draft.bridge.slots(trace), triple)  # attention over layers adds nothing yet


def gradients_of_fc1(tiny, steps: int, updates: int) -> float:
    """|grad fc1| after some updates from the paper's start, with so many drafting steps in the loss."""
    draft = Draft(tiny.bagel.config.llm, DraftConfig(layers=1))
    draft.initialize(tiny.bagel)
    sgd = torch.optim.SGD(draft.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    trace = [torch.randn(2, 12, 32, generator=generator) for _ in range(3)]
    target = torch.randn(2, 12, draft.head.out_features, generator=generator)
    answer = torch.ones(2, 12, dtype=torch.bool)
    for _ in range(updates):
        sgd.zero_grad()
        logits = draft(trace, torch.arange(12).expand(2, -1), answer, steps=steps)
        draft_loss(logits, target, answer, window=0)[0].backward()
        torch.nn.utils.clip_grad_norm_(draft.parameters(), 0.5)
        sgd.step()
    return float(draft.bridge.fc1.weight.grad.abs().max())


def test_the_saddle_at_zero_is_left_by_the_second_drafting_step(tiny):
    """method.md 4.3.3: with one step fc1 never moves, with two it does within three updates."""
    assert gradients_of_fc1(tiny, steps=1, updates=3) == 0.0
    assert gradients_of_fc1(tiny, steps=2, updates=3) > 0.0


def test_the_loss_is_divergence_plus_cross_entropy():
    """By hand, for one step and one counted place; at the target's own distribution only the cross-entropy is left."""
    generator = torch.Generator().manual_seed(0)
    target, said = torch.randn(1, 4, 6, generator=generator), torch.randn(1, 3, 6, generator=generator)
    answer = torch.tensor([[False, False, True, False]])
    loss, _ = draft_loss([said], target, answer, window=0, ce_weight=0.1)
    p, log_q = target[0, 2].softmax(-1), said[0, 1].log_softmax(-1)
    wanted = (p * (p.log() - log_q)).sum() - 0.1 * log_q[p.argmax()]
    assert float(loss) == pytest.approx(float(wanted), rel=1e-5)
    same, hits = draft_loss([target[:, 1:]], target, answer, window=0, ce_weight=0.0)
    assert float(same) == pytest.approx(0.0, abs=1e-6) and float(hits[0]) == 1.0


def test_a_parcel_survives_its_folder_and_names_what_does_not_fit(tiny, tmp_path):
    config = DraftConfig(layers=1, vocabulary=(3, 5, 300))
    draft = shaken(tiny, config)
    parcel = DraftCheckpoint(
        dict(kind="hyper-bagel", layers=1, zero_init=False, words=[3, 5, 300]),
        {"0": {}},
        fingerprint(tiny.bagel),
        draft.state_dict(),
    )
    parcel.save(tmp_path, torch.float32)
    again = DraftCheckpoint.load(tmp_path)
    opened = open_draft(again, tiny.bagel)
    assert all(torch.equal(a, b) for a, b in zip(opened.state_dict().values(), draft.state_dict().values()))
    assert opened.vocabulary.tolist() == [3, 5, 300]
    (tmp_path / "draft.safetensors").write_bytes((tmp_path / "draft.safetensors").read_bytes()[:500])
    with pytest.raises(CheckpointError, match="truncated"):
        DraftCheckpoint.load(tmp_path)
    with pytest.raises(CheckpointError, match="lacks"):
        open_draft(DraftCheckpoint(dict(layers=2), {}, "", draft.state_dict()), tiny.bagel)
    with pytest.raises(CheckpointError, match="hb train draft"):
        DraftCheckpoint.load(tmp_path / "nowhere")


@torch.no_grad()
def test_nothing_is_guessed_behind_the_end_of_an_answer(tiny, monkeypatch):
    """A chain ends where every row has guessed the end; a row that has not keeps the others company."""
    fast, target = DraftModel(shaken(tiny, ALL[0]), tiny.bagel), FastText(tiny.bagel)
    end, words = target.markers[1], len(fast.embedding)
    state = read(tiny, ["how many stars are there?", "describe"])
    root = torch.full((2,), target.markers[0])
    run = DraftRunner(fast, 2, 200)
    run.absorb(_before(state, root, target))
    for ends, nodes in (((1, 3), 3), ((2, 2), 2), ((9, 2), 6)):
        level = iter(range(1, 10))

        def say(a, level=level, ends=ends):
            now = next(level)
            wanted = torch.tensor([end if now == at else 300 for at in ends])
            return torch.nn.functional.one_hot(wanted, words).float().log()

        monkeypatch.setattr(fast, "logits", say)
        assert run.grow(root, Plan(depth=6, width=1, budget=6)).tokens.size(1) == 1 + nodes
