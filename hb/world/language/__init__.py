"""All the speech of the tiny world in one place: prompts, descriptions, questions and edits."""

from hb.world.language.choices import CHOOSING, names, others_instead, sample_choice
from hb.world.language.descriptions import (
    DESCRIBE_REQUEST,
    DESCRIBE_REQUESTS,
    PLACE_MARGIN,
    STYLES,
    Match,
    Told,
    describe,
    described_right,
    parse_description,
    place_is_right,
)
from hb.world.language.edits import GROUPS, Command, Edit, apply, find, parse_edit, sample_chain, sample_edit, say_edit
from hb.world.language.prompts import DRAWN_TASKS, SIX_TASKS, TASKS, parse, sample_complex, sample_request, say
from hb.world.language.questions import QUESTION_KINDS, Question, ask
from hb.world.language.words import LanguageError, read_wish

__all__ = [
    "CHOOSING", "DESCRIBE_REQUEST", "DESCRIBE_REQUESTS", "DRAWN_TASKS", "GROUPS", "PLACE_MARGIN", "QUESTION_KINDS",
    "SIX_TASKS", "STYLES", "TASKS",
    "Command", "Edit", "LanguageError", "Match", "Question", "Told",
    "apply", "ask", "describe", "described_right", "find", "names", "others_instead", "parse", "parse_description",
    "parse_edit", "place_is_right", "read_wish", "sample_chain", "sample_choice", "sample_complex", "sample_edit",
    "sample_request", "say", "say_edit",
]  # fmt: skip
