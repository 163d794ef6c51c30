"""Jumps stay in their segment, and on paths that are known the two jumps of TSCD meet where they should."""

import pytest
import torch

from hb.exact import FiniteData
from hb.flow import interpolate, jump, time_grid, velocity_of
from hb.train.distill import tscd
from hb.train.distill.segments import Segments
from hb.train.distill.tscd import SegmentedConsistency
from tests.train.distill.conftest import bare, distribution, nothing_read

SOME = [Segments(), Segments(1, 12, 1.0), Segments(4, 8, 3.0), Segments(3, to_edge=True), Segments(6, 6, 3.0)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("segments", SOME)
def test_a_jump_goes_down_within_one_segment(segments):
    jumps = segments.sample(5000, generator())
    ordered = (jumps.edge <= jumps.end) & (jumps.end <= jumps.step) & (jumps.step < jumps.start)
    edges = segments.edges
    upper = edges[:-1][(edges[1:, None] == jumps.edge).int().argmax(0)]  # of the segment above the edge
    assert bool(ordered.all())
    assert bool((edges[:, None] == jumps.edge).any(0).all()) and bool((jumps.start <= upper).all())


@pytest.mark.parametrize("segments", SOME)
def test_the_teacher_makes_one_step_of_the_fine_grid(segments):
    jumps, grid = segments.sample(5000, generator()), time_grid(segments.fine, segments.shift)
    at = (grid[:, None] == jumps.start).int().argmax(0)
    assert torch.equal(grid[at], jumps.start) and torch.equal(grid[at + 1], jumps.step)
    assert set(at.tolist()) == set(range(segments.fine))  # from 1 down to the last step before 0


def test_segment_edges_stand_on_every_second_point_of_the_sampling_grid():
    assert torch.allclose(Segments().edges, time_grid(6, 3.0)[::2], atol=1e-6)
    assert torch.allclose(Segments().edges, torch.tensor([1, 6 / 7, 0.6, 0]), atol=1e-6)


def test_every_end_between_step_and_edge_is_as_likely():
    jumps, grid = Segments(2, 8, 3.0).sample(40_000, generator()), time_grid(8, 3.0)
    for start in range(8):
        here = jumps.end[jumps.start == grid[start]]
        edge = 4 if start < 4 else 8
        counts = torch.stack([(here == grid[end]).sum() for end in range(start + 1, edge + 1)])
        assert counts.sum() == len(here) == pytest.approx(5000, rel=0.1)
        assert (counts / len(here) * len(counts) - 1).abs().max() < 0.1


def test_jumps_to_the_edge_end_there():
    jumps = Segments(3, to_edge=True).sample(1000, generator())
    assert torch.equal(jumps.end, jumps.edge)
    assert not torch.equal(*(lambda free: (free.end, free.edge))(Segments(3).sample(1000, generator())))


def test_one_segment_to_its_edge_is_latent_consistency():
    assert not Segments(1, to_edge=True).sample(100, generator()).end.any()


@pytest.mark.parametrize("count", [0, 5, 7])
def test_a_count_that_does_not_divide_is_refused_in_words(count):
    with pytest.raises(ValueError, match=f"48 fine steps do not divide into {count} segments"):
        Segments(count)


def test_jumps_along_a_straight_path_compose():
    """By way of any number of times between, one lands where one jump lands, on the path itself."""
    x0, eps = (torch.randn(64, 3, 2, generator=generator(i), dtype=torch.float64) for i in (0, 1))
    jumps = Segments().sample(64, generator())
    v, start, step, end = (value.double() for value in (velocity_of(x0, eps), jumps.start, jumps.step, jumps.end))
    x = interpolate(x0, eps, start)
    assert torch.allclose(jump(jump(x, v, start, step), v, step, end), jump(x, v, start, end), atol=1e-12)
    assert torch.allclose(jump(x, v, start, end), interpolate(x0, eps, end), atol=1e-12)


def jumps_of(points, n=256, **walkers):
    """A step's pair where stepper, slow student and student all say the exact velocity, or what the test puts there."""
    exact = distribution(
        lambda x, t: FiniteData(points).velocity(x, t.clamp_min(1e-6))
    )  # the last small step ends at 0
    walkers = dict(stepper=exact, average=exact, student=exact) | walkers
    stage = bare(SegmentedConsistency, segments=Segments(), **walkers)
    latent = FiniteData(points).sample(n, generator()).reshape(n, 1, -1)
    return stage.shared_state(nothing_read(latent), generator(3)), stage


def test_on_one_point_the_two_jumps_meet():
    point = torch.tensor([[0.7, -1.3]], dtype=torch.float64)
    pair, stage = jumps_of(point)
    assert torch.allclose(pair.fake, pair.real, atol=1e-9) and stage.facts["apart"] < 1e-12
    again = generator(3)
    end = Segments().sample(256, again).end.double()
    path = interpolate(pair.batch.latent, tscd.noise_like(pair.batch.latent, again), end)
    assert torch.allclose(pair.fake, path, atol=1e-9)  # on the path itself, at the time that was drawn


def test_on_two_points_exact_velocities_bend_and_the_jumps_part():
    """So a consistent student is not the teacher, and there is something to learn."""
    _, stage = jumps_of(torch.tensor([[0.7, -1.3], [-1.0, 1.0]], dtype=torch.float64))
    assert stage.facts["apart"] > 1e-5


def test_the_real_jump_is_the_slow_students_after_one_step_of_the_stepper():
    """Against one sample at a time, each walker with a velocity of its own."""
    own = lambda k: distribution(lambda x, t: k * x + t[:, None])
    walkers = dict(stepper=own(1), average=own(2), student=own(3))
    pair, _ = jumps_of(torch.tensor([[0.7, -1.3], [-1.0, 1.0]]), **walkers)
    again = generator(3)
    jumps = Segments().sample(256, again)
    x = interpolate(pair.batch.latent, tscd.noise_like(pair.batch.latent, again), jumps.start)
    for i in range(0, 256, 16):
        t, m, e, here = jumps.start[i], jumps.step[i], jumps.end[i], x[i]
        lower = here + (m - t) * (here + t)
        assert torch.allclose(pair.real[i], lower + (e - m) * (2 * lower + m), atol=1e-5)
        assert torch.allclose(pair.fake[i], here + (e - t) * (3 * here + t), atol=1e-5)
    assert torch.equal(pair.end, jumps.end)


def test_where_both_end_after_the_small_step_a_student_like_the_stepper_is_right():
    """The boundary condition of consistency: nothing is left to jump, so real is the stepper's own step to the bit."""
    pair, _ = jumps_of(torch.tensor([[0.7, -1.3], [-1.0, 1.0]]))
    jumps = Segments().sample(256, generator(3))
    short = jumps.end == jumps.step
    assert short.sum() > 5 and torch.equal(pair.fake[short], pair.real[short])
    assert not torch.equal(pair.fake[~short], pair.real[~short])


def test_gradient_flows_through_the_students_jump_alone():
    slopes = {name: torch.tensor(0.5, requires_grad=True) for name in ("stepper", "average", "student")}
    walkers = {name: distribution(lambda x, t, k=k: k * x) for name, k in slopes.items()}
    pair, _ = jumps_of(torch.tensor([[0.7, -1.3]]), **walkers)
    assert not pair.real.requires_grad
    pair.fake.square().sum().backward()
    assert slopes["student"].grad and slopes["stepper"].grad is None and slopes["average"].grad is None
