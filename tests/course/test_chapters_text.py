"""Chapters 05 and 06: what a decoder emits, and the trees of its cycles."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from hb import plots
from hb.course.chapters import ch05, ch06
from hb.infer.fused import decode_fast
from hb.infer.speculative.exact import SABOTAGES
from hb.infer.speculative.plan import Plan

ROUNDING = 1e-12


# ---- the microscope --------------------------------------------------------------------------------------------------


def test_the_microscope_is_flat_and_green_where_nothing_is_wrong():
    def below(**settings):
        ax = ch05.microscope_figure(**settings).axes[1]
        return [bar.get_height() for bar in ax.patches], to_hex(ax.patches[0].get_facecolor())

    heights, color = below(rule="removed", tried="two, then one", temperature=0.7)
    assert len(heights) == 27 and max(map(abs, heights)) < ROUNDING and color == plots.RIGHT
    heights, color = below(sabotage="rejected token used again")
    assert max(map(abs, heights)) > 1e-3 and color == plots.WRONG
    assert sum(heights) == pytest.approx(0)


def test_the_microscope_turns_and_says_what_is_wrong():
    box = ch05.microscope()
    first = box.picture.png
    box.controls["sabotage"].value = "bonus one place early"
    assert box.picture.png != first and box.note.value == SABOTAGES["bonus one place early"].why
    with pytest.raises(ValueError, match="no sabotage called 'rain'"):
        ch05.microscope_figure(sabotage="rain")


def test_overlap_stacks_to_the_larger_of_the_two_laws():
    ax = ch05.overlap([0.5, 0.3, 0.2], [0.2, 0.7, 0.1], "abc", title="t").axes[0]
    tops = {round(bar.get_x() + bar.get_width() / 2): bar.get_y() + bar.get_height() for bar in ax.patches[:3]}
    assert list(tops.values()) == pytest.approx([0.2, 0.3, 0.1])  # what is kept
    assert max(bar.get_y() + bar.get_height() for bar in ax.patches) == pytest.approx(0.7)


def test_the_bargain_is_red_where_the_law_is_another():
    chart = ch05.bargain({"honest": (2.4, 1e-16), "spoilt": (2.6, 0.05)})
    assert [to_hex(bar.get_facecolor()) for bar in chart.axes[0].patches] == [plots.RIGHT, plots.WRONG]
    assert chart.png().startswith(b"\x89PNG")


# ---- trees of guesses ------------------------------------------------------------------------------------------------


TREE = dict(words=["a", "red", "blue", "disc", "star"], parents=[0, 0, 0, 1, 2], values=[1.0, 0.6, 0.3, 0.5, 0.2])


def _tree(**how):
    return ch06.draft_tree(**TREE, **how)


def test_a_drawn_tree_shows_what_stayed_and_what_the_target_added():
    texts = {t.get_text(): t for t in _tree(path=[0, 2, 4], added="at").axes[0].texts}
    assert {word for word, t in texts.items() if t.get_fontweight() == "bold"} == {"a", "blue", "star"}
    assert {word: t.get_position()[0] for word, t in texts.items()} == dict(a=0, red=1, blue=1, disc=2, star=2, at=3)


def test_a_drawn_token_is_the_bluer_the_surer():
    """Sure of this token, not of its path: 0.5 behind 0.6 is surer than 0.3."""
    face = {t.get_text(): t.get_bbox_patch().get_facecolor()[:3] for t in _tree().axes[0].texts}
    assert face["disc"] == pytest.approx(ch06.SURE(0.5 / 0.6)[:3]) and sum(face["disc"]) < sum(face["blue"])


def test_a_drawn_mask_is_the_trees():
    from hb.infer.speculative.tree import Tree

    tokens = torch.zeros(1, 5, dtype=torch.long)
    tree = Tree(tokens, torch.tensor([TREE["parents"]]), tokens, torch.zeros(1, 5))
    picture = _tree(path=[0, 2, 4]).axes[1].images[0].get_array()
    assert np.array_equal(picture > 0, tree.ancestors()[0].numpy())
    assert np.argwhere(picture == 2).tolist() == [[0, 0], [2, 0], [2, 2], [4, 0], [4, 2], [4, 4]]


@pytest.mark.parametrize("figure", [_tree, lambda: ch06.plans({"ours": {"plain": (1.0, 1.0), "tree": (1.5, 3.0)}})])
def test_figures_of_drafting_are_small_pngs(figure):
    assert figure().png().startswith(b"\x89PNG") and len(figure().png()) < 60_000


@pytest.fixture(scope="module")
def drafted(tiny):
    """A tiny model with a draft that nobody has trained, and a context."""
    from dataclasses import asdict

    from hb.infer.artifacts import DraftCheckpoint, fingerprint
    from hb.infer.pipeline import Model
    from hb.infer.speculative.draft import DraftConfig
    from tests.infer.speculative.test_draft import read, shaken

    config = DraftConfig(layers=1)
    drafter = DraftCheckpoint(asdict(config), {}, fingerprint(tiny.bagel), shaken(tiny, config).state_dict())
    return Model(tiny.bagel, tiny.text, draft=drafter), read(tiny, ["describe the picture"])


@pytest.mark.parametrize("how", [{}, dict(noise=2.0), dict(temperature=1.0)], ids=str)
@pytest.mark.parametrize("plan", [Plan(depth=3, width=3, budget=8), Plan(depth=3, budget=3)], ids=["tree", "chain"])
def test_watched_cycles_add_up_to_the_answer(drafted, plan, how):
    model, context = drafted
    cycles = ch06.tree_cycles(model, context, plan, max_tokens=24, **how)
    said = []
    for cycle in cycles:
        tokens = cycle.tree.tokens[0, cycle.path].tolist()
        assert not said or [*cycle.before, tokens[0]] == said
        said += [*tokens[1:], cycle.added]
    if not how.get("temperature"):
        assert said[:24] == decode_fast(model.fast_text(), context.context, max_tokens=24)[0][0][:24]


@pytest.mark.parametrize(
    "plan",
    [Plan(depth=3, width=3, budget=8, start_after=0), Plan(depth=3, budget=3, start_after=0)],
    ids=["tree", "chain"],
)
def test_noise_makes_a_draft_guess_otherwise(drafted, plan):
    quiet, noisy = (ch06.tree_cycles(*drafted, plan, max_tokens=4, noise=n)[0].tree.tokens.tolist() for n in (0.0, 9.0))
    assert quiet != noisy


def test_draft_theatre_turns_and_decodes_only_when_it_must(drafted, monkeypatch):
    model, context = drafted
    asked, real = [], ch06.tree_cycles
    monkeypatch.setattr(ch06, "tree_cycles", lambda *a, **k: asked.append(1) or real(*a, max_tokens=12, **k))
    box = ch06.draft_viewer(model, context)
    before = box.picture.png
    cycles = box.controls["cycle"].max
    assert cycles > 1 and f" in {cycles} passes" in box.note.value
    box.controls["cycle"].value = 2
    assert box.picture.png != before and len(asked) == 1
    box.controls["budget"].value = 4
    assert "acceptance length" in box.note.value and len(asked) == 2
