"""Which tasks the prompts of a pool are of, and in which shares."""

from __future__ import annotations

from collections.abc import Mapping

from hb.world.language import DRAWN_TASKS

# many rich prompts, though no task of SceneEval asks for them: what they say need not be guessed, so they teach faster.
# Counting is learnt last: with 8% of the prompts it stood at 0.45 where all else was at 0.8 to 1
DRAW_MIX = dict(
    single=0.03, two=0.12, counting=0.26, colors=0.03, position=0.10, attribution=0.14, rich=0.32, complex=0.0
)
SKEW = 0.5  # rich prompts say two thirds of what there is to say, not half

assert set(DRAW_MIX) == set(DRAWN_TASKS)


def mixed(shares: Mapping[str, float]) -> dict[str, float]:
    """DRAW_MIX with these shares for the tasks that are named; the others part what is left as they do in DRAW_MIX."""
    unknown = [task for task in shares if task not in DRAW_MIX]
    if unknown:
        raise ValueError(f"no task {unknown[0]!r}; prompts are of {', '.join(DRAW_MIX)}")
    others = {task: share for task, share in DRAW_MIX.items() if task not in shares}
    left = round(1 - sum(shares.values()), 9)  # 0.1, 0.2 and 0.7 are 1 to a person
    if not all(0 <= share <= 1 for share in shares.values()) or left < 0 or not others:
        raise ValueError(
            "shares are 0 or more, and 1 or less together, and one task at least is left to take the rest; "
            f"got {' '.join(f'{task}={share:g}' for task, share in shares.items())}"
        )
    return dict(shares) | {task: left * share / sum(others.values()) for task, share in others.items()}
