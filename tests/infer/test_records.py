"""What calls give back."""

import json


def test_records_are_ready_for_json_and_for_jupyter(tiny, picture):
    drawn = tiny.draw(["a circle"] * 3, steps=1, seed=7)
    kept = json.loads(json.dumps(drawn.to_dict()))
    assert kept["nfe"] == drawn.nfe and kept["seeds"] == [7, 8, 9]
    again = lambda seed: tiny.ask(picture, "what is there?", temperature=1.0, max_tokens=12, seed=seed)
    kept = json.loads(json.dumps(again(7).to_dict()))
    assert kept["seed"] == 7 and again(kept["seed"]).texts == tuple(kept["texts"]) != again(8).texts
    assert drawn._repr_png_()[:4] == b"\x89PNG" and len(drawn.images) == 3
    assert set(drawn.seconds) == {"prefill", "denoise", "decode picture"}
