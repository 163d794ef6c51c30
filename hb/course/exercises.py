"""Checks for the notebooks' exercises: a tick, a hint naming the likely mistake, or "not tried yet". They never raise.

A check compares the answer with a right one on cases where the usual mistakes differ, and knows those mistakes by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hb.flow import interpolate, jump, shift_time, time_grid, x0_from
from hb.guidance import combine, combine_each
from hb.models.layers import RMSNorm
from hb.models.sequence import MODES, may_attend
from hb.world.scene import Thing, Wish


class Hint(Exception):
    """What to look at again."""


class NotTried(Exception):
    """The stub is still there."""


Check = Callable[[object], None]
CHECKS: dict[str, Check] = {}


def check(name: str, answer: object) -> None:
    """Print how the answer to exercise `name` ("2.1") fares."""
    if name not in CHECKS:
        print(f"there is no exercise {name!r}; there are {', '.join(CHECKS)}")
        return
    try:
        if answer is ... or answer is None:
            raise NotTried
        CHECKS[name](answer)
    except NotTried:
        print(f"· {name} not tried yet")
    except Hint as hint:
        print(f"✗ {name} not yet: {hint}")
    except Exception as error:  # an answer may fail in any way it likes
        print(f"✗ {name} stopped with {type(error).__name__}: {error}")
    else:
        print(f"✓ {name}")


def exercise(name: str) -> Callable[[Check], Check]:
    """Registers a check."""

    def register(function: Check) -> Check:
        CHECKS[name] = function
        return function

    return register


def _call(answer: object, *arguments):
    """What the answer gives for these arguments; the stub's `...` is "not tried yet"."""
    if not callable(answer):
        raise Hint(f"hand over the function itself, check(..., name), not what it returns ({type(answer).__name__})")
    given = answer(*[a.clone() if isinstance(a, Tensor) else a for a in arguments])
    if given is ... or given is None:
        raise NotTried
    return given


def _close(given, wanted, atol: float = 1e-5) -> bool:
    """Equal to rounding, and of the same shape."""
    given, wanted = torch.as_tensor(given), torch.as_tensor(wanted)
    return given.shape == wanted.shape and torch.allclose(given.double(), wanted.double(), atol=atol)


def _compare(given, wanted, mistakes: Sequence[tuple[object, str]], otherwise: str, atol: float = 1e-5) -> None:
    """Raise the hint of the mistake that gives exactly this, or a general one, unless the answer is right."""
    if _close(given, wanted, atol):
        return
    for wrong, hint in mistakes:
        if _close(given, wrong, atol):
            raise Hint(hint)
    given, wanted = torch.as_tensor(given), torch.as_tensor(wanted)
    if given.shape != wanted.shape:
        raise Hint(f"the shape should be {list(wanted.shape)}, yours is {list(given.shape)}. {otherwise}")
    raise Hint(otherwise)


def _number(answer: object, wanted: float, mistakes: dict[float, str], otherwise: str) -> None:
    if not isinstance(answer, (int, float, Tensor)):
        raise Hint(f"a number is asked for, this is a {type(answer).__name__}")
    _compare(float(answer), float(wanted), [(float(k), hint) for k, hint in mistakes.items()], otherwise, atol=1e-3)


def _dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- 00 tour --------------------------------------------------------------------------------------------------------


@exercise("0.1")
def _cost(answer):
    """cost(steps, branches): function evaluations of a picture."""
    for steps, branches in ((50, 2), (6, 1), (7, 3)):
        _compare(
            _call(answer, steps, branches),
            steps * branches,
            [
                (steps, "every step asks the network once for each branch"),
                (steps + branches, "every step pays for all its branches: multiply, do not add"),
                ((steps - 1) * branches, "50 steps are 50 evaluations of a branch; 50 boundaries would be 49 steps"),
            ],
            "how many forward passes does one step make, and how many steps are there?",
        )


@exercise("0.2")
def _speed_up(answer):
    """The NFE ratio of 132 evaluations to 6."""
    _number(
        answer,
        22.0,
        {
            6 / 132: "that is how much cost is left; a speed-up is the old cost over the new one",
            126.0: "a speed-up is a ratio, not a difference",
            100 / 6: "that is the ratio for drawing; editing starts from 132",
        },
        "the teacher's evaluations for an edit, over the student's",
    )


# ---- 01 the tiny world ----------------------------------------------------------------------------------------------


@exercise("1.1")
def _discrete_scenes(answer):
    """How many different scenes "a circle" can mean, places, turn and shade aside."""
    _number(
        answer,
        160,
        {
            80: "does the prompt say the texture?",
            32: "does the prompt say the background?",
            1280: "the shape is said: a circle",
            20: "does the prompt say the color?",
            17: "choices multiply",
            1: "look again at what the prompt leaves unsaid",
        },
        "multiply the numbers of choices for what the prompt leaves unsaid",
    )


@exercise("1.2")
def _fits(answer):
    """fits(thing, wish): does the thing have everything the wish says?"""
    thing = Thing("circle", "red", "small", 0.5, 0.5)
    if _call(answer, thing, Wish()) is False:
        raise Hint("a wish that says nothing is met by everything: None means 'left to chance'")
    if not _call(answer, thing, Wish("circle", "red")):
        raise Hint("a red circle was asked and is there; what a wish leaves None must not count against the thing")
    for wish in (Wish("star"), Wish("circle", "blue"), Wish(size="large"), Wish("circle", texture="striped")):
        if _call(answer, thing, wish):
            said = " ".join(v for v in (wish.size, wish.texture, wish.color, wish.shape) if v)
            raise Hint(f"a small plain red circle is not '{said}'; every attribute that is said must agree")


@exercise("1.3")
def _total_variation(answer):
    """total_variation(p, q) of two distributions given as dicts over the same words."""
    p, q = {"a": 0.5, "b": 0.3, "c": 0.2}, {"a": 0.1, "b": 0.6, "c": 0.3}
    _compare(
        _call(answer, p, q),
        0.4,
        [
            (0.8, "half of it: what one distribution has too much, the other has too little, and you counted both"),
            (0.4**2 + 0.3**2 + 0.1**2, "absolute differences, not squares"),
            (0.0, "without absolute values the differences cancel: both distributions add up to 1"),
            (0.6, "that is how much the distributions share; the variation is what they do not"),
        ],
        "half the sum of |p - q| over all words",
    )
    if not _close(_call(answer, p, p), 0.0):
        raise Hint("a distribution does not differ from itself")


# ---- 02 rectified flow ----------------------------------------------------------------------------------------------


def _pair():
    x0, eps = torch.randn(4, 2, generator=_dice()), torch.randn(4, 2, generator=_dice(1))
    return x0, eps, torch.tensor([0.1, 0.4, 0.8, 1.0])


@exercise("2.1")
def _interpolate(answer):
    """mix(x0, eps, t), t of shape [B]."""
    x0, eps, t = _pair()
    _compare(
        _call(answer, x0, eps, t),
        interpolate(x0, eps, t),
        [
            (interpolate(eps, x0, t), "the other way round: t = 1 is noise here, t = 0 is data"),
            (interpolate(x0, eps, t.sqrt()), "no square roots: the path is a straight line"),
            ((1 - t[:, None]) * x0, "the noise is missing"),
        ],
        "x_t = (1 - t) x0 + t eps, with t of shape [B] made to fit [B, 2] by t[:, None]",
    )


@exercise("2.2")
def _x0_from(answer):
    """data_behind(x, v, t)."""
    x0, eps, t = _pair()
    x, v = interpolate(x0, eps, t), eps - x0
    _compare(
        _call(answer, x, v, t),
        x0_from(x, v, t),
        [
            (x + t[:, None] * v, "v points from data to noise: to get back to the data, walk against it"),
            (eps, "that is the noise: you walked (1 - t) forward; the data lie t backward"),
            (x - v, "a whole v is the whole way from noise to data; from x_t only the share t is left"),
            (x - (1 - t[:, None]) * v, "the way left to the data is t, not 1 - t"),
        ],
        "x_t = x0 + t v, so what is x0?",
    )


@exercise("2.3")
def _euler_step(answer):
    """step(x, v, t, s): from time t to the lower time s."""
    x0, eps, _ = _pair()
    t, s = torch.tensor(0.9), torch.tensor(0.4)
    x, v = interpolate(x0, eps, t), eps - x0
    _compare(
        _call(answer, x, v, t, s),
        jump(x, v, t, s),
        [
            (x + (t - s) * v, "s < t: time falls, so the step s - t is negative"),
            (x - v, "not the whole way: only s - t of it"),
            (x0, "that is t = 0; stop at s"),
        ],
        "x_s = x_t + (s - t) v",
    )


@exercise("2.4")
def _grid(answer):
    """grid(steps, shift)."""
    for steps, shift in ((6, 1.0), (6, 3.0)):
        right = time_grid(steps, shift)
        raw = torch.linspace(1, 0, steps + 1)
        _compare(
            torch.as_tensor(_call(answer, steps, shift)).float(),
            right,
            [
                (time_grid(steps - 1, shift), f"{steps} steps need {steps + 1} boundaries: yours walks {steps - 1}"),
                (right.flip(0), "the sampler starts at noise: from 1 down to 0"),
                (raw, "the shift is not applied: s t / (1 + (s - 1) t)"),
                (shift_time(raw, 1 / shift), "the shift goes the wrong way: more steps belong near t = 1"),
                (shift * raw, "divide by 1 + (s - 1) t, or times leave [0, 1]"),
            ],
            "linspace from 1 to 0 with steps + 1 numbers, then s t / (1 + (s - 1) t)",
        )


# ---- 03 the unified model -------------------------------------------------------------------------------------------


@exercise("3.1")
def _rms(answer):
    """rms_norm(x, weight, eps)."""
    x, weight, eps = torch.randn(3, 8, generator=_dice()) + 0.5, torch.rand(8, generator=_dice(1)) + 0.5, 1e-2
    norm = RMSNorm(8, eps)
    norm.weight.data = weight
    mean = x.square().mean(-1, keepdim=True)
    _compare(
        _call(answer, x, weight, eps),
        norm(x).detach(),
        [
            (torch.layer_norm(x, (8,), weight, None, eps), "RMSNorm does not subtract the mean; that was LayerNorm"),
            (weight * x / (mean + eps), "the root is missing: divide by the square root of the mean square"),
            (x / (mean + eps).sqrt(), "the weight is missing"),
            (weight * x / (mean.sqrt() + eps), "eps goes under the root"),
            (weight * x / (x.square().sum(-1, keepdim=True) + eps).sqrt(), "the mean of the squares, not their sum"),
        ],
        "x / sqrt(mean(x^2) + eps) * weight, the mean over the last dimension",
    )


@exercise("3.2")
def _positions(answer):
    """places(lengths, kinds) -> RoPE position of every token."""
    lengths, kinds = (3, 4, 3, 2, 4), ("text", "noise", "vae", "text", "noise")
    right = torch.tensor([0, 1, 2, *[3] * 4, *[3] * 3, 4, 5, *[6] * 4])
    _compare(
        torch.as_tensor(_call(answer, lengths, kinds)),
        right,
        [
            (torch.arange(16), "all tokens of a picture share one position"),
            (
                torch.tensor([0, 1, 2, *[3] * 4, *[4] * 3, 5, 6, *[7] * 4]),
                "a noised picture does not move what follows",
            ),
            (right + 1, "positions begin at 0"),
            (torch.tensor([*[0] * 3, *[1] * 4, *[1] * 3, *[2] * 2, *[3] * 4]), "text counts up, token by token"),
        ],
        "text counts up; a picture's tokens share one position and move the next by 1, or by 0 where it is noised",
    )


@exercise("3.3")
def _expert(answer):
    """expert_of(kind): which weights a token goes through."""
    given = [_call(answer, kind) for kind in ("text", "vit", "vae", "noise")]
    right = ["understanding", "understanding", "generation", "generation"]
    if given == right:
        return
    known = {
        ("understanding", "generation", "generation", "generation"): "what the eyes (ViT) see is for understanding",
        (
            "understanding",
            "understanding",
            "understanding",
            "generation",
        ): "a clean latent is still a latent: the generation expert reads it too",
    }
    raise Hint(known.get(tuple(given), "two answers exist, 'understanding' and 'generation'; latents go to the second"))


@exercise("3.4")
def _attention(answer):
    """may_look(lengths, kinds) -> bool mask [L, L]."""
    lengths, kinds = (3, 4, 3, 2, 4), ("text", "noise", "vae", "text", "noise")
    given = torch.as_tensor(_call(answer, lengths, kinds)).bool()
    right = may_attend(lengths, [MODES[k] for k in kinds])
    _compare(
        given,
        right,
        [
            (right.T, "queries are rows, keys are columns: yours is transposed"),
            (
                may_attend(lengths, ["full"] * 5),
                "text is causal in its split, and noised pictures are hidden from others",
            ),
            (may_attend(lengths, ["causal"] * 5), "pictures look both ways inside their split"),
            (
                may_attend(lengths, ["full" if k == "noise" else MODES[k] for k in kinds]),
                "nobody may look at a noised picture from outside, not even what comes later",
            ),
        ],
        _first_difference(given, right, lengths, kinds),
        atol=0.1,
    )


def _first_difference(given, right, lengths, kinds) -> str:
    if given.shape != right.shape:
        return f"{sum(lengths)} tokens make a square mask of that side"
    name = [f"token {i} of split {s} ({k})" for s, (n, k) in enumerate(zip(lengths, kinds)) for i in range(n)]
    wrong = (given != right).nonzero()
    if not len(wrong):
        return "look at the rule again"
    q, k = wrong[0].tolist()
    return f"{name[q]} should {'' if right[q, k] else 'not '}see {name[k]}"


# ---- 04 guidance and the ledger -------------------------------------------------------------------------------------


@exercise("4.1")
def _combine(answer):
    """guided(v, no_text, scale), without renorm."""
    v, no_text = torch.randn(2, 4, 3, generator=_dice()), torch.randn(2, 4, 3, generator=_dice(1))
    right = combine(v, no_text, None, text_scale=4.0, image_scale=1.0, renorm_min=1.0)
    _compare(
        _call(answer, v, no_text, 4.0),
        right,
        [
            (v + 4 * (v - no_text), "that is Ho & Salimans' w: here the scale is 1 + w, so start from no_text"),
            (v + 4 * (no_text - v), "the sign: walk away from what the model does without the prompt"),
            (no_text + 4 * (no_text - v), "the sign: walk away from what the model does without the prompt"),
            (4 * v, "the branch without the text is missing"),
        ],
        "no_text + scale * (v - no_text): at scale 1 it must give v back",
    )


@exercise("4.2")
def _shrink(answer):
    """renormed(v, guided): one factor for each picture [B, tokens, values]."""
    v = torch.randn(3, 4, 5, generator=_dice())
    guided = torch.cat([3 * v[:1], 0.5 * v[1:2], torch.randn(1, 4, 5, generator=_dice(1)) * 2])
    norm = lambda x, dims: x.norm(dim=dims, keepdim=True)
    factor = norm(v, (1, 2)) / norm(guided, (1, 2))
    _compare(
        _call(answer, v, guided),
        guided * factor.clamp(max=1),
        [
            (guided * factor, "it may only shrink: a factor above 1 becomes 1"),
            (guided * (norm(v, (2,)) / norm(guided, (2,))).clamp(max=1), "one factor a picture, not one a token"),
            (guided * (v.norm() / guided.norm()).clamp(max=1), "each picture of the batch has a factor of its own"),
            (guided / factor, "upside down: |v| / |guided|"),
            (v, "keep the guided direction; only its length is v's"),
        ],
        "guided * min(1, |v| / |guided|), the norms over tokens and values",
        atol=1e-4,
    )


@exercise("4.3")
def _evaluations(answer):
    """evaluations(grid, low, high, extra_branches)."""
    grid = time_grid(50, 3.0)
    for low, high, extra in ((0.4, 1.0, 2), (0.0, 1.0, 1), (0.4, 1.0, 1)):
        inside = sum(low < float(t) <= high for t in grid[:-1])
        right = 50 + inside * extra
        _compare(
            _call(answer, grid, low, high, extra),
            right,
            [
                (right + 1, "the last boundary is where the walk ends: nothing is evaluated there"),
                (right - extra, "t = high is inside: low < t <= high"),
                (inside * extra, "outside the interval a step still costs one evaluation"),
                (50 * (1 + extra), "only the steps inside the interval pay for the extra branches"),
                (
                    50 + sum(low < float(t) <= high for t in torch.linspace(1, 0, 51)[:-1]) * extra,
                    "the interval is compared with the shifted times, the ones in the grid",
                ),
            ],
            "each step (each t but the last) costs 1, and extra_branches more where low < t <= high",
        )


@exercise("4.4")
def _equal_scale(answer):
    """same_as(a, b): the single text scale that equals text scale a followed by picture scale b, when drawing."""
    for a, b in ((4.0, 2.0), (3.0, 1.5)):
        _compare(
            _call(answer, a, b),
            1 + b * (a - 1),
            [
                (a * b, "not quite: what is multiplied is the distance beyond v, which is a - 1 for scale a"),
                (a + b, "the second push works on what the first one left: write it out"),
                (a + b - 1, "the second push works on what the first one left: write it out"),
                (1 + a * (b - 1), "picture guidance pushes away from v: no_image is v when drawing"),
                (1 + (a - 1) * (b - 1), "m = v + b (g - v): b stays whole, since no_image is v itself"),
            ],
            "put no_image = v into m = no_image + b (g - no_image), g = no_text + a (v - no_text); gather v - no_text",
        )


# ---- 05 drafting a chain --------------------------------------------------------------------------------------------


def _two_laws():
    p = torch.tensor([0.5, 0.25, 0.15, 0.1], dtype=torch.float64)
    q = torch.tensor([0.2, 0.4, 0.1, 0.3], dtype=torch.float64)
    return p, q


@exercise("5.1")
def _chance_of_acceptance(answer):
    """chance_of_acceptance(p, q): that a token drawn from q stays."""
    p, q = _two_laws()
    ratio = (p / q).clamp(max=1)
    _compare(
        _call(answer, p, q),
        torch.minimum(p, q).sum(),
        [
            ((p * q).sum(), "that is the chance that two independent draws agree; the target does not draw, it judges"),
            (ratio.mean(), "not every token is drafted equally often: weigh min(1, p / q) by the chance of x, q(x)"),
            ((p * ratio).sum(), "x is drawn from the draft, so weigh by q(x), not p(x)"),
            (ratio, "one number: the chance over all x that the draft may say"),
            (torch.minimum(p, q), "sum it over the tokens"),
            ((p - q).abs().sum() / 2, "that is the chance of a rejection, the total variation"),
            (1.0, "no probability exceeds 1: accept with min(1, p / q), not p / q"),
        ],
        "the draft says x with q(x), and x stays with min(1, p(x) / q(x)): sum the product over x",
    )
    never = torch.zeros(1, dtype=torch.float64)
    if not _close(_call(answer, torch.cat([p, never]), torch.cat([q, never])), torch.minimum(p, q).sum()):
        raise Hint("a token that neither model ever says gives 0 / 0; simplify q(x) min(1, p(x) / q(x)) first")


@exercise("5.2")
def _leftover(answer):
    """leftover(p, q): the distribution of what the target says after a rejection."""
    p, q = _two_laws()
    left = (p - q).clamp_min(0)
    norm = lambda weights: weights / weights.sum()
    _compare(
        _call(answer, p, q),
        norm(left),
        [
            (left, "a distribution adds up to 1: divide by the sum"),
            (p, "from p itself, tokens that the draft proposes often would come too often: they have had their chance"),
            (norm((q - p).clamp_min(0)), "the other way round: where the target wants more than the draft gives"),
            (norm((p - q).abs()), "not the size of the difference: where q exceeds p nothing is owed"),
            (p - q, "a probability is not negative: where q exceeds p nothing is owed"),
            ((p - q).softmax(-1), "no softmax: these are probabilities already, cut at 0 and divided by their sum"),
            (norm(torch.minimum(p, q)), "that is what was kept; the leftover is what p has beyond it"),
        ],
        "max(0, p - q), divided by its sum",
    )


@exercise("5.3")
def _expected_tokens(answer):
    """expected_tokens(alpha, g): of one cycle with g drafted tokens, each kept with chance alpha."""
    for a, g in ((0.7, 4), (0.5, 2), (0.9, 10)):
        right = sum(a**i for i in range(g + 1))
        _compare(
            _call(answer, a, g),
            right,
            [
                (right - 1, "the target's own token is missing: the correction, or the bonus"),
                (right - a**g, "that is a chain of g - 1: the sum runs from a^0 to a^g, which are g + 1 terms"),
                (1 + g * a, "a guess counts only if all before it were kept: the i-th with chance a^i"),
                (g * a, "a guess counts only if all before it were kept: the i-th with chance a^i"),
                (1 / (1 - a), "that is an endless chain; yours ends after g guesses"),
                (1 + g * a**g, "a cycle keeps part of a chain too, not all or nothing"),
                ((1 - a) ** (g + 1) / (1 - a), "1 - a^(g + 1), not (1 - a)^(g + 1)"),
            ],
            "the i-th guess stays with chance a^i, and one token always comes from the target: sum them",
        )


# ---- 06 dynamic draft trees -----------------------------------------------------------------------------------------

_TREE_PARENTS = [-1, 0, 0, 1, 1, 2, 3]  # two children of the root; node 6 stands three levels deep


def _seen(parents: Sequence[int], most: int = 99) -> Tensor:
    """Each node and those above it, at most so many levels up."""
    seen = torch.eye(len(parents), dtype=torch.bool)
    for i in range(1, len(parents)):
        node, up = i, 0
        while node and up < most:
            node, up = parents[node], up + 1
            seen[i, node] = True
    return seen


@exercise("6.1")
def _ancestors(answer):
    """ancestors(parents) -> bool [n, n]: row i marks node i and every node above it. parents[0] = -1 is the root's."""
    parents, right = list(_TREE_PARENTS), _seen(_TREE_PARENTS)
    n = len(parents)
    eye = torch.eye(n, dtype=torch.bool)
    wrapped = right | (torch.arange(n) == n - 1)
    _compare(
        torch.as_tensor(_call(answer, parents)).bool(),
        right,
        [
            (right.T, "rows are the nodes that look, columns those that are seen: yours is transposed"),
            (right & ~eye, "a node sees itself too, or its row may be empty"),
            (_seen(parents, 1), "not only the parent: its parent too, up to the root"),
            (_seen(parents, 1) & ~eye, "not only the parent: its parent too, up to the root; and the node itself"),
            (
                torch.ones(n, n, dtype=torch.bool).tril(),
                "that is a chain's mask: brothers and cousins must not be seen",
            ),
            (wrapped, "parents[0] = -1 is no node: in Python, index -1 is the last one"),
        ],
        "parents come first: row i is its parent's row, and i itself",
        atol=0.1,
    )


@exercise("6.2")
def _tokens_of_a_tree(answer):
    """tree_tokens(confidence, parents): of one pass over this tree, if the draft is right about itself."""
    parents = list(_TREE_PARENTS)
    confidence = torch.tensor([1.0, 0.6, 0.3, 0.5, 0.4, 0.9, 0.7], dtype=torch.float64)
    value = torch.stack([confidence[row].prod() for row in _seen(parents)])
    leaves = [i for i in range(len(parents)) if i not in parents]
    _compare(
        _call(answer, confidence, parents),
        value.sum(),
        [
            (confidence.sum(), "a guess counts only if all above it were kept: multiply along the path"),
            (confidence.sum() - 1, "a guess counts only if all above it were kept: multiply along the path"),
            (value.sum() - 1, "the target's own token is missing: the root counts 1"),
            (value.sum() + 1, "the root is the target's token already: do not add it again"),
            (value[leaves].sum(), "a path may be kept in part: every node counts, not the leaves alone"),
            (1 + value[leaves].sum(), "a path may be kept in part: every node counts, not the leaves alone"),
            (
                max(float((value * row).sum()) for row in _seen(parents)),
                "every branch may be the right one: add them all",
            ),
            (value, "one number: add the values up"),
        ],
        "the value of a node is the product of the confidences on its path; add all values, the root's 1 included",
    )


@exercise("6.3")
def _another_level(answer):
    """another_level(tokens, cost, reach, extra) -> bool: does one more level raise tokens over cost?"""
    cases = [(3.0, 2.0, 0.5, 0.25), (3.0, 2.0, 0.3, 0.25), (1.5, 2.0, 0.2, 0.25), (3.0, 2.0, 0.3, 0.4)]
    cases += [(2.0, 1.0, 0.9, 0.4), (3.0, 2.0, 0.1, 0.4)]
    given = [bool(_call(answer, *case)) for case in cases]
    right = [r * c > t * e for t, c, r, e in cases]
    if given == right:
        return
    known = {
        tuple(r > e for _, _, r, e in cases): "a token is worth what the tree so far pays for it, not a plain step",
        tuple(t + r > c + e for t, c, r, e in cases): "that asks whether the cycle still pays; would it pay more?",
        tuple(r > 0 for _, _, r, _ in cases): "every level brings something; it has to bring more than it costs",
        tuple(r * t > e * c for t, c, r, e in cases): "upside down: the rate to beat is tokens / cost",
        tuple(not x for x in right): "the other way round",
    }
    raise Hint(known.get(tuple(given), "compare (tokens + reach) / (cost + extra) with tokens / cost"))


# ---- 07 guidance in one pass ----------------------------------------------------------------------------------------


@exercise("7.1")
def _wanted(answer):
    """wanted(v, no_text, scale, t, low): [B, tokens, values], a scale and a time of its own for each picture."""
    v, no_text = torch.randn(4, 3, 5, generator=_dice()), torch.randn(4, 3, 5, generator=_dice(1))
    scale, t, low = torch.tensor([1.0, 2.5, 4.0, 5.0]), torch.tensor([0.9, 0.4, 0.7, 0.2]), 0.4
    wide = scale[:, None, None]
    g, inside = no_text + wide * (v - no_text), (t > low)[:, None, None]
    right = combine_each(v, no_text, None, text_scale=scale, image_scale=None, guided=t > low, renorm_min=1.0)
    _compare(
        _call(answer, v, no_text, scale, t, low),
        right,
        [
            (g, "outside the interval the deployed sampler does not guide: there the student must say v"),
            (torch.where(inside, v, g), "the other way round: guided where t is above low"),
            (torch.where((t >= low)[:, None, None], g, v), "t = low is outside: low < t"),
            (torch.where(inside, v + wide * (v - no_text), v), "the scale is 1 + w: start from no_text, not from v"),
            (torch.where(inside, g, no_text), "outside the interval the prompt is still read: v, not no_text"),
            (torch.where(inside, g, torch.zeros(())), "outside the interval the student must say v, not nothing"),
        ],
        "no_text + scale * (v - no_text) where t > low, else v; scale and t as [:, None, None]",
    )


@exercise("7.2")
def _spoken_scale(answer):
    """spoken_scale(said, v, no_text): the scale at which no_text + a (v - no_text) comes closest to what was said."""
    v, no_text = torch.randn(64, 2, generator=_dice()), torch.randn(64, 2, generator=_dice(1))
    push = v - no_text
    for a in (1.0, 3.0):
        said = no_text + a * push + 0.3 * torch.randn(64, 2, generator=_dice(2))
        dot = lambda x, y: (x * y).sum()
        right = dot(said - no_text, push) / dot(push, push)
        _compare(
            _call(answer, said, v, no_text),
            right,
            [
                (right - 1, "that is w; the scale is 1 + w: measure from no_text, or add 1"),
                (
                    (said - no_text).norm() / push.norm(),
                    "a length also counts what points elsewhere: use the dot product",
                ),
                (dot(said - no_text, push) / push.norm(), "divide by the square of the length of v - no_text"),
                (dot(said - no_text, push), "divide by the square of the length of v - no_text"),
                (-right, "the sign: v - no_text is where guidance pushes"),
                (dot(said, push) / dot(push, push), "take no_text off what was said first"),
                (((said - no_text) / push).mean(), "a mean of ratios is ruled by its smallest divisors; sum first"),
                (((said - no_text) * push).sum(1) / (push * push).sum(1), "one number for all of them together"),
            ],
            "dot(said - no_text, push) / dot(push, push) with push = v - no_text, over all points",
            atol=1e-4,
        )


@exercise("7.3")
def _untold(answer):
    """The scale with which an untold student speaks, if half of the pictures are at 4, the others uniform in [1, 5]."""
    _number(
        answer,
        3.5,
        {
            3.0: "that is the mean of the uniform half; the other half is always at 4",
            4.0: "only half of the pictures are at 4",
            1.0: "not told is not unguided: what it is shown is guided",
            3.75: "average the two halves with equal weight: the uniform one has mean 3",
            2.5: "the mean of [1, 5] is not 2.5, and half of the pictures are at 4",
        },
        "guidance is linear in the scale, so a mean of guided velocities is guided by the mean scale",
    )


# ---- 08 segments ----------------------------------------------------------------------------------------------------


@exercise("8.1")
def _jump_velocity(answer):
    """jump_velocity(x_t, x_s, t, s): the velocity with which one Euler step from x_t at t lands on x_s at s."""
    x_t, x_s = torch.randn(4, 2, generator=_dice()), torch.randn(4, 2, generator=_dice(1))
    t, s = torch.tensor([0.9, 0.8, 0.5, 1.0]), torch.tensor([0.3, 0.6, 0.0, 0.2])
    right = (x_s - x_t) / (s - t)[:, None]
    _compare(
        _call(answer, x_t, x_s, t, s),
        right,
        [
            (-right, "s < t, so the step s - t is negative: (x_s - x_t) / (s - t)"),
            (x_t - x_s, "divide by the time the jump takes"),
            (x_s - x_t, "divide by the time the jump takes"),
            (right * (s - t)[:, None] ** 2, "divide by s - t, do not multiply"),
            ((x_t - x_s) / t[:, None], "the jump ends at s, not at 0: it takes t - s"),
        ],
        "solve x_s = x_t + (s - t) v for v; t and s are [B], points are [B, 2]",
    )


@exercise("8.2")
def _lower_edge(answer):
    """lower_edge(n, fine, segments): place of the edge ahead of a jump from place n of the fine grid."""
    for fine, count in ((48, 3), (12, 4), (6, 1)):
        n = torch.arange(fine)
        size = fine // count
        right = (n // size + 1) * size
        _compare(
            torch.stack([torch.as_tensor(_call(answer, int(i), fine, count)) for i in n]),
            right,
            [
                (n // size * size, "places count down in time: that is the upper edge, where the segment begins"),
                (
                    -(-n // size) * size,
                    "a start on an edge jumps down the segment below it: place 0 would jump to itself",
                ),
                (right - 1, "the edge is the first place of the next segment"),
                (n // size + 1, "that is the number of the edge; its place is so many times the size of a segment"),
                (
                    (n // count + 1) * count,
                    f"{fine} steps in {count} segments: a segment has {size} steps, not {count}",
                ),
                (torch.full_like(n, fine), "that is the end of the path: jumps stop at the edge of their segment"),
            ],
            "size = fine // segments; the segment of n begins at n // size * size and ends one size later",
        )


@exercise("8.3")
def _end(answer):
    """end_of(n, edge, share): where jumps end, uniform over the places n + 1 ... edge; share is uniform in [0, 1)."""
    n, edge = 17, 32
    shares = (torch.arange(150) + 0.5) / 150
    at = lambda low, high: [low + int(float(s) * (high - low)) for s in shares]
    given = [float(_call(answer, n, edge, float(s))) for s in shares]
    right = at(n + 1, edge + 1)
    for wrong, hint in (
        (at(n, edge), "place n itself is no end: the teacher's small step already ends at n + 1"),
        (at(n, edge + 1), "place n itself is no end: the teacher's small step already ends at n + 1"),
        (at(n + 1, edge), "the edge itself is never reached: there are edge - n places to choose from"),
        ([edge] * len(shares), "that is PCM: always to the edge. TSCD draws the end"),
        ([n + 1 + float(s) * (edge - n) for s in shares], "places are whole numbers: cut the product off"),
        ([n + 1 + round(float(s) * (edge - n - 1)) for s in shares], "cut off; rounding halves the chance of the ends"),
    ):
        if given == wrong:
            raise Hint(hint)
    if given != right:
        raise Hint("n + 1 + int(share * (edge - n)): edge - n places, the first n + 1")


@exercise("8.4")
def _target(answer):
    """target(x, t, m, e, teacher, slow): the teacher's small step from t to m, then the slow student's jump to e."""
    x, t, m, e = torch.randn(5, 2, generator=_dice()), torch.tensor(0.9), torch.tensor(0.8), torch.tensor(0.5)
    teacher, slow = lambda x, t: torch.sin(x) + t, lambda x, t: torch.cos(2 * x) * t
    lower = jump(x, teacher(x, t), t, m)
    _compare(
        _call(answer, x, t, m, e, teacher, slow),
        jump(lower, slow(lower, m), m, e),
        [
            (jump(lower, slow(lower, t), m, e), "the slow student jumps from the lower point, at the lower time m"),
            (jump(lower, slow(x, t), m, e), "ask the slow student at the lower point, not at x"),
            (jump(x, slow(lower, m), m, e), "the jump starts from the lower point"),
            (jump(x, slow(lower, m), t, e), "the jump starts from the lower point, at time m"),
            (jump(x, slow(x, t), t, e), "the teacher's small step is missing: nothing would be learnt"),
            (jump(lower, teacher(lower, m), m, e), "the long jump is the slow student's, not the teacher's"),
            (jump(lower, slow(lower, m), t, e), "from m to e: the small step has used up t - m"),
            (lower, "that is the small step; the jump to e is missing"),
        ],
        "lower = x + (m - t) teacher(x, t); then lower + (e - m) slow(lower, m)",
    )


# ---- 09 distribution matching ---------------------------------------------------------------------------------------


@exercise("9.1")
def _matching_direction(answer):
    """direction(x0, real, fake) of samples [B, n, values]: the slope of the loss, one scale for each sample."""
    size = torch.tensor([1.0, 3.0, 0.5])[:, None, None]
    x0, real, fake = (size * torch.randn(3, 4, 2, generator=_dice(i)) for i in range(3))
    far = (x0 - real).abs()
    scale = far.mean((1, 2), keepdim=True)
    _compare(
        _call(answer, x0, real, fake),
        (fake - real) / scale,
        [
            (
                (real - fake) / scale,
                "that is where samples should go; a loss falls *against* its slope, so fake - real",
            ),
            (fake - real, "the scale is missing: divide by the mean of |x0 - real|"),
            ((fake - real) / far.mean(), "each sample has a scale of its own: no mean over the batch"),
            (
                (fake - real) / (x0 - fake).abs().mean((1, 2), keepdim=True),
                "the scale is the distance to the real guess",
            ),
            ((fake - real) / far, "one number for a sample, or each value only keeps its sign"),
            ((fake - real) / far.mean(2, keepdim=True), "one number for a sample: the mean over tokens and values"),
            ((fake - real) / far.sum((1, 2), keepdim=True), "the mean of |x0 - real|, not the sum"),
            ((fake - real) / (x0 - real).square().mean((1, 2), keepdim=True), "absolute differences, not squares"),
            (x0 - (fake - real) / scale, "that is where the samples would be after a step: give the slope alone"),
        ],
        "(fake - real) / mean |x0 - real|, the mean over all but the first dimension",
    )


@exercise("9.2")
def _coupled_stop(answer):
    """stops_at(s, t): where a = coupled student of N(0, s^2) stops if all re-noising goes to one time t."""
    for s, t in ((1.0, 0.25), (0.5, 0.4), (2.0, 0.7)):
        c = (1 - t) * s**2 / ((1 - t) ** 2 * s**2 + t**2)
        _compare(
            _call(answer, s, t),
            s**2 * (1 - t) / t,
            [
                (s, "that is where fresh noise stops; here the noised point is ((1 - t) a + t) z"),
                (c * t, "that solves a = c t, but the noised point holds a too: bring its (1 - t) a to the left"),
                (c, "c is the share the real score keeps of y; where does a z equal c y?"),
                (c * t / (1 - c), "1 - c (1 - t) below the line: a is multiplied by 1 - t when noised"),
                (c * t / (1 + c * (1 - t)), "the sign: a - c (1 - t) a = c t"),
                (s**2 * t / (1 - t), "upside down: the more noise, the narrower"),
                (s * ((1 - t) / t) ** 0.5, "no root: a itself appears, not its square"),
                (s * (1 - t) / t, "s enters as a variance, squared"),
                ((1 - t) / t, "s is missing: it enters as a variance, squared"),
            ],
            "the push is a - c ((1 - t) a + t) with c as in the text; set it to zero and solve for a",
            atol=1e-4,
        )


@exercise("9.3")
def _stored_state(answer):
    """start_of(t, grid): number j of the stored state from which the student of times t [B] begins."""
    grid, t = time_grid(6, 3.0), torch.tensor([0.99, 0.9, 0.8, 0.65, 0.5, 0.1, 0.01])
    right = (grid > t[:, None]).sum(1) - 1
    even = (6 * (1 - t)).long()
    given = torch.as_tensor(_call(answer, t, grid))
    _compare(
        given,
        right,
        [
            (right + 1, "that state lies below t; the student comes from above it: grid[j] > t"),
            (5 - right, "states are stored from noise to data: state 0 is at t = 1"),
            (right - 1, "one too high up: grid[j + 1] <= t < grid[j]"),
            ((grid - t[:, None]).abs().argmin(1), "not the nearest: the one just above t"),
            (even, "the grid is shifted, so its times are not evenly spaced: compare t with them"),
            ((6 * t).long(), "states are stored from noise to data, and the grid is shifted: compare t with its times"),
            (grid[right], "the number of the state, not its time"),
        ],
        "the last j with grid[j] > t: how many times of the grid lie above t?",
        atol=0.1,
    )
