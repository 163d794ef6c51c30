"""A pretrained vision encoder: its labels are the scene's, pretraining lowers the loss, its features are in the
teacher's loss."""

import numpy as np
import pytest
import torch

from hb.data.batches import BatchSizes, pick
from hb.data.pool import make_pool
from hb.models.autoencoder import Autoencoder
from hb.models.bagel import Bagel
from hb.models.initialize import initialize
from hb.models.tokenizer import Text
from hb.models.vision import VisionTower
from hb.train.pools import features_of
from hb.train.teacher import TeacherTraining, train_teacher
from hb.train.vision import VisionPretraining, labeled_pictures, patch_labels, train_vision
from hb.world.scene import BACKGROUNDS, COLORS, SHAPES, SIZES, TEXTURES, Scene, Scenes, Thing
from tests.conftest import TOKENIZER, tiny_config

SCENE = Scene((Thing("star", "red", "large", 0.25, 0.25), Thing("ring", "blue", "small", 0.75, 0.8, "striped")), "navy")


def test_every_patch_knows_the_thing_it_lies_on():
    truth = patch_labels(Scenes.from_list([SCENE]), 8)
    at = lambda x, y: int(y * 8) * 8 + int(x * 8)
    star, ring, nothing = at(0.25, 0.25), at(0.75, 0.8), at(0.9, 0.1)
    assert truth["shape"][0, [star, ring, nothing]].tolist() == [SHAPES.index("star"), SHAPES.index("ring"), -100]
    assert truth["color"][0, [star, ring]].tolist() == [COLORS.index("red"), COLORS.index("blue")]
    assert truth["size"][0, [star, ring]].tolist() == [SIZES.index("large"), SIZES.index("small")]
    assert truth["texture"][0, ring] == TEXTURES.index("striped")
    assert truth["background"].tolist() == [BACKGROUNDS.index("navy")]
    # center of that patch is (2.5 / 8, 2.5 / 8): the star's center lies half a patch up and left of it
    assert truth["offset"][0, star].tolist() == pytest.approx([-0.0625 / (10.5 / 64)] * 2, abs=1e-5)
    assert torch.isnan(truth["offset"][0, nothing]).all()


def test_pretraining_lowers_the_loss(tmp_path):
    config = tiny_config(300).vision
    torch.manual_seed(0)
    module = VisionPretraining(config, total=10)
    held_out = labeled_pictures(32, 64, 8, 7, 0)
    before = sum(module.losses(*held_out).values())
    tower = train_vision(tmp_path, config, steps=70, batch=12, lr=0.03, bar=False, accelerator="cpu")
    module.tower.load_state_dict(tower.state_dict())
    heads = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    module.heads.load_state_dict({k.removeprefix("heads."): v for k, v in heads.items() if k.startswith("heads.")})
    assert sum(module.losses(*held_out).values()) < 0.8 * before


def test_what_is_seen_in_a_square_is_the_mean_of_its_patches():
    config = tiny_config(300).vision
    torch.manual_seed(0)
    encoder = VisionTower(config).eval()
    picture = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        seen = features_of(encoder, picture, 16)
        patches = features_of(encoder, picture, 8)[0].view(8, 8, -1)
    assert seen.shape == (1, 16, 32)
    assert torch.allclose(seen[0, 4 * 1 + 2], patches[2:4, 4:6].flatten(0, 1).mean(0), atol=1e-5)  # row 1, column 2


@pytest.fixture(scope="module")
def schooled():
    text = Text.load(TOKENIZER)
    config = tiny_config(text.vocab_size)
    torch.manual_seed(0)
    encoder = VisionTower(config.vision).eval()
    encode = lambda pictures: torch.nn.functional.avg_pool2d(pictures, 8).repeat(1, 2, 1, 1)[:, :4]
    with torch.no_grad():
        pool = make_pool(
            encode, text, side=64, prompts=4, scenes=4, bar=False, see=lambda p: features_of(encoder, p * 2 - 1, 16)
        )
    model = Bagel(config, (text.start, text.end, text.vision_start, text.vision_end))
    initialize(model, torch.Generator().manual_seed(0))
    return TeacherTraining(model, total=8, align=True), pick(pool, BatchSizes(3, 3, 3), 0, 0), pool


def test_the_fourth_term_is_one_minus_the_cosine(schooled):
    """Against the right tokens, one by one: the last ones of the layer are the noised ones, in the order of the
    pictures."""
    training, batch, _ = schooled
    states: list = []
    generator = torch.Generator().manual_seed(1)
    text = training._text(batch["draw_ids"], batch["draw_length"])
    noised, _ = training._noised(*training._latent(batch["draw_latent"]), generator)
    training.model([text, *noised], states)
    got = training.alignment_loss(states, batch["draw_features"])
    said, cosines = states[training.aligned], []
    for b, copy, n in np.ndindex(3, 4, 16):
        a, s = training.align(said[b, copy * 16 + n]), batch["draw_features"][b, copy, n].float()
        cosines.append(float((a @ s / (a.norm() * s.norm())).detach()))
    assert float(got) == pytest.approx(1 - np.mean(cosines), abs=1e-4)
    assert got.requires_grad


def test_a_pool_holds_what_the_encoder_sees_of_each_picture(schooled):
    *_, pool = schooled
    assert pool.draw_features.shape == (4, 4, 16, 32) and pool.edit_features.shape == (4, 16, 32)
    assert not torch.allclose(pool.draw_features[0, 0].float(), pool.draw_features[1, 0].float())


@pytest.mark.parametrize("kept", [True, False])
def test_a_pretrained_encoder_is_kept_as_it_is_and_another_learns(kept, tmp_path):
    text = Text.load(TOKENIZER)
    config = tiny_config(text.vocab_size)
    torch.manual_seed(0)
    encoder = VisionTower(config.vision).eval()
    model = train_teacher(
        tmp_path,
        config,
        Autoencoder(config.autoencoder),
        text,
        steps=2,
        prompts=4,
        scenes=4,
        sizes=BatchSizes(2, 2, 2),
        vision_encoder=encoder if kept else None,
        precision="f32",
        bar=False,
        accelerator="cpu",
    )
    same = [torch.equal(v, dict(encoder.state_dict())[k]) for k, v in model.vit_model.state_dict().items()]
    assert all(same) == kept
    assert model.latent.output.weight.abs().max() > 0  # which began at zero: the rest has learnt
