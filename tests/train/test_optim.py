"""Muon and AdamW as defined; which parameter goes where is declared by its module, not found by its name."""

import json

import lightning as L
import pytest
import torch
from torch import nn

from hb.files import NotFinite
from hb.infer.speculative.draft import Draft, DraftConfig
from hb.models.autoencoder import Autoencoder
from hb.models.bagel import Bagel
from hb.models.conditioning import StudentModel
from hb.models.names import to_released
from hb.models.pixel_decoder import PixelDecoder, PixelDecoderConfig
from hb.models.roles import adamw, guidance_embedding, parameter_roles
from hb.models.vision import VisionTower
from hb.train.optim import (
    MuonAdamW,
    Training,
    adam,
    muon,
    orthogonalize,
    parameter_groups,
    refuse_not_finite,
    scheduled,
    warmup_constant_decay,
)
from hb.train.resuming import BY_NAME, BY_ROLE, record_rule, roles_by_name, rule_of_run
from hb.train.trainer import StepData, fit
from hb.train.vision import VisionPretraining
from tests.conftest import tiny_config
from tests.train.conftest import Trip

MARKERS = (1, 2, 3, 4)


def test_orthogonalized_matrices_have_singular_values_near_one():
    stack = torch.randn(3, 24, 10, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(stack))
    assert values.min() > 0.6 and values.max() < 1.3
    u, _, vh = torch.linalg.svd(stack, full_matrices=False)
    assert (orthogonalize(stack) - u @ vh).abs().max() < 0.4
    assert torch.allclose(orthogonalize(stack.mT), orthogonalize(stack).mT, atol=1e-4)


def test_adamw_half_is_torchs():
    weights = [nn.Parameter(torch.ones(4)) for _ in range(2)]
    ours = MuonAdamW([dict(params=[weights[0]], kind="adamw", lr=0.1, weight_decay=0.01)])
    theirs = torch.optim.AdamW([weights[1]], lr=0.1, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01)
    for i in range(5):
        for w, o in zip(weights, (ours, theirs)):
            o.zero_grad()
            (w * torch.arange(1.0, 5.0) * (i - 2)).sum().backward()
            o.step()
    assert torch.allclose(*weights)


def test_schedule_warms_up_stays_and_ends_at_zero():
    factor = [warmup_constant_decay(i, total=1000, warmup=100, decay=0.3) for i in range(1001)]
    assert factor[0] == 0.01 and factor[99] == 1.0 == factor[700] and factor[1000] == 0.0
    assert all(a >= b for a, b in zip(factor[700:], factor[701:]))


# ---- roles ----------------------------------------------------------------------------------------------------------


class Renamed(nn.Module):
    """Names that say nothing, and some that would mislead a search by name."""

    def __init__(self):
        super().__init__()
        self.a = adamw(nn.Embedding(5, 4))
        self.conv_in = nn.Linear(4, 4)  # a hidden layer, whatever it is called
        self.b = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        self.c = guidance_embedding(nn.Sequential(nn.Linear(4, 4), adamw(nn.Linear(4, 4))))
        self.d = adamw(nn.Linear(4, 2))


def test_a_role_is_what_a_module_is_marked_as_and_not_what_it_is_called():
    module = Renamed()
    roles, names = parameter_roles(module), {p: name for name, p in module.named_parameters()}
    of = lambda role: {names[p] for p, its in roles.items() if its == role}
    assert of("muon") == {"conv_in.weight", "b.0.weight"}
    assert of("guidance") == {"c.0.weight", "c.0.bias", "c.1.weight", "c.1.bias"}
    assert of("adamw") == {"a.weight", "conv_in.bias", "b.0.bias", "b.1.weight", "b.1.bias", "d.weight", "d.bias"}
    matrices, rest, guidance = parameter_groups(module, muon_lr=1.0, adamw_lr=0.1)
    assert (matrices["kind"], rest["kind"], guidance["kind"]) == ("muon", "adamw", "adamw")
    assert (matrices["lr"], rest["lr"], guidance["lr"]) == (1.0, 0.1, 3.0)


def built(what: str) -> nn.Module:
    config = tiny_config(300)
    if what == "draft":
        return Draft(config.llm, DraftConfig(layers=1))
    if what == "pixel decoder":
        return PixelDecoder(PixelDecoderConfig(4, (8, 8, 8, 8), refiner=(24, 1)))
    if what == "pretraining":
        return VisionPretraining(config.vision, total=1)
    if what == "autoencoder":
        return Autoencoder(config.autoencoder)
    bagel = Bagel(config, MARKERS)
    return StudentModel(bagel) if what == "student" else bagel


def outer_layers(what: str, module: nn.Module) -> list[nn.Module]:
    """Embeddings, first and last layers, heads: read from the modules, to be held against their marks."""
    tower = lambda tower: [tower.vision_model.embeddings.patch_embedding, tower.vision_model.embeddings]
    if what == "draft":
        return [module.head]
    if what == "pixel decoder":
        return [module.read[0], module.as_it_is, module.paint[-1], module.settle.read, module.settle.say]
    if what == "pretraining":
        return [*module.heads.values(), *tower(module.tower)]
    if what == "autoencoder":
        return [part for half in (module.encoder, module.decoder) for part in (half.conv_in, half.conv_out)]
    drawing = [module.latent.input, module.latent.output, module.latent.time.mlp[0]]
    if what == "student":
        return [*drawing, module.latent.guidance]
    return [*drawing, module.embed_tokens, module.lm_head, *tower(module.vit_model)]


@pytest.mark.parametrize("what", ["bagel", "student", "draft", "pixel decoder", "pretraining", "autoencoder"])
def test_muon_gets_all_hidden_matrices_and_no_embedding_first_or_last_layer_head_or_vector(what):
    module = built(what)
    groups = parameter_groups(module, muon_lr=0.1, adamw_lr=0.1)
    matrices = {id(p) for p in groups[0]["params"]}
    outer = {id(p) for part in outer_layers(what, module) for p in part.parameters()}
    trained = [p for p in module.parameters() if p.requires_grad]
    hidden = {id(p) for p in trained if p.ndim >= 2 and id(p) not in outer}
    assert outer and matrices == hidden
    listed = sorted(id(p) for group in groups for p in group["params"])
    assert listed == sorted(map(id, trained))  # each in exactly one group


def test_guidance_embeddings_have_a_rate_of_their_own():
    *_, guidance = parameter_groups(built("student"), muon_lr=0.01, adamw_lr=0.001)
    assert guidance["lr"] == pytest.approx(0.03) and len(guidance["params"]) == 8


# ---- runs begun under the old rule ----------------------------------------------------------------------------------


def test_the_old_rule_is_as_it_was():
    """By parts of names: the heads of drafts and of vision pretraining were Muon's, no layer of a time embedder was."""
    draft, vision, student = (built(what) for what in ("draft", "pretraining", "student"))
    then = {p: to_released(name.replace("expert.", "mot.generation.")) for name, p in student.named_parameters()}
    roles = lambda module: roles_by_name(module, then if module is student else None)
    matrices = lambda module: {p for p, role in roles(module).items() if role == "muon"}
    assert draft.head.weight in matrices(draft)
    assert {head.weight for head in vision.heads.values()} <= matrices(vision)
    assert not {layer.weight for layer in student.latent.time.mlp[::2]} & matrices(student)
    groups = parameter_groups(student, muon_lr=0.01, adamw_lr=0.001, roles=roles)
    assert [len(group["params"]) for group in groups] == [14, 23, 8]
    assert sorted(p for group in groups for p in map(id, group["params"])) == sorted(map(id, student.parameters()))


class Before(Training):
    """A module as an old version registered it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        for name in ("lm_head", "a", "b"):  # "lm_head": found by the old rule, though nothing marks it
            self.add_module(name, nn.Linear(3, 3))

    def training_step(self, batch, batch_idx):
        x = batch
        for part in self.parts():
            x = torch.tanh(part(x))
        return x.square().sum()

    def parts(self):
        return self.lm_head, self.a, self.b

    def configure_optimizers(self):
        return scheduled(muon(self, 0.1, roles=self.roles), lambda step: 1.0)


class Now(Before):
    """The same with other names, in another order. It translates the old names when it loads."""

    def __init__(self):
        L.LightningModule.__init__(self)
        old = Before()
        self.second, self.head, self.first = old.b, old.lm_head, old.a

    def parts(self):
        return self.head, self.first, self.second

    def load_state_dict(self, state, *args, **options):
        new = dict(b="second", a="first", lm_head="head")
        translated = lambda name: ".".join([new.get(name.split(".")[0], name.split(".")[0]), name.split(".")[1]])
        return super().load_state_dict({translated(name): w for name, w in state.items()}, *args, **options)


def test_an_old_run_goes_on_where_weights_have_other_names_and_another_order(tmp_path, monkeypatch):
    """Optimizer states are stored by number: each must find its own weight, and each weight its old optimizer."""

    def run(module, folder, callbacks=()):
        make = lambda step, rank: torch.full((2, 3), step + 1.0) / 8
        fit(
            module, StepData(make, 6), folder, ema=None, save_every=2, bar=False, accelerator="cpu", callbacks=callbacks
        )
        return [part.weight for part in module.parts()]

    with monkeypatch.context() as patch:
        patch.setattr("hb.train.trainer.record_rule", lambda folder: BY_NAME)
        straight = run(Before(), tmp_path / "straight")
        with pytest.raises(RuntimeError, match="power cut"):
            run(Before(), tmp_path / "cut", (Trip(5),))
    near = lambda those: all(torch.allclose(a, b, atol=1e-5) for a, b in zip(straight, those))
    assert near(run(Now(), tmp_path / "cut")) and not near(run(Now(), tmp_path / "new"))


def test_a_new_run_notes_the_new_rule_and_an_old_one_keeps_the_old(tmp_path):
    new, old, claimed = (tmp_path / name for name in ("new", "old", "claimed"))
    for folder in (new, old, claimed):
        folder.mkdir()
    (old / "run.json").write_text('{"seed": 0}')
    (old / "last.ckpt").touch()
    (claimed / "run.json").write_text('{"seed": 0}')  # the command line's note, before the first step
    assert record_rule(new) == record_rule(claimed) == BY_ROLE and record_rule(old) == BY_NAME
    for folder in (new, claimed):
        (folder / "last.ckpt").touch()
    assert [rule_of_run(folder) for folder in (new, claimed, old)] == [BY_ROLE, BY_ROLE, BY_NAME]
    assert json.loads((claimed / "run.json").read_text()) == dict(seed=0, optimizer_rule="role")
    assert json.loads((old / "run.json").read_text()) == dict(seed=0)


# ---- bad numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [float("nan"), float("inf")])
def test_a_rate_that_is_no_finite_number_is_refused(rate):
    module = nn.Linear(2, 2)
    for make in (lambda: muon(module, rate), lambda: adam(module, rate), lambda: refuse_not_finite(learning_rate=rate)):
        with pytest.raises(NotFinite, match=f"learning rate must be a finite number, not {rate}"):
            make()


def test_a_tower_has_no_marked_layer_but_its_embeddings():
    roles = parameter_roles(VisionTower(tiny_config(300).vision))
    assert {p.ndim >= 2 for p, role in roles.items() if role == "muon"} == {True}
