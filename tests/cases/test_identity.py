"""Identity by rounded weights: one's own folder opens, whatever type it was written in."""

from dataclasses import replace

import pytest
import torch

import hb
from hb.models.checkpoint import CheckpointError

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ones_own_folder_opens(whole, tmp_path, picture, dtype):
    """Red while the stamp stayed that of the weights before rounding: "made from another teacher"."""
    whole.save_pretrained(tmp_path, dtype=dtype)
    again = hb.load(tmp_path)
    assert again.draw("a star", nfe=6).student == "six"
    assert again.draft.is_for(again.bagel)
    assert again.edit(picture, "remove the star", nfe=6).nfe == 6


def test_a_folder_written_from_rounded_weights_opens(whole, tmp_path):
    whole.save_pretrained(tmp_path / "a")
    hb.load(tmp_path / "a", dtype=torch.bfloat16).save_pretrained(tmp_path / "b")
    assert hb.load(tmp_path / "b").draw("a star", nfe=6).student == "six"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_another_teachers_student_is_not_made_ones_own_by_saving(model, tmp_path, dtype):
    model.students["six"] = replace(model.students["six"], teacher="somebody")
    model.save_pretrained(tmp_path, dtype=dtype)
    with pytest.raises(CheckpointError, match="made from another teacher"):
        hb.load(tmp_path).draw("a star", nfe=6)
