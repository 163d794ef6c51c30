"""The observatory (`hb.eval.observatory`) on a student that a reward trains: its checks in the run's log, and the rule
that ends the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hb.eval.observatory import Observatory
from hb.eval.one_step import beside
from hb.files import append_rows, aside
from hb.infer.artifacts import Student
from hb.infer.pipeline import Model
from hb.models.rewards import RewardModel
from hb.train.sheets import tiled

SHOWN, IN_A_ROW = 32, 8  # pictures of a check that are kept


class WatchReward:
    """A measure for `hb.train.loggers.LogMeasured`: the figures of one check of a stage's student, its slow average.

    Each check is also a line of FOLDER/observatory.jsonl, and pictures of some noises: FOLDER/observatory-000020.png.
    A stopped run that goes on looks anew: checks of the session before are not compared with.

    rewards  by name, the trained one first, the held-out ones after it; without a held-out one the rule never acts
    """

    def __init__(
        self, model: Model, student: Student, rewards: Mapping[str, RewardModel], *, folder: Path, pictures: int = 16
    ):
        self.model, self.student, self.folder = model, student, Path(folder)
        self.observatory = Observatory(model, rewards, pictures=pictures)
        self.best: dict[str, Tensor] | None = None

    @torch.compiler.set_stance("force_eager")  # these batches have shapes of their own
    def __call__(self, stage: nn.Module) -> dict[str, float]:
        step, whole, kept = stage.global_step, beside(self.model, self.student, stage), []

        def draw(prompts: list[str], seeds: list[int]) -> Tensor:
            drawn = torch.as_tensor(whole.draw(prompts, seed=seeds, student=self.student.stage, warn=False).pixels)
            kept.append(drawn[:: max(1, len(drawn) // SHOWN)][:SHOWN])
            return drawn

        seen = self.observatory.check(draw, step)
        if seen.held_out.mean() >= max((look.held_out.mean() for look in self.observatory.looks[:-1]), default=-np.inf):
            self.best = {name: value.detach().clone() for name, value in stage.average.state_dict().items()}
        row = seen.to_dict() | dict(hacked=float(self.observatory.stop))
        append_rows(self.folder / "observatory.jsonl", [dict(step=step) | row])
        with aside(self.folder / f"observatory-{step:06}.png") as part:
            tiled(list((kept[0] * 2 - 1).split(IN_A_ROW))).save(part, "png")
        return row

    def ends(self, stage: nn.Module) -> bool:
        """By the rule, is the reward being hacked? The student's average then goes back to what it was at the best
        check, the one with the largest held-out rewards."""
        if not self.observatory.stop:
            return False
        stage.average.load_state_dict(self.best)
        return True
