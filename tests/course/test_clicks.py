"""The preference clicker without a browser: every click is written, taken back and gone on with; ten clicks move mu."""

import pytest
import torch

from hb.bayes import LinearUtility
from hb.course.clicks import Comparison, PreferenceClicker, belief_chart, beliefs, comparisons_of, features_of
from hb.data.preference_pool import from_clicks
from hb.data.preferences import PreferenceFile, read_preferences
from hb.models.rewards import RewardConfig, RewardModel


def comparison(number, source=None):
    made = (torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(number)) * 255).round() / 255
    return Comparison(f"prompt {number}", tuple(made), source)


@pytest.fixture
def clicker(tmp_path):
    return PreferenceClicker(tmp_path / "clicks", [comparison(k) for k in range(4)])


def test_each_click_is_written_with_its_pictures_and_the_next_is_shown(clicker):
    assert "prompt 0" in clicker.words.value
    clicker.choose(1)
    assert "prompt 1" in clicker.words.value and "1 clicks" in clicker.note.value
    got = read_preferences(clicker.file.path)
    (row,) = got.rows
    assert (row.text, row.choice, row.annotator) == ("prompt 0", 1, "me")
    for name, picture in zip(row.pictures, comparison(0).pictures):
        assert torch.allclose(got.shown[name], picture, atol=1e-6)


def test_buttons_do_what_methods_do(clicker):
    for name in ("left", "none", "right", "undo"):
        clicker.controls[name].click()
    assert [row.choice for row in clicker.preferences] == [0, None] and "prompt 2" in clicker.words.value


def test_what_is_shown_are_the_pictures(clicker):
    before = clicker.sides[0].value
    assert before[:8] == b"\x89PNG\r\n\x1a\n" and before != clicker.sides[1].value
    clicker.choose(0)
    assert clicker.sides[0].value != before
    clicker.undo()
    assert clicker.sides[0].value == before


def test_undo_takes_the_click_out_of_the_file(clicker):
    clicker.choose(0)
    clicker.choose(1)
    clicker.undo()
    assert [row.text for row in PreferenceFile(clicker.file.path).rows] == ["prompt 0"]
    assert "prompt 1" in clicker.words.value
    clicker.undo()
    clicker.undo()
    assert "no click of yours" in clicker.note.value and len(PreferenceFile(clicker.file.path)) == 0


def test_a_new_session_goes_on_where_the_last_one_ended(clicker):
    clicker.choose(0)
    clicker.choose(None)
    again = PreferenceClicker(clicker.folder, [comparison(k) for k in range(4)])
    assert "prompt 2" in again.words.value and len(again.preferences) == 2
    again.undo()
    assert "prompt 1" in again.words.value


def test_another_annotator_begins_at_the_beginning_and_keeps_the_others_clicks(clicker):
    clicker.choose(0)
    other = PreferenceClicker(clicker.folder, [comparison(k) for k in range(4)], annotator="you")
    assert "prompt 0" in other.words.value
    other.undo()
    assert len(PreferenceFile(clicker.file.path)) == 1
    other.choose(1)
    assert [row.annotator for row in PreferenceFile(clicker.file.path).rows] == ["me", "you"]


def test_all_done_is_said_and_further_clicks_do_nothing(clicker):
    for _ in range(6):
        clicker.choose(0)
    assert "All done" in clicker.words.value and len(clicker.preferences) == 4
    assert clicker.controls["left"].disabled and not clicker.controls["undo"].disabled
    clicker.undo()
    assert "prompt 3" in clicker.words.value and not clicker.controls["left"].disabled


def test_comparisons_are_taken_when_they_are_shown(tmp_path):
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield comparison(taken[-1])

    clicker = PreferenceClicker(tmp_path, endless())
    assert taken == [0]
    clicker.choose(0)
    assert taken == [0, 1]


def test_an_edit_shows_what_was_edited(tmp_path, tiny):
    source = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(9))
    clicker = PreferenceClicker(tmp_path, [comparison(0, source), comparison(1)])
    assert clicker.source.layout.display == "" and "Which result" in clicker.words.value
    clicker.choose(1)
    assert clicker.source.layout.display == "none"
    clicker.choose(0)
    pools = from_clicks(read_preferences(clicker.file.path), tiny.text)
    assert len(pools["edit"]) == len(pools["draw"]) == 1


def test_a_prompt_is_shown_as_text(tmp_path):
    clicker = PreferenceClicker(tmp_path, [Comparison("<b>bold</b>", comparison(0).pictures)])
    assert "&lt;b&gt;" in clicker.words.value


def test_a_wrong_choice_is_refused(clicker):
    with pytest.raises(ValueError, match="0 for the left"):
        clicker.choose(2)
    assert not clicker.preferences


def test_comparisons_of_a_model_are_two_drawings_of_each_prompt(tiny):
    made = list(comparisons_of(tiny, ["a star", "a circle"], steps=1))
    again = list(comparisons_of(tiny, ["a star", "a circle"], steps=1))
    assert [c.text for c in made] == ["a star", "a circle"]
    assert all(torch.equal(a, b) for c, d in zip(made, again) for a, b in zip(c.pictures, d.pictures))
    assert made[0].pictures[0].shape == (3, 64, 64)


def test_ten_clicks_move_mu_and_shrink_sigma(tiny):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reward = RewardModel(RewardConfig.of(tiny.bagel, "vision", inner=16, heads=2), tiny.bagel).eval()
    pictures = torch.rand(20, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    features = features_of(reward, tiny, "a red star", pictures)
    assert features.shape == (20, 32)
    better, worse = features[:10], features[10:]
    steps = beliefs(better, worse)
    assert len(steps) == 11 and isinstance(steps[0], LinearUtility)
    (mu, sigma), (moved, less) = steps[0].predict(features), steps[-1].predict(features)
    assert float(mu.abs().max()) == 0 and float(moved.abs().max()) > 0.1 and bool((less < sigma).all())
    assert float((steps[-1].preference(better, worse) > 0.5).double().mean()) >= 0.8
    chart = belief_chart(steps, features[:3], ["one", "two", "three"])
    assert "sigma" in chart.alt
