"""How much a draft guesses before the target checks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Plan:
    """How much is guessed. A chain has width 1.

    depth         levels at most; 0 is plain decoding
    width         children of each node that is expanded, and nodes expanded on each level ...
    main_path     ... or only the likeliest of them: the others stay leaves, and a level costs what a chain's does
    budget        guesses in one pass of the target at most
    reward        tokens one unit of work is worth, work counted in plain steps: `costs` says what a level and a node
                  cost. 0 turns the early stop off
    costs         (a drafting step, a cycle's fixed part beyond the target's step, one more node in the target's pass),
                  in units of a plain step
    pauses        does drafting pause where it has not paid for a while (decode.Governor)? Off, to measure a plan as it
                  is
    start_after   tokens decoded plainly before the draft is asked at all: short answers are over by then ...
    long_after    ... but at once after these first words (token numbers): answers that begin so are long
    rule          how guesses are drawn and checked at temperature > 0, see `verify`; a tree takes "point"
    """

    depth: int = 10
    width: int = 1
    budget: int = 10
    main_path: bool = False
    reward: float = 0.0
    costs: tuple[float, float, float] = (0.2, 0.4, 0.05)
    start_after: int = 1
    rule: str = "point"
    pauses: bool = True
    long_after: tuple[int, ...] = ()

    def __post_init__(self):
        if min(self.depth, self.start_after) < 0 or min(self.width, self.budget) < 1:
            raise ValueError(f"depth and start_after count from 0, width and budget from 1, got {self}")
        if self.rule != "point" and self.width > 1:
            raise ValueError(f"rule {self.rule!r} is for chains here; a tree of width {self.width} takes 'point'")

    @property
    def is_narrow(self) -> bool:
        """Is one node expanded on each level?"""
        return self.main_path or self.width == 1

    @staticmethod
    def of(plans: dict[str, dict], temperature: float = 0.0) -> Plan:
        """The plan of a checkpoint for a temperature: the one tuned nearest to it. plans: temperature in words ->
        arguments."""
        return Plan.from_dict(plans[min(plans, key=lambda t: abs(float(t) - temperature))])

    @staticmethod
    def from_dict(values: dict) -> Plan:
        former = {"spine": "main_path"}  # until 0.1
        values = {former.get(name, name): value for name, value in values.items()}
        pairs = {name: tuple(values.get(name, getattr(Plan, name))) for name in ("costs", "long_after")}
        return Plan(**values | pairs)

    def begins(self, rows: Sequence[list[int]]) -> bool:
        """Is any answer far enough, or of a kind, that drafting may begin?"""
        return any(len(row) >= self.start_after or row[:1] and row[0] in self.long_after for row in rows)

    def is_worth(self, reach: Float[Tensor, "B"]) -> bool:
        """Is another level worth a drafting step and its nodes? reach: the chance that the target gets there, in each
        row."""
        nodes = 1 if self.is_narrow else self.budget / self.depth
        return self.reward == 0 or float(reach.mean()) >= self.reward * (self.costs[0] + nodes * self.costs[2])

    def cost(self, depth: int, nodes: int) -> float:
        """What a cycle costs in plain steps."""
        step, fixed, node = self.costs
        return 1 + fixed + depth * step + nodes * node
