"""Results of a few-shot study or a retrieval: results.json from the rows of its folds, and a table for the screen."""

import pandas as pd

from classification import retrieval
from classification.episodes import accuracy_interval
from classification.few_shot_names import TRANSDUCTIVE_HEAD
from harness.counts import counted
from scoring import run_scores

GALLERY_WIDTH = 23  # of a column: 100.00 [100.0, 100.0] and two blanks


def results_of(
    episodes: pd.DataFrame,
    predictions: pd.DataFrame,
    n_classes: int,
    frequent_from: int,
    of_test: tuple[str, int, int] | None,
) -> dict:
    """The content of results.json, from the rows of episodes.parquet and predictions.parquet.

    of_test: head, ways and shots of episodes; None for a gallery. `transductive` says whether the head saw all queries
    of an episode at once, so that nobody ranks it with heads that see one. See episode_results, retrieval.summaries."""
    if of_test is None:
        scores = run_scores.score(predictions)
        return scores | {"frequent_from": frequent_from, "methods": retrieval.summaries(episodes)}
    head, n_way, k_shot = of_test
    of_test = {"n_way": n_way, "k_shot": k_shot, "transductive": head == TRANSDUCTIVE_HEAD}
    return episode_results(episodes, head, n_way, n_classes) | of_test


def episode_results(episodes: pd.DataFrame, head: str, n_way: int, n_classes: int) -> dict:
    """The content of results.json from the rows of episodes.parquet of all folds and seeds.

    `metrics` has the top-1 accuracy of `head`, `heads` that of every head: `mean`, `sd` (ddof=1, over seeds under
    strict, over the models of fold and seed under paper; null for one) and the 95 % interval for new conditions and
    subjects. Fractions 0..1."""
    protocol = episodes["protocol"].iloc[0]
    replicate = ["seed"] if protocol == "strict" else ["seed", "fold"]
    heads = {}
    for column in [column for column in episodes if column.startswith("right_")]:
        of_replicates = episodes.groupby(replicate)[column].mean()
        right = episodes[column].to_numpy()
        low, high = accuracy_interval(right, episodes["label"].to_numpy(), episodes["subject"].tolist())
        sd = float(of_replicates.std(ddof=1)) if len(of_replicates) > 1 else None
        heads[column.removeprefix("right_")] = {"mean": float(right.mean()), "sd": sd, "low": low, "high": high}
    return {
        "protocol": protocol,
        "n_episodes": len(episodes) // n_way,
        "n_test": int(episodes["query"].nunique()),
        "n_subjects": int(episodes["subject"].nunique()),
        "n_classes": n_classes,
        "n_classes_tested": int(episodes["label"].nunique()),
        "seeds": sorted(episodes["seed"].unique().tolist()),
        "n_replicates": episodes.groupby(replicate).ngroups,
        "chance": 1 / n_way,
        "metrics": {"top1": heads[head]},
        "heads": heads,
    }


def table_of(results: dict) -> str:
    """The results for the screen, in percent with 95 % intervals for new conditions and subjects."""

    def cell(score: dict) -> str:
        if score["mean"] is None:
            return "-"
        interval = "" if score["low"] is None else f" [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"
        return f"{100 * score['mean']:.2f}{interval}"

    if results["mode"] == "gallery":
        title = "galleries: % [95 % interval for new conditions and people]; -: the list holds every condition"
        head = f"{'':22}{'gallery':10}{'probes':9}{'n':>6}{'ranked':>8}{'chance':>8}"
        lines = [title, head + "".join(f"{f'top-{k}':>{GALLERY_WIDTH}}" for k in retrieval.TOP_K)]
        for method, by_gallery in results["methods"].items():
            for gallery, by_side in by_gallery.items():
                for side, scores in by_side.items():
                    if scores["n"]:
                        of_gallery = f"{scores['n']:6}{scores['n_ranked']:8}{100 * scores['chance']:8.1f}"
                        cells = "".join(f"{cell(scores[f'top{k}']):>{GALLERY_WIDTH}}" for k in retrieval.TOP_K)
                        lines.append(f"{method:22}{gallery:10}{side:9}{of_gallery}{cells}")
        lines.append("a leaderboard has intervals for new people with the same conditions, which are narrower")
        return "\n".join(lines)
    title = f"{counted(results['n_episodes'], 'episode')}, {results['n_way']}-way {results['k_shot']}-shot; chance "
    title += f"{100 * results['chance']:.1f} %; top-1 of every head in % [95 % interval over conditions]"
    title += ", TRANSDUCTIVE: all queries of an episode were seen at once" if results["transductive"] else ""
    return "\n".join([title, *(f"{head:26}{cell(score):>22}" for head, score in results["heads"].items())])
