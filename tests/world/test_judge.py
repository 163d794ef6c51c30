"""The judge reads clean pictures exactly, forgives what an autoencoder does, refuses the rest, and says why."""

import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from hb.world.judge.damage import GRADES, confusion, damage, format_confusion, random_scenes
from hb.world.judge.edits import edit_region, picked, score_edit
from hb.world.judge.faults import FAULTS, faults
from hb.world.judge.judge import check, in_place, judge, same_scene
from hb.world.judge.reading import ATTRIBUTES, COLOR_TOLERANCE, nearest_color, read
from hb.world.language import apply, find, names, others_instead, parse_edit, sample_edit, sample_request
from hb.world.render import COLOR_RGB, render
from hb.world.scene import COLORS, MAX_TURN, RELATIONS, SHAPES, Request, Scene, Thing, Wish, sample_scenes

STAR = Thing("star", "blue", "small", 0.25, 0.25, turn=0.2)
CIRCLE = Thing("circle", "red", "large", 0.7, 0.3)
MOON = Thing("moon", "yellow", "large", 0.3, 0.7, texture="striped", turn=-0.3)
HEART = Thing("heart", "pink", "small", 0.75, 0.75)
SCENE = Scene((STAR, CIRCLE, MOON, HEART), "navy")


@cache
def scenes(n, seed=0):
    return random_scenes(n, np.random.default_rng(seed))


def seen(*things, background="navy"):
    return read(render([Scene(things, background)]))[0]


def share_exact(readings, truth):
    right = [r.clean and same_scene(r.scene, truth.scene(i)) for i, r in enumerate(readings)]
    return np.mean(right)


# ---- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side, n", [(64, 120), (128, 30)])
def test_clean_renders_are_read_exactly(side, n):
    assert share_exact(read(render(scenes(n), side)), scenes(n)) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("side, n", [(64, 10_000), (128, 2_000)])
def test_clean_renders_are_read_exactly_at_length(side, n):
    assert share_exact(read(render(scenes(n, 1), side)), scenes(n, 1)) >= 0.995


def test_centres_turns_and_shades_are_found_to_a_hair():
    for reading, truth in zip(read(render(scenes(60))), scenes(60).to_list()):
        for thing in truth.things:
            near = min((t.thing for t in reading.things), key=lambda t: np.hypot(t.x - thing.x, t.y - thing.y))
            assert np.hypot(near.x - thing.x, near.y - thing.y) < 0.2 / 64
            assert near.shade == pytest.approx(thing.shade, abs=0.01)
            if thing.shape not in ("circle", "ring"):
                assert near.turn == pytest.approx(thing.turn, abs=0.02)


def test_every_word_of_the_world_is_told_apart():
    for color in COLORS:
        things = [
            Thing(shape, color, size, 0.3, 0.6, texture)
            for shape in SHAPES
            for size in ("small", "large")
            for texture in ("plain", "striped")
        ]
        for background in ("navy", "gray"):
            pictures = render([Scene((thing,), background) for thing in things])
            for thing, reading in zip(things, read(pictures)):
                assert reading.clean and same_scene(reading.scene, Scene((thing,), background)), (thing, reading)


def test_stripes_on_round_things_are_found_at_every_turn():
    turns = np.linspace(-MAX_TURN, MAX_TURN, 12)
    turned = [Scene((Thing(s, "red", "large", 0.43, 0.57, "striped", t),)) for s in ("circle", "ring") for t in turns]
    for truth, reading in zip(turned, read(render(turned, 128))):
        assert reading.clean and same_scene(reading.scene, truth), truth
        assert reading.things[0].thing.turn == pytest.approx(truth.things[0].turn, abs=0.01)


def test_what_an_autoencoder_does_is_forgiven():
    worn = damage(render(scenes(100)), "reconstruct", 1.0, torch.Generator().manual_seed(0))
    assert share_exact(read(worn), scenes(100)) >= 0.99


def test_a_reading_does_not_depend_on_the_order_of_things_or_on_the_company():
    mixed = Scene(SCENE.things[::-1], SCENE.background)
    a, b = read(render([SCENE, mixed]))
    assert a.scene == b.scene
    assert read(render([SCENE])[0]).scene == a.scene


def test_64_and_128_pixels_show_the_same_scene():
    small, large = read(render([SCENE], 64))[0], read(render([SCENE], 128))[0]
    assert same_scene(small.scene, large.scene, reach=0.2 / 64)


def test_things_whose_corners_touch_are_told_apart():
    heart = Thing("heart", "blue", "large", 0.5264, 0.4807, turn=0.1957)
    circle = Thing("circle", "orange", "small", 0.3871, 0.1973)
    worn = damage(render([Scene((heart, circle), "navy")]), "reconstruct", 1.0, torch.Generator().manual_seed(0))
    assert {t.thing.shape for t in read(worn)[0].things} == {"heart", "circle"}
    square = Thing("square", "cyan", "large", 0.80574630, 0.63680386, "striped", -0.06818687, 0.97582075)
    heart = Thing("heart", "pink", "small", 0.58889218, 0.86943998, "striped", -0.13104753, 0.88660723)
    touching = Scene((square, heart), "beige")
    assert same_scene(read(render([touching]))[0].scene, touching)


# ---- refusing -------------------------------------------------------------------------------------------------------

REFUSED = [(kind, strength) for kind, grades in GRADES.items() for strength, accept in grades if accept is False]


@pytest.mark.parametrize("kind, strength", REFUSED)
def test_damage_is_refused(kind, strength):
    broken = damage(render(scenes(25)), kind, strength, torch.Generator().manual_seed(0))
    assert np.mean([r.clean for r in read(broken)]) <= 0.04


@pytest.mark.parametrize("kind, strength", [("blur", 1.5), ("cut", 0.4), ("gray", 0.7)])
def test_shapes_that_are_damaged_cost_cleanliness(kind, strength):
    broken = damage(render(scenes(16)), kind, strength, torch.Generator().manual_seed(0))
    assert np.mean([r.shape_cleanliness for r in read(broken)]) < 0.7
    assert np.mean([r.shape_cleanliness for r in read(render(scenes(16)))]) == 1.0


@pytest.mark.parametrize("kind, strength", [("noise", 0.08), ("ghost", 0.4)])
def test_backgrounds_that_are_damaged_cost_cleanliness(kind, strength):
    broken = damage(render(scenes(16)), kind, strength, torch.Generator().manual_seed(0))
    assert np.mean([r.background_cleanliness for r in read(broken)]) < 0.7
    assert np.mean([r.background_cleanliness for r in read(render(scenes(16)))]) == 1.0


@pytest.mark.parametrize("blur", [0.0, 0.5, 1.0, 1.5])
def test_the_blur_of_things_is_measured(blur):
    soft = damage(render(scenes(10)), "blur", blur, torch.Generator()) if blur else render(scenes(10))
    measured = [t.blur for r in read(soft) for t in r.things]
    assert np.median(measured) == pytest.approx(blur, abs=0.1)


def test_stripes_must_be_darker_shades_of_their_thing():
    plain, striped = (Scene((replace(HEART, size="large", color="green", texture=t),)) for t in ("plain", "striped"))
    pink = Scene((replace(HEART, size="large"),))
    green_taken = render([striped]) - render([plain])
    assert "color" in read((render([pink]) + green_taken).clamp(0, 1))[0].all_flaws[0]


def test_no_colour_half_way_to_a_neighbour_is_a_colour():
    half = (COLOR_RGB + np.roll(COLOR_RGB, 1, 0)) / 2
    assert (nearest_color(half)[2] > COLOR_TOLERANCE).all()
    assert (nearest_color(0.9 * COLOR_RGB)[0] == np.arange(len(COLORS))).all()


def test_things_that_the_world_does_not_hold_are_refused():
    small = render([Scene((Thing("circle", "red", "small", 0.5, 0.5),), "white")], 128)[..., 10:118, 10:118]
    enlarged = torch.nn.functional.interpolate(small, 64)[0]
    assert any("neither small nor large" in flaw for flaw in read(enlarged).all_flaws)
    assert any("partly outside" in flaw for flaw in seen(replace(HEART, x=0.08)).all_flaws)
    assert any("touch" in flaw for flaw in seen(CIRCLE, replace(CIRCLE, color="blue", x=CIRCLE.x - 0.335)).all_flaws)
    assert any("turned too far" in flaw for flaw in seen(replace(HEART, turn=0.6)).all_flaws)
    halves = render([SCENE, Scene((replace(CIRCLE, x=0.5, y=0.5, size="small"),), "navy")])
    assert any("5 things" in flaw for flaw in read(_overlaid(halves)).all_flaws)


def _overlaid(pictures):
    """One picture with the things of both; all backgrounds are navy."""
    ground = pictures[:, :, :1, :1]
    return ground[0] + (pictures - ground).sum(0)


def test_flaws_are_sentences_that_say_what_and_where():
    blurred = damage(render([SCENE]), "blur", 2.0, torch.Generator())
    assert "the circle at (0.70, 0.30) is blurred: its rim is 7.0 pixels wide" in read(blurred)[0].all_flaws
    noisy = damage(render([replace(SCENE, background="gray")]), "noise", 0.05, torch.Generator().manual_seed(0))
    assert "the background is not flat: its pixels vary by 0.05" in read(noisy)[0].flaws
    sentence = r"(the|some|too much|nothing|[5-8] things) [^{}]+[a-z0-9)]"
    for kind, strength in REFUSED:
        broken = damage(render(scenes(3)), kind, strength, torch.Generator().manual_seed(0))
        assert all(re.fullmatch(sentence, flaw) for r in read(broken) for flaw in r.all_flaws)


def test_anything_can_be_read_but_not_everything_is_a_scene():
    generator = torch.Generator().manual_seed(0)
    odd = dict(
        red=torch.tensor([0.9, 0.16, 0.16])[:, None, None].expand(3, 64, 64),
        noise=torch.rand(3, 64, 64, generator=generator),
        numberless=torch.full((3, 64, 64), torch.nan),
        halves=torch.cat([torch.zeros(3, 64, 32), torch.ones(3, 64, 32)], 2),
        checks=((torch.arange(64)[:, None] + torch.arange(64)) % 2).float().expand(3, 64, 64),
        slope=torch.linspace(0, 1, 64).expand(3, 64, 64),
    )
    for name, picture in odd.items():
        reading = read(picture)
        assert reading.flaws and not reading.clean and reading.scene is None, name
        assert reading.shape_cleanliness == reading.background_cleanliness == 0.0, name
    empty = read(torch.zeros(3, 64, 64))
    assert empty.scene == Scene((), "black") and empty.flaws == ("nothing is drawn on the background",)
    assert read(torch.zeros(0, 3, 64, 64)) == []


@pytest.mark.parametrize(
    "picture, says",
    [
        (torch.zeros(3, 64, 32), "shape"),
        (torch.zeros(1, 64, 64), "shape"),
        (torch.zeros(3, 48, 48), "64 or 128"),
        (torch.full((3, 64, 64), -1.0), r"\(x \+ 1\) / 2"),
        (torch.zeros(3, 64, 64, dtype=torch.uint8), "float"),
    ],
)
def test_what_is_no_picture_is_refused_with_a_sentence(picture, says):
    with pytest.raises(ValueError, match=says):
        read(picture)


# ---- judging --------------------------------------------------------------------------------------------------------


def ask(*wishes, **rest):
    return Request(tuple(Wish(**w) for w in wishes), **rest)


def test_right_pictures_are_right_in_any_order():
    reading = seen(*SCENE.things)
    everything = [{side: getattr(t, side) for side in (*ATTRIBUTES, "place")} for t in SCENE.things]
    assert check(reading, ask(*everything, background="navy")) == check(reading, ask(*everything[::-1]))
    assert check(reading, ask(*everything)).right
    assert check(reading, ask({}, {}, {}, {})).right
    assert judge(render([SCENE])[0], ask(dict(color="red"), {}, {}, {})).right


@pytest.mark.parametrize(
    "request_, reason",
    [
        (ask(dict(shape="star", color="green"), dict(shape="circle")), "the star is blue, green was asked"),
        (ask(dict(shape="star", size="large"), dict(shape="circle")), "the star is small, large was asked"),
        (ask(dict(shape="star"), dict(shape="circle", texture="striped")), "the circle is plain, striped was asked"),
        (ask(dict(shape="star"), dict(shape="ring")), "the thing at (0.70, 0.30) is a circle, a ring was asked"),
        (ask(dict(shape="star"), dict(shape="circle"), dict(shape="circle")), "one circle found, two asked"),
        (ask(dict(shape="circle")), "one star found, zero asked"),
        (ask({}, {}, {}), "two things found, three asked"),
        (ask(dict(shape="circle"), dict(shape="star"), relation="left of"),
         "the circle at (0.70, 0.30) is not left of the star at (0.25, 0.25)"),
        (ask(dict(shape="star"), dict(shape="circle"), relation="above"),
         "the star at (0.25, 0.25) is not above the circle at (0.70, 0.30)"),
        (ask({}, {}, background="white"), "the background is navy, white was asked"),
        (ask(dict(shape="star", place="right"), dict(shape="circle")),
         "the star is at (0.25, 0.25), in the place called top left; right was asked"),
    ],
)  # fmt: skip
def test_wrong_pictures_are_wrong_for_the_right_reason(request_, reason):
    assert check(seen(STAR, CIRCLE), request_).reasons == (reason,)


def asked_of(*things, background="navy"):
    """A request that says everything about these things."""
    return ask(*({side: getattr(t, side) for side in (*ATTRIBUTES, "place")} for t in things), background=background)


def traded(a, b, *sides):
    """The two things, each with the other's values."""
    return [replace(to, **{side: getattr(of, side) for side in sides}) for to, of in ((a, b), (b, a))]


@pytest.mark.parametrize(
    "drawn, background, kinds",
    [
        ((STAR, CIRCLE, MOON, HEART), "navy", ()),
        ((*traded(STAR, CIRCLE, "color"), MOON, HEART), "navy", ("swapped",)),
        ((*traded(STAR, CIRCLE, "shape"), MOON, HEART), "navy", ("swapped",)),
        ((*traded(STAR, MOON, "texture"), CIRCLE, HEART), "navy", ("swapped",)),
        ((*traded(MOON, HEART, "x", "y"), CIRCLE, STAR), "navy", ("swapped",)),
        ((replace(STAR, color="green"), CIRCLE, MOON, HEART), "navy", ("color",)),
        # red moved on, blue is gone
        ((replace(STAR, color="red"), replace(CIRCLE, color="yellow"), MOON, HEART), "navy", ("color",)),
        ((replace(STAR, shape="ring", turn=0.0), CIRCLE, MOON, HEART), "navy", ("shape",)),
        ((STAR, replace(CIRCLE, size="small"), MOON, HEART), "navy", ("size",)),
        ((STAR, CIRCLE, replace(MOON, texture="plain"), HEART), "navy", ("texture",)),
        ((STAR, CIRCLE, MOON, replace(HEART, x=0.63, y=0.8)), "navy", ("place",)),
        ((STAR, CIRCLE, MOON), "navy", ("missing",)),
        ((STAR, CIRCLE, MOON, HEART), "black", ("background",)),
        ((replace(STAR, color="green"), replace(CIRCLE, size="small"), MOON), "black", ("missing", "background")),
        ((replace(STAR, color="green"), replace(CIRCLE, size="small"), MOON, HEART), "black",
         ("color", "size", "background")),
    ],
)  # fmt: skip
def test_pictures_damaged_on_purpose_have_that_kind_of_mistake(drawn, background, kinds):
    assert faults(seen(*drawn, background=background), asked_of(STAR, CIRCLE, MOON, HEART)) == kinds


def test_what_is_too_much_blurred_or_on_the_wrong_side_is_a_mistake_of_its_kind():
    assert faults(seen(STAR, CIRCLE), asked_of(STAR)) == ("extra",)
    assert faults(seen(STAR, CIRCLE), ask(dict(shape="circle"), dict(shape="star"), relation="left of")) == (
        "relation",
    )
    blurred = read(damage(render([Scene((STAR, CIRCLE), "navy")]), "blur", 2.5, torch.Generator().manual_seed(0)))[0]
    assert "unclean" in faults(blurred, ask({}, {}))


def test_there_is_a_kind_of_mistake_exactly_where_the_judge_finds_one():
    rng = np.random.default_rng(5)
    requests = [sample_request(task, rng) for task in ("rich", "complex", "position", "counting") for _ in range(24)]
    scenes_of = sample_scenes(requests, rng).to_list()
    readings = read(render(scenes_of))
    apart = [
        (reading, request)
        for step in (0, 1, 3, 7, 13)
        for reading, request in zip(readings, requests[step:] + requests[:step])
    ]
    found = [faults(reading, request) for reading, request in apart]
    assert [not kinds for kinds in found] == [check(reading, request).right for reading, request in apart]
    assert set().union(*found) == set(FAULTS) - {"unclean"}
    turned = [
        (replace(reading, things=reading.things[::-1]), replace(request, wishes=request.wishes[::-1]))
        for reading, request in apart
        if request.relation is None
    ]
    assert [faults(*pair) for pair in turned] == [
        kinds for kinds, (_, request) in zip(found, apart) if request.relation is None
    ]


def test_a_relation_binds_the_first_two_wishes_whichever_things_grant_them():
    reading = seen(CIRCLE, replace(CIRCLE, color="green", x=0.25))
    assert check(reading, ask(dict(shape="circle"), dict(shape="circle"), relation="left of")).right
    assert check(reading, ask(dict(color="green"), dict(color="red"), relation="left of")).right
    assert not check(reading, ask(dict(color="red"), dict(color="green"), relation="left of")).right


def test_scenes_drawn_for_a_request_are_judged_right_even_where_it_is_close():
    rng = np.random.default_rng(3)
    requests = [ask({}, {}, relation=RELATIONS[i % 4]) for i in range(40)]
    requests += [ask(dict(place=p)) for p in ("center", "top left", "right", "bottom")] * 10
    drawn = sample_scenes(requests, rng)
    assert all(check(r, q).right for r, q in zip(read(render(drawn)), requests))


def test_flawed_pictures_are_wrong_whatever_was_asked():
    blurred = damage(render([SCENE]), "blur", 2.0, torch.Generator())[0]
    verdict = judge(blurred, ask({}, {}, {}, {}))
    assert not verdict.right
    assert verdict.reasons == read(blurred).all_flaws
    spotted = render([SCENE])[0]
    spotted[:, 28:32, 28:32] += 0.1
    assert judge(spotted, ask({}, {}, {}, {})).reasons == ("the background is not clean: 16 pixels belong to nothing",)


# ---- edits ----------------------------------------------------------------------------------------------------------


def edit(target, picture, **rest):
    return score_edit(read(render([picture]))[0], SCENE, target, **rest)


def with_star(**changes):
    return Scene((replace(STAR, **changes), *SCENE.things[1:]), SCENE.background)


def test_edits_done_as_asked_score_full_marks_and_undone_ones_none():
    rng = np.random.default_rng(0)
    sources = scenes(40, 5).to_list()
    edits = [sample_edit(s, rng) for s in sources]
    after, before = read(render([e.target for e in edits])), read(render(sources))
    for source, e, done, undone in zip(sources, edits, after, before):
        change = parse_edit(e.instruction).change
        place = change.place if change else None
        score = score_edit(done, source, e.target, e.free, place)
        assert (score.success, score.kept, score.reasons) == (1.0, 1.0, ()), (e, score)
        if e.group == "move" and in_place(source.things[e.thing], place):
            continue  # it was a pixel away from there
        score = score_edit(undone, source, e.target, e.free, place)
        assert (score.success, score.kept) == (0.0, 1.0) and score.reasons, (e, score)


def test_what_was_not_asked_counts_against_what_is_kept():
    green = with_star(color="green")
    assert edit(green, with_star(color="green", size="large")).kept == pytest.approx(4 / 5)
    assert edit(green, Scene(green.things[:3], "navy")).kept == pytest.approx(4 / 5)
    assert edit(green, Scene(green.things, "white")).kept == pytest.approx(4 / 5)
    assert edit(green, with_star(color="green", x=0.35)).kept == pytest.approx(4 / 5)
    assert all(edit(green, p).success == 1.0 for p in (with_star(color="green", size="large"), green))
    three = Scene(SCENE.things[:3], "navy")
    extra = score_edit(seen(*green.things), three, Scene(green.things[:3], "navy"))
    assert (extra.success, extra.kept) == (1.0, pytest.approx(4 / 5))
    assert extra.reasons == ("nobody asked for the heart at (0.75, 0.75)",)
    assert score_edit(seen(*SCENE.things), three, replace(three, background="white")).kept == pytest.approx(3 / 4)


def test_a_thing_at_the_wrong_place_is_moved_but_not_to_where_it_was_asked():
    target = with_star(x=0.75, y=0.52)
    near = with_star(x=0.70, y=0.52)
    assert edit(target, near, place="right").success == 1.0
    assert edit(target, near, free={"x", "y"}).success == 1.0
    assert edit(target, with_star(x=0.5, y=0.5), place="right").success == 0.0
    assert edit(target, SCENE, free=("x", "y")).success == 0.0


def test_a_removed_thing_must_be_gone_and_what_is_left_to_chance_may_be_anything():
    without = Scene(SCENE.things[1:], "navy")
    assert edit(without, SCENE).success == 0.0
    assert edit(without, without).success == 1.0
    assert edit(without, with_star(color="red")).success == 0.0
    added = score_edit(seen(*SCENE.things), without, SCENE, ("color", "x", "y"))
    other = score_edit(seen(*with_star(color="red").things), without, SCENE, ("color", "x", "y"))
    assert (added.success, other.success, added.kept, other.kept) == (1.0, 1.0, 1.0, 1.0)
    painted = Scene((STAR, replace(CIRCLE, color="green"), MOON, HEART), "navy")
    assert score_edit(seen(*painted.things), without, SCENE, ("color", "x", "y")).kept == pytest.approx(3 / 4)
    with pytest.raises(ValueError, match="weight"):
        edit(without, without, free=("weight",))


def test_an_edit_may_change_only_where_before_and_after_differ():
    region = edit_region(SCENE, with_star(color="green"), 64)
    differs = (render([SCENE]) - render([with_star(color="green")])).abs().amax((0, 1)) > 0.01
    assert region[differs].all() and not region[40:, 40:].any()
    assert differs.sum() < region.sum() < 3 * differs.sum()
    assert edit_region(SCENE, SCENE).sum() == 0
    assert edit_region(SCENE, replace(SCENE, background="white"), 64).float().mean() > 0.7


# ---- small promises -------------------------------------------------------------------------------------------------


def test_places_have_a_slack_of_about_a_pixel():
    assert in_place(replace(STAR, x=1 / 3 + 0.02), "top left")
    assert not in_place(replace(STAR, x=1 / 3 + 0.04), "top left")


def test_the_same_scene_needs_the_same_things():
    assert same_scene(SCENE, Scene(SCENE.things[::-1], "navy"))
    others = with_star(color="green"), with_star(x=0.3), Scene(SCENE.things[1:], "navy"), Scene(SCENE.things, "gray")
    assert not any(same_scene(SCENE, other) for other in others)


def test_the_confusion_table_names_every_grade_and_keeps_its_seed(monkeypatch):
    rows = confusion(1, seed=2)
    assert len(rows) == 1 + sum(map(len, GRADES.values()))
    assert format_confusion(rows).count("\n") == len(rows) + 1
    for kind in GRADES.keys() - {"noise", "reconstruct"}:  # two that draw numbers
        monkeypatch.delitem(GRADES, kind)
    assert confusion(1, seed=2) == confusion(1, seed=2)
    with pytest.raises(ValueError, match="blur"):
        damage(render([SCENE]), "rust", 1.0, torch.Generator())


TWO_STARS = Scene(
    (STAR, replace(STAR, size="large", color="pink", x=0.7, y=0.7), replace(CIRCLE, size="small")), "navy"
)


@pytest.mark.parametrize("instruction", [
    "make the small star green", "replace the pink star with a heart", "remove the large star",
    "move the blue star to the bottom left",
])  # fmt: skip
def test_which_of_two_alike_things_was_edited_is_told(instruction):
    command, rng = parse_edit(instruction), np.random.default_rng(1)
    free, place = ({"place"}, command.change.place) if command.group == "move" else ((), None)
    target, (instead,) = apply(command, TWO_STARS, rng), others_instead(command, TWO_STARS)
    rival = next(t for k, t in enumerate(TWO_STARS.things[:2]) if k != find(command.of, TWO_STARS))
    seen_after = dict(right=target, other=instead, none=TWO_STARS)
    if command.group != "move":  # there is no room for both
        seen_after["both"] = apply(replace(command, of=names(target, rival)[0]), target, rng)
    which = lambda scene: picked(read(render([scene]))[0], TWO_STARS, target, [instead], free, place)
    assert {name: which(scene) for name, scene in seen_after.items()} == {name: name for name in seen_after}
