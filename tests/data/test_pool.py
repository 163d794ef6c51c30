"""A pool keeps what each row was made from, reads files of before version 0.2, and has the widths it was made with."""

from dataclasses import fields

import pytest
import torch
from safetensors.torch import load_file, save_file

import hb.data.pool
from hb.data.batches import BatchSizes, pick
from hb.data.pool import Budget, Pool, make_pool
from hb.data.records import unpack
from hb.models.tokenizer import Text
from hb.train.distill.batch import pick_batch
from hb.world.judge.edits import score_edit
from hb.world.judge.judge import check
from hb.world.judge.reading import read
from hb.world.language import parse, parse_edit
from hb.world.render import render
from hb.world.scene import PLACES, Request, Scenes, Wish
from tests.conftest import TOKENIZER

SIZES = BatchSizes(draw=6, edit=5, dialogue=0)


@pytest.fixture(scope="module")
def text():
    return Text.load(TOKENIZER)


@pytest.fixture(scope="module")
def pool(text):
    """Latents are the pictures themselves, so that a judge can look at them."""
    return make_pool(lambda pictures: pictures, text, side=64, prompts=12, scenes=10, bar=False)


def words(text, ids, length):
    return text.decode(ids[: int(length)].tolist())


def test_each_row_of_a_batch_says_what_was_asked_and_a_judge_finds_its_picture_right(pool, text):
    batch = pick(pool, SIZES, 0, 3)
    for i in range(SIZES.draw):
        request = unpack(batch["draw_record"][i])
        said = parse(words(text, batch["draw_ids"][i], batch["draw_length"][i]))
        assert sorted(map(repr, said.wishes)) == sorted(map(repr, request.wishes))
        assert (said.relation, said.background) == (request.relation, request.background)
        assert all(check(reading, request).right for reading in read(batch["draw_latent"][i].float()))


def test_each_edit_of_a_batch_says_its_scenes_and_a_judge_finds_its_outcome_right(pool, text):
    batch = pick(pool, SIZES, 0, 3)
    for i in range(SIZES.edit):
        case = unpack(batch["edit_record"][i])
        assert words(text, batch["edit_ids"][i], batch["edit_length"][i]) == case.edit.instruction
        assert parse_edit(case.edit.instruction).group == case.edit.group
        before, after = render(Scenes.from_list([case.source, case.edit.target]), 64)
        assert torch.allclose(before, batch["scene_latent"][i].float(), atol=0.02)
        assert torch.allclose(after, batch["edit_latent"][i].float(), atol=0.02)
        outcome = read(batch["edit_latent"][i].float()[None])[0]
        score = score_edit(outcome, case.source, case.edit.target, case.edit.free)
        assert score.success == 1 and score.kept == 1


@pytest.mark.parametrize("task", ["draw", "edit"])
def test_a_step_of_distillation_keeps_its_requests_too(pool, task):
    batch = pick_batch(pool, {task: 4}, seed=0, step=0)
    records = [unpack(row) for row in batch[f"{task}_record"]]
    own = [pool.request(row) for row in range(12)] if task == "draw" else [pool.edit(row) for row in range(10)]
    assert all(record in own for record in records)


def test_a_file_keeps_the_records(pool, tmp_path):
    pool.save(tmp_path / "pool.safetensors")
    again = Pool.load(tmp_path / "pool.safetensors")
    assert all(torch.equal(getattr(again, f.name), getattr(pool, f.name)) for f in fields(Pool))
    assert again.request(7) == pool.request(7) and again.edit(7) == pool.edit(7)


def test_a_pool_of_before_version_0_2_is_read_and_says_that_it_holds_no_requests(pool, tmp_path):
    path = tmp_path / "pool.safetensors"
    pool.save(path)
    arrays = {name: array for name, array in load_file(path).items() if "record" not in name}
    arrays = {name.replace("features", "seen"): array for name, array in arrays.items()}
    arrays |= {name: array.short() for name, array in arrays.items() if array.dtype == torch.int32}
    save_file(arrays, path, {"made_of": '{"side": 64}'})
    old = Pool.load(path)
    assert Pool.made_of(path) == {"side": 64}
    batch, wanted = (pick(p, SIZES, 0, 3) for p in (old, pool))
    assert all(torch.equal(batch[name], wanted[name]) for name in wanted if "record" not in name)
    assert batch["draw_ids"].dtype == torch.int32
    with pytest.raises(ValueError, match="before pools kept what their rows were made from; delete its file"):
        old.request(0)


def test_a_file_that_lacks_more_is_refused_with_a_sentence(pool, tmp_path):
    path = tmp_path / "pool.safetensors"
    pool.save(path)
    save_file({n: a for n, a in load_file(path).items() if n != "edit_latent"}, path)
    with pytest.raises(ValueError, match="lacks edit_latent"):
        Pool.load(path)


def test_a_pool_has_the_widths_it_was_made_with(text):
    budget = Budget(draw_tokens=20, edit_tokens=9, pictures_a_prompt=2)
    pool = make_pool(lambda p: p[:, :, ::8, ::8], text, side=64, prompts=5, scenes=5, bar=False, budget=budget)
    assert pool.budget == budget
    assert pool.draw_length.max() <= 20 and pool.edit_length.max() <= 9
    assert pick(pool, SIZES, 0, 0)["draw_latent"].shape == (6, 2, 3, 8, 8)


def test_token_ids_are_32_bits_wide(text):
    class Large:  # the released vocabulary has 152,064 tokens: 16 bits hold 32,767
        start, end = 151_644, 151_645

        def encode(self, words):
            return [150_000 + i for i in text.encode(words)]

    pool = make_pool(lambda p: p[:, :, ::8, ::8], Large(), side=64, prompts=2, scenes=2, bar=False)
    assert pool.draw_ids.dtype == torch.int32 and (pool.draw_ids[:, 0] == 151_644).all() and pool.edit_ids.min() >= 0


def test_a_step_cannot_have_edits_of_a_pool_without_any(text):
    pool = make_pool(lambda p: p[:, :, ::8, ::8], text, side=64, prompts=3, scenes=0, bar=False)
    assert (pool.prompts, pool.edits) == (3, 0)
    with pytest.raises(ValueError, match="holds no edits, and a step is to have 5"):
        pick(pool, SIZES, 0, 0)
    batch = pick(pool, SIZES.fitting(pool), 0, 0)
    assert len(batch["draw_ids"]) == 6 and len(batch["edit_ids"]) == 0


def test_prompts_without_room_are_replaced(text, monkeypatch):
    """Four large things in one ninth of the picture: nothing can be drawn, and other prompts take their places."""
    crowded, real, calls = Request((Wish(size="large", place=PLACES[0]),) * 4), hb.data.pool.sample_request, []

    def some_crowded(task, rng, skew):
        calls.append(task)
        return crowded if len(calls) == 1 else real(task, rng, skew)

    monkeypatch.setattr(hb.data.pool, "sample_request", some_crowded)
    pool = make_pool(lambda p: p[:, :, ::8, ::8], text, side=64, prompts=3, scenes=0, bar=False)
    assert pool.prompts == 3 and len(calls) == 4
    assert all(pool.request(row).wishes != crowded.wishes for row in range(3))
