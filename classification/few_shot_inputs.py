"""What a few-shot study or a retrieval needs before anything is decoded: folds of conditions, and networks."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np

from classification.embeddings import Network, open_network
from classification.episodes import draw_episodes, paper_condition_folds, rows_of_fold, strict_condition_folds
from classification.study_inputs import open_folds, refuse_backbone_that_saw_held_out
from curation import protocols
from curation.leak_guard import check_fold
from harness.counts import counted
from harness.errors import InputError, ProtocolError


def gallery_folds(images: datasets.Dataset, protocol: str, number: int | None) -> list[protocols.Fold]:
    """The dataset's own folds; under `paper` a single one, whose gallery is everything outside the test side."""
    if protocol == "strict":
        return open_folds(images, protocol, number)
    (side,) = protocols.training_sides(images, protocol, number)
    return [dataclasses.replace(side, number=0)]


def episode_folds(
    images: datasets.Dataset, protocol: str, number: int | None, n_way: int, k_shot: int, trained_shots: int | None
) -> list[protocols.Fold]:
    """The folds of conditions, or the one of this number, none of which leaks.

    k_shot: of the episodes that test; trained_shots: of those that train, None if none do, 0 if synthetic images fill
    up what trains, so that nothing is known of it yet. Raises InputError for a number that there is not, LeakError, and
    ProtocolError if a side has too few conditions for an episode."""
    labels, groups = np.array(images["label"][:]), np.array(images["group_id"][:])
    if protocol == "paper":
        of_conditions = paper_condition_folds(labels.tolist(), images.features["label"].names)
    else:
        of_conditions = strict_condition_folds(labels.tolist(), groups.tolist(), n_way, k_shot)
    if number is not None:
        if number >= len(of_conditions):
            raise InputError(f"--fold {number}: there are {len(of_conditions)} folds of conditions here, from 0 on")
        of_conditions = [of_conditions[number]]
    folds = [rows_of_fold(fold, labels, groups, protocol) for fold in of_conditions]
    shots = {"test": k_shot}
    if trained_shots is not None:
        shots |= {"val": 1} if protocol == "paper" else {}
        shots |= {"train": trained_shots} if trained_shots else {}
    if protocol == "paper":
        check_paper_sides(folds, labels, n_way, shots)
    for fold in folds:
        check_fold(fold, images)
        check_enough(fold, labels, groups, n_way, shots)
    return folds


def check_paper_sides(folds: Sequence[protocols.Fold], labels: np.ndarray, n_way: int, shots: dict[str, int]) -> None:
    """Raise ProtocolError, with the largest n_way that all folds allow, if a side of the paper's has fewer conditions.

    shots: of each side that episodes are drawn from."""
    found = []
    for fold in folds:
        for side, k_shot in shots.items():
            _, count = np.unique(labels[getattr(fold, side)], return_counts=True)
            found.append((int((count > k_shot).sum()), k_shot, side, fold.number))
    most, k_shot, side, number = min(found, key=lambda of_side: of_side[0])
    if most < n_way:
        rule = "divides the conditions that it does not test among five folds"
        if side == "test":
            rule = "tests a fifth of the conditions with two images or more"
        reason = f"fold {number}, {side} conditions: {n_way}-way {k_shot}-shot episodes cannot be drawn: "
        reason += f"only {counted(most, 'condition has', 'conditions have')} {k_shot + 1} images here, since "
        reason += f"--protocol paper {rule}"
        remedy = f"give --n_way {most} at most, or --protocol strict" if most > 1 else "use --protocol strict"
        raise ProtocolError(f"{reason}; {remedy}")


def check_enough(
    fold: protocols.Fold, labels: np.ndarray, groups: np.ndarray, n_way: int, shots: dict[str, int]
) -> None:
    """Raise ProtocolError if a side has too few conditions for an episode of that many shots."""
    for side, k_shot in shots.items():
        drawn = (getattr(fold, side), labels, groups, n_way, k_shot, 1, np.random.default_rng(0))
        try:
            draw_episodes(*drawn, subjects_apart=fold.protocol == "strict")
        except ProtocolError as error:
            raise ProtocolError(f"fold {fold.number}, {side} conditions: {error}") from None


def warnings_about_heads(folds: Sequence[protocols.Fold], labels: np.ndarray) -> list[str]:
    """A warning, for the screen and run.json, if folds train on no two images of one condition; else nothing.

    labels: of the images, and of synthetic images if folds have some."""
    untaught = {str(fold.number) for fold in folds if len(np.unique(labels[fold.train])) == len(fold.train)}
    if not untaught:
        return []
    reason = (
        f"no training condition of fold {', '.join(sorted(untaught))} has two images, which would show how faces vary"
    )
    return [
        f"{reason}: the heads' settings are not chosen, and the discriminant answers like centred_mean; "
        "give a smaller --n_way"
    ]


def warnings_about_filling(folds: Sequence[Mapping[str, object]]) -> list[str]:
    """A warning, for the screen and run.json, if episodes have synthetic images beside some of their supports only.

    folds: the content of each fold.json."""
    shares = [fold["unevenly_filled_episodes"] for fold in folds if "unevenly_filled_episodes" in fold]
    if not any(shares):
        return []
    reason = f"in {np.mean(shares):.0%} of the episodes only some conditions have synthetic images beside their support"
    return [f"{reason}: such conditions attract the questions about all others; make images for every condition"]


def open_networks(
    names: Sequence[str],
    weights: Sequence[Path],
    image_size: int | None,
    align_faces: str | None,
    paper_input: bool,
    images: datasets.Dataset,
    folds: Sequence[protocols.Fold],
) -> list[Network]:
    """The networks, once they are known to have learnt from no held-out photograph.

    weights: a file per network, or `own` for one that has none; or nothing at all. Other arguments: open_network."""
    networks = []
    for number, name in enumerate(names):
        file = weights[number] if weights and str(weights[number]) != "own" else None
        network = open_network(name, file, image_size, align_faces, paper_input)
        if network.backbone:
            refuse_backbone_that_saw_held_out(network.backbone, Path(name).name, images, folds)
        networks.append(network)
    return networks
