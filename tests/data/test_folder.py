"""Pictures of one's own: every good row is used, every bad one named, and what comes out trains like the tiny world."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from hb.data.batches import BatchSizes, pick
from hb.data.folder import read_folder
from hb.data.own_pictures import MOST_TOKENS
from hb.data.records import Caption, Instruction, unpack
from hb.data.tokens import DIALOGUE_TOKENS
from hb.models.autoencoder import Autoencoder
from hb.models.bagel import Bagel
from hb.models.initialize import initialize
from hb.models.tokenizer import Text
from hb.train.pools import features_of, pool_for
from hb.train.teacher import TeacherSettings, TeacherTraining
from tests.conftest import TOKENIZER, tiny_config

SIZE = (64, 64)


@pytest.fixture(scope="module")
def text():
    return Text.load(TOKENIZER)


def lines(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


def picture(path, color, size=(40, 40), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Four pictures, three captions (one in a text file), two edits."""
    for name in ("red", "blue", "green", "gray"):
        picture(tmp_path / "pictures" / f"{name}.png", name)
    (tmp_path / "pictures" / "gray.txt").write_text("a gray wall\nin the rain\n")
    caption = lambda name: dict(image=f"pictures/{name}.png", text=f"a {name} Zeppelin – schön")
    lines(tmp_path / "captions.jsonl", caption("red"), caption("blue"))
    edit = lambda a, b: dict(image=f"pictures/{a}.png", instruction=f"make it {b}", edited=f"pictures/{b}.png")
    lines(tmp_path / "edits.jsonl", edit("red", "blue"), edit("blue", "red"))
    return tmp_path


def encode(pictures):
    """Any fixed function of the picture will do."""
    return torch.nn.functional.avg_pool2d(pictures, 8).repeat(1, 2, 1, 1)[:, :4]


# ---- what is read ---------------------------------------------------------------------------------------------------


def test_a_folder_gives_its_pictures_captions_and_edits(folder, text):
    own = read_folder(folder, size=SIZE, text=text)
    assert own.names == tuple(f"pictures/{n}.png" for n in ("blue", "gray", "green", "red"))
    assert Caption("pictures/gray.png", "a gray wall in the rain") in own.captions and len(own.captions) == 3
    assert own.edits[0] == Instruction("pictures/red.png", "make it blue", "pictures/blue.png") and len(own.edits) == 2
    assert own.left_out == own.notes == () and str(own) == "4 pictures, 3 captions, 2 edits"


def test_a_file_of_both_kinds_of_lines_is_read_and_its_paths_are_relative_to_it(folder):
    both = (folder / "captions.jsonl").read_text() + "\n" + (folder / "edits.jsonl").read_text()
    (folder / "all.jsonl").write_text(both)
    own = read_folder(folder / "all.jsonl", size=SIZE)
    assert len(own.captions) == 2 and len(own.edits) == 2 and len(own.names) == 2


BAD = {
    "no JSON": ("{image: red}", "it is no JSON"),
    "not an object": ("[1, 2]", 'it is not {"image"'),
    "other keys": (dict(picture="pictures/red.png", caption="red"), 'it is not {"image"'),
    "both kinds at once": (dict(image="pictures/red.png", text="x", instruction="y", edited="z"), "it is not"),
    "a number for a text": (dict(image="pictures/red.png", text=7), "'text' is 7, and must be a text"),
    "an empty text": (dict(image="pictures/red.png", text=" \n"), "the text is empty"),
    "a missing file": (dict(image="pictures/pink.png", text="pink"), "there is no file pictures/pink.png"),
    "not a picture": (dict(image="captions.jsonl", text="red"), "captions.jsonl cannot be read as a picture"),
    "a picture cut off": (dict(image="cut.png", text="red"), "cut.png cannot be read as a picture"),
    "the same again": (
        dict(image="pictures/red.png", text="a red Zeppelin – schön"),
        "the same as captions.jsonl, line 1",
    ),
    "a strip": (dict(image="strip.bmp", text="red"), "strip.bmp is 200 x 10 pixels; one side may be 16 times"),
    "sizes that do not fit": (
        dict(image="pictures/red.png", instruction="larger", edited="wide.png"),
        "pictures/red.png is 40 x 40 pixels and wide.png 80 x 40",
    ),
    "an empty instruction": (
        dict(image="pictures/red.png", instruction="", edited="pictures/blue.png"),
        "the instruction is empty",
    ),
    "a lone escape": (b'{"image": "pictures/red.png", "text": "\xff"}', "it is not UTF-8"),
}


@pytest.fixture
def trouble(folder):
    picture(folder / "wide.png", "red", (80, 40))
    picture(folder / "strip.bmp", "red", (200, 10))
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:4000])
    return folder


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_is_named_with_its_line_and_the_others_are_used(trouble, kind):
    row, why = BAD[kind]
    row = row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode()
    file = trouble / "captions.jsonl"
    first, second = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([first, b"", row, second]) + b"\n")
    own = read_folder(file, size=SIZE)
    assert [c.text[:5] for c in own.captions] == ["a red", "a blu"] and not own.edits
    (sentence,) = own.left_out
    assert sentence.startswith("captions.jsonl, line 3: ") and why in sentence and sentence.endswith(".")
    assert "1 rows are left out" in str(own)


def test_of_many_bad_rows_each_has_its_sentence(trouble):
    rows = [row for row, _ in BAD.values() if not isinstance(row, bytes)]
    with (trouble / "captions.jsonl").open("a") as file:
        file.writelines((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    own = read_folder(trouble / "captions.jsonl", size=SIZE)
    assert len(own.left_out) == len(rows) and len(own.captions) == 2
    assert [s.split(":")[0] for s in own.left_out] == [f"captions.jsonl, line {3 + i}" for i in range(len(rows))]


def test_a_folder_names_bad_pictures_and_texts_once(trouble):
    (trouble / "pictures" / "alone.txt").write_text("nothing is beside this")
    (trouble / "pictures" / "red.txt").write_text("")
    with (trouble / "captions.jsonl").open("a") as file:
        file.write(json.dumps(dict(image="cut.png", text="red")) + "\n")
    own = read_folder(trouble, size=SIZE)
    where = sorted(sentence.split(":")[0] for sentence in own.left_out)
    assert where == ["captions.jsonl, line 3", "pictures/alone.txt", "pictures/red.txt", "strip.bmp"]
    assert len(own.captions) == 3 and len(own.edits) == 2


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([dict(image="no.png", text="red"), "{"], "line 1: there is no file no.png.*line 2: it is no JSON"),
        ([], "It holds no pictures"),
    ],
)
def test_where_nothing_is_good_that_is_an_error(tmp_path, content, why):
    if content:
        lines(tmp_path / "captions.jsonl", *content)
    with pytest.raises(ValueError, match=f"nothing in .* can be trained on. .*{why}"):
        read_folder(tmp_path, size=SIZE)


def test_all_bad_lines_are_an_error_even_beside_good_pictures(folder):
    lines(folder / "captions.jsonl", "{")
    lines(folder / "edits.jsonl", "[")
    (folder / "pictures" / "gray.txt").unlink()
    with pytest.raises(ValueError, match="can be trained on. captions.jsonl, line 1"):
        read_folder(folder, size=SIZE)


def test_what_is_not_there_has_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="--data takes a folder of pictures, or a file of JSON lines"):
        read_folder(tmp_path / "nowhere", size=SIZE)
    with pytest.raises(ValueError, match="'pad' or 'crop', not 'stretch'"):
        read_folder(tmp_path, size=SIZE, fit="stretch")


# ---- pictures -------------------------------------------------------------------------------------------------------


def only(folder, fit="pad", size=SIZE):
    own = read_folder(folder, size=size, fit=fit)
    assert not own.left_out, own.left_out
    return own.pictures[0].int()


def test_another_aspect_is_padded_with_white_or_cropped_at_the_center(tmp_path):
    wide = Image.new("RGB", (128, 64), "red")
    wide.paste("blue", (32, 0, 96, 64))
    wide.save(tmp_path / "wide.png")
    padded, cropped = only(tmp_path), only(tmp_path, "crop")
    assert padded[2, 32].tolist() == [255] * 3 and padded[61, 32].tolist() == [255] * 3  # bands above and below
    assert padded[32, 4].tolist() == [255, 0, 0] and padded[32, 32].tolist() == [0, 0, 255]
    assert (cropped == torch.tensor([0, 0, 255])).all()
    assert only(tmp_path, size=(32, 64)).shape == (32, 64, 3) and only(tmp_path, size=(32, 64))[2, 2].tolist() == [
        255,
        0,
        0,
    ]


def test_a_picture_of_the_right_size_is_not_touched(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "exact.png")
    assert torch.equal(only(tmp_path), torch.from_numpy(pixels).int())


def test_exif_orientation_is_followed(tmp_path):
    image = Image.new("RGB", (64, 64), "white")
    image.paste("black", (0, 0, 64, 16))  # a bar at the top as stored
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: the bar is to be at the right
    image.save(tmp_path / "turned.png", exif=exif)
    shown = only(tmp_path)
    assert shown[32, 60].tolist() == [0] * 3 and shown[4, 4].tolist() == [255] * 3


RAMP = np.linspace(0, 1, 64)[None].repeat(64, 0)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray((RAMP * 255).round().astype(np.uint8)),
        Image.fromarray((RAMP * 65535).round().astype(np.uint16)),
        Image.fromarray((RAMP * 65535).round().astype(np.int32)),
        Image.fromarray(RAMP.astype(np.float32)),
        Image.fromarray((RAMP * 255).astype(np.float32)),
        Image.fromarray((RAMP * 255).round().astype(np.uint8)).convert("P"),
        Image.fromarray((RAMP * 255).round().astype(np.uint8)).convert("LA"),
        Image.fromarray((RAMP * 255).round().astype(np.uint8)).convert("RGBA"),
    ],
    ids=lambda image: image.mode,
)
def test_a_picture_of_any_mode_is_the_same_picture(tmp_path, image):
    image.save(tmp_path / "ramp.tiff")
    want = torch.from_numpy((RAMP * 255).round()).int()[..., None].expand(-1, -1, 3)
    assert (only(tmp_path) - want).abs().max() <= 1


def test_transparency_is_white(tmp_path):
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (only(tmp_path) == 255).all()


def test_values_that_are_no_brightness_have_a_sentence(tmp_path):
    Image.fromarray(np.full((64, 64), np.nan, np.float32)).save(tmp_path / "nan.tiff")
    picture(tmp_path / "good.png", "red")
    (sentence,) = read_folder(tmp_path, size=SIZE).left_out
    assert "nan.tiff" in sentence and "not finite numbers" in sentence


# ---- texts ----------------------------------------------------------------------------------------------------------


def test_words_that_the_tokenizer_never_met_come_back_whole(folder, text):
    own = read_folder(folder, size=SIZE, text=text)
    pool = own.pool(encode, text)
    row = [pool.request(i).image for i in range(3)].index("pictures/red.png")
    assert text.decode(pool.draw_ids[row, : pool.draw_length[row]].tolist()) == "a red Zeppelin – schön"


def test_a_long_text_is_cut_and_named(folder, text):
    long = "a red circle and " * 60
    lines(
        folder / "captions.jsonl",
        dict(image="pictures/red.png", text=long),
        dict(image="pictures/blue.png", text="sea"),
    )
    own = read_folder(folder, size=SIZE, text=text)
    (note,) = own.notes
    count = len(text.encode(long.strip()))
    assert note == f"captions.jsonl, line 1: the text has {count} tokens, and is cut after {MOST_TOKENS - 2}."
    pool = own.pool(encode, text)
    assert pool.budget.draw_tokens == MOST_TOKENS == int(pool.draw_length.max()) and not own.left_out
    dialogues = own.dialogues(text, 12, 0, 0)
    assert dialogues["dialogue_length"].max() <= DIALOGUE_TOKENS and dialogues["dialogue_length"].min() > 4


def test_short_texts_make_a_narrow_pool(folder, text):
    pool = read_folder(folder, size=SIZE).pool(encode, text)
    assert pool.draw_ids.size(1) == pool.draw_length.max() and pool.edit_ids.size(1) == pool.edit_length.max()


def test_a_described_picture_has_its_caption_as_the_answer(folder, text):
    own = read_folder(folder, size=SIZE)
    written = own.dialogues(text, 8, 0, 0)
    captions = {c.text: own.pixels([c.image])[0] for c in own.captions}
    for i in range(8):
        ids, answer = written["dialogue_ids"][i, 1:], written["dialogue_answer"][i, :-1]
        said = text.decode(ids[answer].tolist())
        shown = written["dialogue_picture"][i].movedim(-1, 0).float() / 255
        assert torch.allclose(shown, captions[said])


# ---- the pool -------------------------------------------------------------------------------------------------------


def test_a_pool_holds_each_caption_and_edit_with_its_own_pictures(folder, text):
    own = read_folder(folder, size=SIZE)
    pool = own.pool(encode, text)
    assert (pool.prompts, pool.edits) == (3, 2)
    batch = pick(pool, BatchSizes(4, 4, 0), 0, 0)
    for i in range(4):
        caption, edit = unpack(batch["draw_record"][i]), unpack(batch["edit_record"][i])
        assert torch.allclose(batch["draw_latent"][i].float(), encode(own.pixels([caption.image] * 4)), atol=1e-3)
        assert torch.allclose(batch["scene_latent"][i].float(), encode(own.pixels([edit.image]))[0], atol=1e-3)
        assert torch.allclose(batch["edit_latent"][i].float(), encode(own.pixels([edit.edited]))[0], atol=1e-3)
        assert torch.equal(batch["scene_picture"][i].movedim(-1, 0).float() / 255, own.pixels([edit.image])[0])


def test_one_text_of_several_pictures_is_a_prompt_with_as_many(folder, text):
    names = ("red", "blue", "green", "gray", "red2", "red3")
    for name in names[4:]:
        picture(folder / "pictures" / f"{name}.png", "red")
    (folder / "pictures" / "gray.txt").unlink()
    lines(folder / "captions.jsonl", *(dict(image=f"pictures/{n}.png", text="paint") for n in names))
    own = read_folder(folder, size=SIZE)
    pool = own.pool(encode, text)
    assert pool.prompts == 2 and torch.equal(pool.draw_ids[0], pool.draw_ids[1])
    images = [*names[:4], "red2", "red3", "red2", "red3"]
    want = encode(own.pixels([f"pictures/{n}.png" for n in images])).unflatten(0, (2, 4))
    assert torch.allclose(pool.draw_latent.float(), want, atol=1e-3)


def test_pictures_without_any_text_train_an_autoencoder_and_nothing_else(tmp_path, text):
    for name in ("red", "blue"):
        picture(tmp_path / f"{name}.png", name)
    own = read_folder(tmp_path, size=SIZE)
    batch = own.random_pictures(5, 0, 3)
    assert batch.shape == (5, 3, 64, 64) and batch.min() == -1 and batch.max() == 1
    assert torch.equal(batch, own.random_pictures(5, 0, 3)) and not torch.equal(batch, own.random_pictures(5, 0, 4))
    with pytest.raises(ValueError, match="no picture has a caption, and there are no edits; write captions.jsonl"):
        own.pool(encode, text)
    with pytest.raises(ValueError, match="no captions to learn describing from"):
        own.dialogues(text, 2, 0, 0)


def test_what_is_held_back_shares_no_picture_with_the_rest(folder):
    own = read_folder(folder, size=SIZE)
    kept, held = own.hold_back(2, seed=1)
    assert len(held.names) == 2 and not set(kept.names) & set(held.names)
    assert len(kept.names) + len(held.names) == 4 and len(kept.edits) + len(held.edits) == 2
    assert len(kept.captions) + len(held.captions) == 3
    for part in (kept, held):
        assert all({e.image, e.edited} <= set(part.names) for e in part.edits)
        assert torch.equal(part.pixels(part.names), own.pixels(part.names))


def test_other_pictures_have_another_fingerprint(folder):
    first = read_folder(folder, size=SIZE).fingerprint()
    assert read_folder(folder, size=SIZE).fingerprint() == first != read_folder(folder, size=(64, 32)).fingerprint()
    picture(folder / "pictures" / "green.png", "olive")
    assert read_folder(folder, size=SIZE).fingerprint() != first


def test_a_folder_that_has_changed_makes_its_pool_anew(folder, text, capsys):
    autoencoder = Autoencoder(tiny_config(300).autoencoder)
    made = lambda: pool_for(
        autoencoder,
        text,
        folder / "run" / "pool.safetensors",
        side=64,
        prompts=9,
        scenes=9,
        own=read_folder(folder / "captions.jsonl", size=SIZE),
    )
    first, again = made(), made()
    assert torch.equal(first.draw_latent, again.draw_latent) and "made anew" not in capsys.readouterr().err
    picture(folder / "pictures" / "red.png", "pink")
    assert not torch.equal(made().draw_latent, first.draw_latent)
    assert "pool.safetensors was made with data " in capsys.readouterr().err


# ---- training -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def training(text):
    model = Bagel(tiny_config(text.vocab_size), (text.start, text.end, text.vision_start, text.vision_end))
    initialize(model, torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.latent.output.weight, 0, 0.1, generator=torch.Generator().manual_seed(1))
    return TeacherTraining(model, total=8, settings=TeacherSettings(drop_text=0.0, drop_pictures=0.0, drop_view=0.0))


@pytest.mark.parametrize("size", [(64, 64), (32, 64), (64, 16)], ids=str)
def test_a_teacher_trains_on_pictures_of_any_aspect(folder, text, training, size, monkeypatch):
    monkeypatch.setattr(TeacherTraining, "global_step", property(lambda self: 0))
    monkeypatch.setattr(TeacherTraining, "global_rank", property(lambda self: 0))
    own = read_folder(folder, size=size)
    pool = own.pool(encode, text)
    batch = pick(pool, BatchSizes(2, 2, 2), 0, 0) | own.dialogues(text, 2, 0, 0)
    terms = {}
    monkeypatch.setattr(training, "log_dict", lambda values, **_: terms.update(values))
    loss = training.training_step(batch, 0)
    assert torch.isfinite(loss) and terms.keys() == {"draw", "edit", "align", "ce"}


def test_rows_and_columns_of_a_picture_are_its_own(folder, text, training):
    """32 x 128 pixels have as many tokens as 64 x 64: read as a square, the places would be wrong without an error."""
    pool = read_folder(folder, size=(16, 64)).pool(encode, text)
    latent = pool.draw_latent
    tokens, grid = training._latent(latent)
    assert grid == (1, 4) and tokens.size(-2) == 4
    splits, _ = training._noised(tokens[:1], grid, torch.Generator().manual_seed(0))
    x, t = splits[0].tokens, splits[0].t
    model = training.model
    alone = model.velocity(x, t, model.empty(1), (1, 4))
    square = model.velocity(x, t, model.empty(1), (2, 2))
    assert torch.allclose(model([splits[0]])[0], alone, atol=1e-5) and not torch.allclose(alone, square, atol=1e-3)


@pytest.mark.parametrize("kept", ["captions.jsonl", "edits.jsonl"])
def test_captions_alone_or_edits_alone_train_too(folder, text, training, kept, monkeypatch):
    monkeypatch.setattr(TeacherTraining, "global_step", property(lambda self: 0))
    monkeypatch.setattr(TeacherTraining, "global_rank", property(lambda self: 0))
    pool = read_folder(folder / kept, size=SIZE).pool(encode, text)
    monkeypatch.setattr(training, "answers", False)
    terms = {}
    monkeypatch.setattr(training, "log_dict", lambda values, **_: terms.update(values))
    loss = training.training_step(pick(pool, BatchSizes(2, 2, 0).fitting(pool), 0, 0), 0)
    assert torch.isfinite(loss) and terms.keys() == {"draw" if kept[0] == "c" else "edit", "align"}


def test_features_of_an_oblong_picture_are_row_by_row(training):
    eyes = training.model.vit_model
    pictures = torch.rand(1, 3, 32, 64) * 2 - 1
    with torch.no_grad():
        seen, patches = features_of(eyes, pictures, 16), features_of(eyes, pictures, 8)[0].view(4, 8, -1)
    assert seen.shape == (1, 8, 32)
    assert torch.allclose(seen[0, 4 * 1 + 2], patches[2:4, 4:6].flatten(0, 1).mean(0), atol=1e-5)
