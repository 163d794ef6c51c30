"""Rendered scenes to compare: right ones, and such as are wrong in one thing.

A model that draws well makes few mistakes, and from few a reward does not learn to see them. What collections of real
preferences take from photographs and from weaker models (HPSv3, arXiv 2508.03789, has both), the tiny world renders:
for each request two scenes that are right, and two with one change. They are clean, so the reward still sees no color,
size or pattern that the renderer does not make.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hb.data.preference_pool import PreferencePool, written
from hb.data.tokens import Tokenizer
from hb.seeding import TRAINING
from hb.world.annotator import merits
from hb.world.benchmark import EditCase
from hb.world.judge.reading import Reading, ReadThing
from hb.world.language import LanguageError, apply, parse_edit, sample_edit
from hb.world.render import render, to_uint8
from hb.world.scene import Request, Scene, scenes_that_fit

PICTURES = 4  # of each request: two are right


def rendered_preferences(
    asked: Sequence[Request] | Sequence[EditCase], text: Tokenizer, *, side: int, seed: int = 0
) -> PreferencePool:
    """A pool of rendered scenes, not compared yet (`PreferencePool.clicked`). Merits are read off the scenes. Requests
    that a picture has no room for are left out."""
    rng = np.random.default_rng([TRAINING, seed, 67])
    if isinstance(asked[0], EditCase):
        scenes = [scene for case in asked for scene in outcomes(case, rng)]
    else:
        fitting, kept = scenes_that_fit(asked, rng, copies=PICTURES)
        drawn, asked = fitting.to_list(), [asked[k] for k in kept]
        scenes = [scene if k % PICTURES < 2 else changed(scene, rng) for k, scene in enumerate(drawn)]
    request = torch.arange(len(asked)).repeat_interleave(PICTURES)
    found = [merits(clean_reading(scene), asked[number]) for scene, number in zip(scenes, request.tolist())]
    return written(asked, text, side, rng, to_uint8(render(scenes, side)), request, torch.tensor(found))


def changed(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene after a random edit: one thing recolored, moved, removed ..., or another background."""
    return sample_edit(scene, rng).target


def outcomes(case: EditCase, rng: np.random.Generator) -> list[Scene]:
    """Four results of an edit: two right ones, which differ where the instruction leaves something open; nothing done;
    and one change too many."""
    try:
        other = apply(parse_edit(case.edit.instruction), case.source, rng)
    except LanguageError:  # no room
        other = case.edit.target
    return [case.edit.target, other, case.source, changed(case.edit.target, rng)]


def clean_reading(scene: Scene) -> Reading:
    """What the judge would read in a perfect picture of this scene."""
    things = tuple(ReadThing(thing, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0) for thing in scene.things)
    return Reading(things, scene.background, (), 1.0, 1.0)
