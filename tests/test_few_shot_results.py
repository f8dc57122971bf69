"""few_shot_results.py: what results.json says of episodes, over seeds under strict and over models under paper."""

import numpy as np
import pandas as pd
import pytest

from classification.episodes import accuracy_interval
from classification.few_shot_results import results_of, table_of


def episodes(protocol: str) -> pd.DataFrame:
    """Two seeds of two folds with three 2-way episodes each."""
    rng = np.random.default_rng(0)
    rows = [
        {"seed": seed, "fold": fold, "episode": episode, "label": 2 * fold + way, "query": f"{fold}-{episode}-{way}"}
        for seed in (0, 1)
        for fold in (0, 1)
        for episode in range(3)
        for way in range(2)
    ]
    table = pd.DataFrame(rows).assign(protocol=protocol)
    table["subject"] = table["query"].replace("0-0-0", "0-0-1")  # one person has two conditions
    return table.assign(right_cosine=rng.integers(0, 2, len(table)), right_discriminant=rng.uniform(size=len(table)))


@pytest.mark.parametrize(("protocol", "replicate"), [("strict", ["seed"]), ("paper", ["seed", "fold"])])
def test_sd_is_over_seeds_or_over_models_and_the_interval_over_conditions(protocol, replicate):
    table = episodes(protocol)
    results = results_of(table, pd.DataFrame(), 9, 7, ("discriminant", 2, 1))
    top1 = results["metrics"]["top1"]
    assert top1 == results["heads"]["discriminant"] and set(results["heads"]) == {"cosine", "discriminant"}
    assert top1["mean"] == pytest.approx(table["right_discriminant"].mean())
    assert top1["sd"] == pytest.approx(table.groupby(replicate)["right_discriminant"].mean().std(ddof=1))
    of_questions = (table["label"].to_numpy(), table["subject"].tolist())
    assert (top1["low"], top1["high"]) == accuracy_interval(table["right_discriminant"].to_numpy(), *of_questions)
    assert results["n_episodes"] == 12 and results["n_test"] == 12 and results["n_classes_tested"] == 4
    assert results["n_subjects"] == 11
    assert (top1["low"], top1["high"]) != accuracy_interval(table["right_discriminant"], table["label"], [None] * 24)
    assert (results["chance"], results["n_way"], results["k_shot"], results["n_classes"]) == (0.5, 2, 1, 9)
    assert results["n_replicates"] == table.groupby(replicate).ngroups and results["transductive"] is False


def test_one_replicate_has_no_sd_and_the_table_shows_every_head():
    table = episodes("strict").query("seed == 0")
    results = results_of(table, pd.DataFrame(), 9, 7, ("cosine", 2, 1))
    assert results["heads"]["cosine"]["sd"] is None
    title, *rows = table_of(results | {"mode": "frozen"}).splitlines()
    assert title.startswith("6 episodes, 2-way 1-shot; chance 50.0 %; top-1 of every head in % [95 % interval")
    assert len(rows) == len(results["heads"]) and f"{100 * table['right_cosine'].mean():.2f}" in "".join(rows)
    seen_at_once = table.rename(columns={"right_cosine": "right_pt_map"}).drop(columns="right_discriminant")
    transductive = results_of(seen_at_once, pd.DataFrame(), 9, 7, ("pt_map", 2, 1))
    assert transductive["transductive"] is True and "TRANSDUCTIVE" in table_of(transductive | {"mode": "frozen"})


def test_the_columns_of_a_gallery_stand_apart_with_the_longest_cells():
    score = {"mean": 1.0, "low": 1.0, "high": 1.0}
    tops = {f"top{k}": score for k in (1, 5, 10, 30)}
    tops |= {"n": 1234, "n_ranked": 103, "chance": 1 / 103, "top30": {"mean": None, "low": None, "high": None}}
    results = {"mode": "gallery", "methods": {"discriminant": {"joined": {"frequent": tops, "rare": {"n": 0}}}}}
    title, head, row, note = table_of(results).splitlines()
    assert row.count("  100.00 [100.0, 100.0]") == 3 and row.endswith("  -") and len(head) == len(row)
    assert row.split()[3:6] == ["1234", "103", "1.0"] and "new conditions and people" in title and "narrower" in note
