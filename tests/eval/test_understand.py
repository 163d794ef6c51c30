"""Understanding tells right answers from wrong ones."""

from hb.eval.understand import understand_eval
from tests.eval.oracle import Oracle


def test_understanding_counts_right_answers(tiny):
    good = understand_eval(Oracle(tiny), bar=False)
    assert good["answers"]["value"] == 1.0 and good["recall"]["value"] == good["precision"]["value"] == 1.0
    bad = understand_eval(Oracle(tiny, "mumbling"), bar=False)
    assert bad["answers"]["value"] < 0.2 and bad["recall"]["value"] == 0.0
