"""What the stages of one step (`hb.train.distill.adp`) differ in: weights of losses, and where pairs end."""

from __future__ import annotations

from dataclasses import dataclass, fields

from hb.train.optim import refuse_not_finite


@dataclass(frozen=True)
class OneStepSettings:
    """Weights of the generator's losses, and how the discriminators are kept in bounds.

    regression   first and last weight of the pseudo-Huber distance to the end of the trajectory; linear in between
    huber        its constant c, for a whole sample
    by_value     share of the regression that is `absolute_loss` instead
    adversarial  weight of both discriminators together
    latent, pixel   share of each (DMDX: .85 and .15); 0 leaves one out
    light        share of a third, `LightDiscriminator`, for machines on which a step with the others takes too long
    pairing      "hinge" (as printed) or "relativistic"
    true         weight of the true latents of a prompt as real samples, beside the ends of trajectories, which have
                 1 - true; each has its own heads
    r1, r2       weights of `approximate_r1` at real and at generated samples, at a distance of `sigma`
    penalty_every   these penalties are computed in each so many-th step, and weigh as many times more there (StyleGAN2,
                 arXiv 1912.04958, appendix B); they cost as much as all else that trains a discriminator
    mmd          weight of `squared_mmd` between predictions and true latents of a prompt
    reward       weight of the reward's hinge; from which reward on it is zero, the reward model says
    at_one       share of samples at t = 1, the only time that one step is used at; the others are at 1 - u^3
    second       share of those others that are at the second time of two steps instead
    clean        share of the discriminator's inputs that are not noised; the others' t' is uniform up to `noised`
    continued    steps of the source's grid; each new batch of pairs draws one, k. The generator takes the place of the
                 source's first k steps: its prediction from noise, noised again to the k-th time, is where the source
                 begins. So the end is near what the generator chose, and as good as the source's other ends (DAgger,
                 arXiv 1011.0686: the expert labels what the learner comes to). 0: the source's own trajectory
    renoise      with what: "coupled", the noise it was made from; "fresh"; "mixed" (see `hb.losses.renoised`)
    replay       further updates of the student in a step, each on pairs of one of the last REPLAYED steps; not with the
                 latent or the pixel discriminator nor mmd. The light discriminator has as many, on the new pairs. A
                 trajectory costs six evaluations, an update about three. A stopped run collects pairs anew
    freeze_above   discriminators are not trained while they tell apart more than this share, averaged over 20 steps
    """

    regression: tuple[float, float] = (0.0, 0.0)
    huber: float = 0.5
    by_value: float = 0.0
    adversarial: float = 1.0
    latent: float = 0.85
    pixel: float = 0.15
    light: float = 0.0
    pairing: str = "hinge"
    true: float = 0.0
    r1: float = 0.0
    r2: float = 0.0
    sigma: float = 0.01
    penalty_every: int = 4
    mmd: float = 0.0
    reward: float = 0.0
    at_one: float = 0.5
    second: float = 0.0
    clean: float = 0.1
    noised: float = 0.9
    continued: tuple[int, ...] = (0,)
    renoise: str = "coupled"
    replay: int = 0
    freeze_above: float = 1.0
    lr: float = 1e-4
    lr_discriminator: float = 3e-4

    def __post_init__(self):
        every = {f.name: getattr(self, f.name) for f in fields(self)}
        numbers = {name: value for name, value in every.items() if isinstance(value, int | float)}
        refuse_not_finite(**numbers, regression=sum(self.regression))
        if self.pairing not in ("hinge", "relativistic"):
            raise ValueError(f"discriminators compare by 'hinge' or in 'relativistic' pairs, not {self.pairing!r}")
        for name in ("by_value", "true", "at_one", "second", "clean"):
            if not 0 <= numbers[name] <= 1:
                raise ValueError(f"{name} is a share, from 0 to 1, not {numbers[name]:g}")
        if self.penalty_every < 1:
            raise ValueError(f"penalties are computed in each so many-th step, at least 1, not {self.penalty_every}")
        if not self.continued or any(k < 0 for k in self.continued):
            raise ValueError(
                f"continued holds steps of the source's grid, 0 and more, at least one; not {list(self.continued)}"
            )
        if self.renoise not in ("coupled", "fresh", "mixed"):
            raise ValueError(f"renoise is 'coupled', 'fresh' or 'mixed', not {self.renoise!r}")
        if self.replay < 0 or (self.replay and ((self.adversarial and (self.latent or self.pixel)) or self.mmd)):
            raise ValueError(
                "replay is a number of updates, 0 or more; with the latent or the pixel discriminator and with mmd "
                "there is none, since of earlier pairs only what the student reads is kept"
            )
        if not self.sigma > 0:
            raise ValueError(f"sigma is the distance of a finite difference, above 0, not {self.sigma:g}")
        if not (any(self.regression) or self.adversarial or self.mmd):
            raise ValueError("nothing to learn from: give regression, adversarial or mmd a weight")
