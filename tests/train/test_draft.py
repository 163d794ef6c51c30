"""What a draft learns from is the target's own, and training changes nothing but the draft."""

import torch

from hb.infer.fused import FastText, decode_fast
from hb.infer.speculative.decode import read_picture_and_text
from hb.infer.speculative.draft import DraftConfig
from hb.models.distribution import TokenDistribution
from hb.train.draft import Answered, DraftTraining, answered, train_draft, vocabulary_of
from tests.infer.speculative.test_draft import shaken


def pool(tiny, n=8):
    return answered(tiny.bagel, tiny.text, n=n, side=64, batch=4, bar=False)


def test_answers_are_what_the_target_says(tiny):
    """Asked again, greedily, the greedy ones come back word for word."""
    data, same = pool(tiny), 0
    fast = FastText(tiny.bagel)
    for i in range(8):
        question = data.ids[i, 1 : data.question[i] - 1].tolist()
        pixels = data.picture[i : i + 1].movedim(-1, 1).float() / 127.5 - 1
        read = read_picture_and_text(tiny.bagel, pixels, [question])
        said = data.ids[i, data.question[i] + 1 : data.length[i] - 1].tolist()
        same += decode_fast(fast, read.context, distribution=TokenDistribution())[0][0] == said
    assert 1 <= same < 8  # half of them were greedy; bytes instead of floats may turn one


def test_a_pool_survives_its_file_and_its_batches_are_of_one_length(tiny, tmp_path):
    data = pool(tiny)
    data.save(tmp_path / "answers.safetensors")
    again = Answered.load(tmp_path / "answers.safetensors")
    assert torch.equal(again.ids, data.ids) and bool((data.length[1:] >= data.length[:-1]).all())
    batch = data.batch(3, seed=0, step=5)
    assert batch["ids"].size(1) == batch["length"].max() and len(batch["picture"]) == 3
    assert torch.equal(batch["ids"], data.batch(3, seed=0, step=5)["ids"])


def test_the_draft_vocabulary_is_that_of_answers_and_not_of_questions(tiny):
    data = pool(tiny)
    wanted = set()
    for i in range(8):
        wanted |= set(data.ids[i, data.question[i] : data.length[i]].tolist())
    assert set(vocabulary_of(data)) == wanted


def test_the_target_distribution_stands_where_the_loss_looks(tiny):
    """Logits, answer marks and the hidden states of a training step against reading the row alone."""
    draft = shaken(tiny, DraftConfig(layers=1))
    data = pool(tiny)
    batch = data.batch(4, seed=0, step=0)
    states, positions, present, target, answer = DraftTraining(draft, tiny.bagel, total=1).read(batch)
    for row in range(4):
        n, asked = int(batch["length"][row]), int(batch["question"][row])
        pixels = batch["picture"][row : row + 1].movedim(-1, 1).float() / 127.5 - 1
        _, context = tiny.bagel.see(tiny.bagel.empty(1), pixels)
        hidden, _ = tiny.bagel.read_ids(context, batch["ids"][row : row + 1, :n])
        p = context.length
        assert torch.allclose(target[row, p : p + n], tiny.bagel.logits(hidden)[0], atol=1e-4)
        assert answer[row].nonzero()[:, 0].tolist() == list(range(p + asked, p + n - 1))
        assert positions[row, p : p + n].tolist() == list(range(1, n + 1)) and int(present[row].sum()) == p + n
    assert len(states) == tiny.bagel.config.llm.num_hidden_layers + 1


def test_training_changes_the_draft_and_not_the_target(tiny, tmp_path):
    before = {k: v.clone() for k, v in tiny.bagel.state_dict().items()}
    wants = [p.requires_grad for p in tiny.bagel.parameters()]
    parcel = train_draft(
        tmp_path, tiny.bagel, tiny.text, DraftConfig(layers=1), steps=3, batch=2, pool=4, bar=False, accelerator="cpu"
    )
    assert all(torch.equal(v, before[k]) for k, v in tiny.bagel.state_dict().items())
    assert wants == [p.requires_grad for p in tiny.bagel.parameters()]
    assert parcel.weights["fc2.weight"].any()  # it began at zero
