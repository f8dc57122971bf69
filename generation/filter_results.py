"""What filter_synthetic.py leaves: the scored dataset, the results of each fold, and the privacy report."""

import dataclasses
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
import pandas as pd

from curation import protocols
from curation.made_from import WORDS
from curation.opening import is_simulated, load_synthetic
from generation import foreign_images, membership_attack, privacy, realism, score_provenance
from generation.face_examination import Examined
from generation.filter_files import PRIVACY_REPORT
from generation.filter_inputs import Inputs, Side
from generation.fold_filter import FoldFilter
from generation.scored_images import read_scores, write_scored
from generation.selection import Selection, select
from generation.stored_rows import StoredRows
from harness.counts import counted
from harness.errors import InputError, one_line
from harness.files import read_json, sha256_of, write_json

GIVES_AWAY = ("near copy", "resembles the person")  # how the reasons of images begin that give a patient away


@dataclasses.dataclass
class Outcome:
    """The scores of m images in the order of the blocks, with `kept`, `reject_reason` and `side`."""

    scores: pd.DataFrame
    blocks: list[tuple[int, np.ndarray]]  # number of the dataset, and its rows
    identity_files: list[Path]

    @property
    def score_files(self) -> list[Path]:
        """The scores of each block with all their columns, boxes and landmarks included."""
        return [file.with_suffix(".parquet") for file in self.identity_files]

    @property
    def reasons(self) -> list[str | None]:
        """Why each image is not kept (m,), None if it is."""
        return self.scores["reject_reason"].tolist()


def remove(folder: Path, names: Sequence[str]) -> None:
    """Remove results of an earlier run, which must not stand beside those of this one."""
    for name in names:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def select_images(
    inputs: Inputs,
    work: Path,
    batch_size: int,
    ranked_by: str,
    numbers: Mapping[str, int | None],
    min_score: float | None,
) -> Outcome:
    """The images to keep, chosen in each fold apart. numbers: the fields of Selection but the score."""
    blocks, scores, identities = [], [], []
    for name, side, number, rows in inputs.blocks(batch_size):
        blocks.append((number, rows))
        scores.append(read_scores(work / "scores" / f"{name}.parquet", scalars_only=True).assign(side=side.name))
        identities.append(work / "scores" / f"{name}.npy")
    table = pd.concat(scores, ignore_index=True)
    labels = np.array(inputs.images["label"][:])
    for side in inputs.sides:
        in_side = np.flatnonzero(table["side"] == side.name)
        of_side = table.loc[in_side]
        n_photographs = np.bincount(labels[side.fold.train], minlength=len(inputs.class_names))
        selection = Selection(**numbers, at_least=min_score)
        selectable = (of_side["reject_reason"].fillna("") == "").to_numpy()
        reasons = select(of_side[ranked_by], of_side["label"], selectable, selection, n_photographs)
        chosen = [reason or None for reason in reasons]
        before = of_side["reject_reason"].fillna("").to_numpy()
        table.loc[in_side, "reject_reason"] = [own or reason for own, reason in zip(before, chosen, strict=True)]
    table["reject_reason"] = table["reject_reason"].astype(object).where(table["reject_reason"].notna(), None)
    table["kept"] = [reason is None for reason in table["reject_reason"]]
    return Outcome(table, blocks, identities)


def write_results(
    folder: Path,
    inputs: Inputs,
    photographs: Examined,
    filters: Mapping[str, FoldFilter],
    outcome: Outcome,
    settings: Mapping,
    ranked_by: str,
    lpips_column: str | None,
    kept_only: bool,
) -> None:
    """Everything that stands in the output folder when a run is done, but its record."""
    blocks = [(inputs.parts[number], rows) for number, rows in outcome.blocks]
    arguments = (outcome.score_files, outcome.scores, inputs.class_names, lpips_column, kept_only)
    write_scored(folder, blocks, *arguments, folder / "work" / "rows")
    compared_with = {
        side.fold.generator_number: [inputs.digests[row] for row in side.fold.train.tolist()]
        for side in inputs.sides
        if side.name != foreign_images.UNKNOWN
    }
    score_provenance.write_record(folder, load_synthetic(str(folder)), settings, compared_with)
    of_parts = [np.array(generators_of(part), dtype=object) for part in inputs.parts]
    generators = np.concatenate([of_parts[number][rows] for number, rows in outcome.blocks])
    results = {
        "simulated": is_simulated(inputs.images),
        "ranked_by": ranked_by,
        "sides": {
            side.name: side_results(side, inputs, photographs, filters[side.name], outcome, lpips_column)
            for side in inputs.sides
        },
    }
    write_json(folder / "results.json", results)
    write_json(folder / PRIVACY_REPORT, privacy_report(folder, inputs, photographs, filters, outcome, generators))


def side_results(
    side: Side,
    inputs: Inputs,
    photographs: Examined,
    fold_filter: FoldFilter,
    outcome: Outcome,
    lpips_column: str | None,
) -> dict:
    """Realism, fidelity and selection of one fold's images."""
    scores = outcome.scores[outcome.scores["side"] == side.name]
    face_scores = scores["face_score"].to_numpy(float)
    reasons = Counter(kind_of(reason) for reason in scores["reject_reason"] if reason)
    mean_of = ["cosine", "class_rank", "phenotype_probability", "phenotype_rank", "sharpness"]
    mean_of += [lpips_column] if lpips_column else []
    return {
        "n_images": len(scores),
        "n_kept": int(scores["kept"].sum()),
        "n_photographs": len(side.fold.train),
        "rejected": dict(sorted(reasons.items())),
        "share_with_face": realism.share_with_face(face_scores),
        "share_above_0.99": realism.share_confident(face_scores),
        "mean_confidence": realism.mean_confidence(face_scores),
        "mean": {name: _mean(scores[name]) for name in mean_of},
        "mean_of_kept": {name: _mean(scores.loc[scores["kept"], name]) for name in mean_of},
        "calibration": dataclasses.asdict(fold_filter.fitted.calibration),
        "knowledge": dataclasses.asdict(choice) if (choice := fold_filter.fitted.choice) else None,
        "thresholds": {
            name: dataclasses.asdict(value) if isinstance(value, privacy.Threshold) else value
            for name, value in fold_filter.thresholds.items()
        },
        "set_comparison": set_comparison(side, inputs, photographs, outcome),
    }


def set_comparison(side: Side, inputs: Inputs, photographs: Examined, outcome: Outcome) -> dict | str:
    """KID, precision and recall of the kept images against the training photographs; or why there are none."""
    kept = ((outcome.scores["side"] == side.name) & outcome.scores["kept"]).to_numpy()
    if not kept.any():
        return "no image was kept"
    synthetic = identities_of(outcome, kept)
    rows = side.fold.train[np.isfinite(photographs.identities[side.fold.train]).all(axis=1)]
    subjects = [inputs.images["group_id"][row] for row in rows.tolist()]
    try:
        return dataclasses.asdict(realism.compare_sets(photographs.identities[rows], synthetic, subjects))
    except InputError as error:
        return str(error)


def identities_of(outcome: Outcome, chosen: np.ndarray) -> StoredRows:
    """The identities (k, e) of the images chosen (m,) bool."""
    return StoredRows(outcome.identity_files, [len(rows) for _, rows in outcome.blocks], chosen)


def privacy_report(
    folder: Path,
    inputs: Inputs,
    photographs: Examined,
    filters: Mapping[str, FoldFilter],
    outcome: Outcome,
    generators: np.ndarray,
) -> dict:
    """See privacy.verdict. With several folds, the strictest outcome of all counts."""
    shards = sorted((folder / "synthetic").glob("*.parquet"))
    files = {f"synthetic/{shard.name}": sha256_of(shard) for shard in shards}
    reports = {}
    for side in inputs.sides:
        in_side = (outcome.scores["side"] == side.name).to_numpy()
        scores = outcome.scores[in_side]
        rows = np.full(len(scores), -1)
        examination = privacy.Examination(
            rows, scores["copy_score"].to_numpy(float), rows, scores["person_similarity"].to_numpy(float)
        )
        attacks = {
            generator: attacks_on(side, inputs, photographs, outcome, in_side & (generators == generator))
            for generator in sorted(set(generators[in_side].tolist()))
        }
        kept = scores["kept"].to_numpy()
        reports[side.name] = privacy.verdict(
            files, kept, generators[in_side], examination, filters[side.name].thresholds, attacks
        )
    if len(reports) == 1:
        return next(iter(reports.values()))
    red = [f"{name}: {reason}" for name, report in reports.items() for reason in report["reasons"]]
    return {"verdict": "red" if red else "green", "files": files, "reasons": red, "sides": reports}


def attacks_on(side: Side, inputs: Inputs, photographs: Examined, outcome: Outcome, images: np.ndarray) -> dict:
    """The membership attacks on one generator's images (m,) bool, before and after filtering, and their controls."""
    people = people_of(side.fold, inputs, photographs.identities, sources_of(inputs, outcome, images))
    labels = outcome.scores["label"].to_numpy()
    has_face = outcome.scores["face_score"].notna().to_numpy()
    rng = np.random.default_rng(0)
    made = {
        privacy.BEFORE: lambda: _attack(people, outcome, images & has_face, labels),
        privacy.AFTER: lambda: _attack(people, outcome, images & has_face & outcome.scores["kept"].to_numpy(), labels),
        privacy.POSITIVE: lambda: membership_attack.positive_control(people, rng),
        privacy.NEGATIVE: lambda: membership_attack.negative_control(people, rng),
    }
    records: dict[str, dict | str] = {}
    for name, attack in made.items():
        try:
            records[name] = attack().record()
        except InputError as error:
            records[name] = one_line(error)
    return records


def people_of(
    fold: protocols.Fold, inputs: Inputs, identities: np.ndarray, sources: set[str]
) -> membership_attack.People:
    """The people whom an attack on a generator of the fold must tell apart, of those whose faces were found.

    identities (n, d): of all photographs; sources: digests of those that the generator saw. Members are the people in
    these, and not the whole training side: --k_shot shows a generator a part of it, and the others would hide those who
    are given away. They take no part, since the filter rejects what resembles them, too. Of images that name no source
    all photographs of the side count as members: those of unknown origin may have seen any, and of those made from
    words alone, which saw none, the attack then shows whether the base gives somebody away."""
    labels, groups = np.array(inputs.images["label"][:]), np.array(inputs.images["group_id"][:], dtype=object)
    seen = fold.train
    if sources:
        seen = fold.train[[inputs.digests[row] in sources for row in fold.train.tolist()]]
        seen = fold.train[np.isin(groups[fold.train], groups[seen])]
    rows = np.concatenate([seen, fold.test])
    rows = rows[np.isfinite(identities[rows]).all(axis=1)]
    return membership_attack.People(identities[rows], labels[rows], groups[rows], np.isin(rows, seen))


def generators_of(images: datasets.Dataset) -> list[str]:
    """Who made each image (m,); what a generator made from words alone is attacked apart from what it learnt."""
    generators = images["generator"][:]
    if "made_from" not in images.column_names:
        return generators
    pairs = zip(generators, images["made_from"][:], strict=True)
    return [f"{name} ({made_from} alone)" if made_from == WORDS else name for name, made_from in pairs]


def sources_of(inputs: Inputs, outcome: Outcome, images: np.ndarray) -> set[str]:
    """Digests of the photographs that the images (m,) bool were made from, read block by block."""
    digests, start = set(), 0
    for number, rows in outcome.blocks:
        of_block = rows[images[start : start + len(rows)]]
        start += len(rows)
        named = inputs.parts[number].select_columns("source_sha256").select(of_block)
        digests.update(digest for sources in named["source_sha256"][:] for digest in sources)
    return digests


def _attack(
    people: membership_attack.People, outcome: Outcome, images: np.ndarray, labels: np.ndarray
) -> membership_attack.Attack:
    if not images.any():
        raise InputError("there is no image with a face")
    return membership_attack.attack(people, identities_of(outcome, images), labels[images])


def kind_of(reason: str) -> str:
    """A reason without the image it names, so that reasons can be counted."""
    for kind in (*GIVES_AWAY, "cannot be decoded", "score", "is not among the best"):
        if reason.startswith(kind):
            return {"score": "score below --min_score", "is not among the best": "not among the best"}.get(kind, kind)
    return reason


def summary(folder: Path, outcome: Outcome) -> str:
    """For the screen: how many images were kept, why the others were not, the privacy verdict, and what was written."""
    reasons = Counter(kind_of(reason) for reason in outcome.scores["reject_reason"] if reason)
    lines = [f"kept {int(outcome.scores['kept'].sum())} of {counted(len(outcome.scores), 'image')}"]
    lines += [f"  {n:6d} {reason}" for reason, n in reasons.most_common()]
    report = read_json(folder / PRIVACY_REPORT, "filter again")
    first, *others = report["reasons"] or [None]
    why = f"; {first}" if first else ""
    why += f" ({PRIVACY_REPORT} holds {counted(len(others), 'further reason')})" if others else ""
    why += "; publish_dataset.py refuses the images" if first else ""
    lines.append(f"privacy report: {report['verdict']}{why}")
    lines.append(
        f"written: {folder}: synthetic, results.json, {PRIVACY_REPORT}, {score_provenance.RECORD_NAME}, run.json"
    )
    return "\n".join(lines)


def _mean(values: pd.Series) -> float | None:
    values = values.dropna()
    return float(values.mean()) if len(values) else None
