"""Results of before version 0.2.0 under today's rules: intervals are computed again from what is stored, or marked.

They were stored with percentile bootstraps, and some without the figures of each case. Results of today have a `key`.
"""

from __future__ import annotations

from collections.abc import Mapping

from hb.eval import stats
from hb.eval.coverage import coverage_share, relative
from hb.eval.stats import Share

STORED = "†"
STORED_MEANS = (
    "† a percentile bootstrap, as it was stored before version 0.2.0: what today's interval needs was not kept."
)
WILSON_ALREADY = ("autoencoder", "judge", "understand")
NO_INTERVAL = ("speed",)  # a range over repeats
CLUSTERED = ("descriptions: recall", "descriptions: precision")  # things of one description were counted as independent
UPPER, LOWER = ": upper end of the interval", ": lower end of the interval"


def renewed(record: Mapping) -> dict:
    """The record with every interval of its numbers computed again, or with STORED as its note."""
    if "key" in record:
        return dict(record)
    computed = _computed(record)
    return dict(record, numbers=[_renewed(number, record.get("name", ""), computed) for number in record["numbers"]])


def _renewed(number: Mapping, name: str, computed: Mapping[str, dict]) -> dict:
    if number["what"] in computed:
        return dict(number, **{k: computed[number["what"]].get(k, "") for k in ("value", "low", "high", "n", "note")})
    number = _lower_end(number)
    wilson = name.startswith(WILSON_ALREADY) and number["what"] not in CLUSTERED
    if number["low"] is None or wilson or name.startswith(NO_INTERVAL):
        return number
    return number | dict(note=STORED)


def _lower_end(number: Mapping) -> dict:
    """ "Upper end of O's share at least 1" was the easier the noisier one measured; now the lower end is at least
    0.98."""
    if not number["what"].endswith(UPPER):
        return dict(number)
    met = number["low"] >= 0.98
    return dict(number, what=number["what"].replace(UPPER, LOWER), value=number["low"], target=0.98, met=met)


def _computed(record: Mapping) -> dict[str, dict]:
    """what -> today's estimate, for the numbers whose cases are stored."""
    name, result = record.get("name", ""), record.get("result", {})
    if name.startswith("scene_steps_ablation"):
        whats = [number["what"] for number in record["numbers"]]
        return {what: _mean_of_tasks(row) for what, row in zip(whats, result["rows"])}  # the first numbers are the rows
    if name.startswith("coverage"):
        return _coverage(record)
    if name.startswith("draft_ablation"):
        variants = {
            row["variant"]: [r for r in result["rows"] if r["variant"] == row["variant"]] for row in result["rows"]
        }
        pairs = [(variant, rows, what) for variant, rows in variants.items() for what in ("tau", "alpha")]
        return {f"{v}: {what}, chain of 10": stats.t_interval([r[what] for r in rows]) for v, rows, what in pairs}
    return {}


def _mean_of_tasks(row: Mapping) -> dict:
    """One picture of each prompt: the shares of the tasks say all."""
    shares = [Share(round(task["value"] * task["n"]), task["n"]) for task in row["tasks"].values()]
    return stats.mean_of_shares(shares)


def _coverage(record: Mapping) -> dict[str, dict]:
    result, out = record["result"], {}
    for number in record["numbers"]:
        if number["what"].startswith("coverage, share of"):
            out[number["what"]] = coverage_share(result, result["against"])
        elif number["what"].startswith("coverage, "):
            out[number["what"]] = stats.mean_interval([relative(result["parts"])], (0, 1))
    return out
