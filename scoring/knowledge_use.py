"""Whether a run used the knowledge of conditions that it was given: every fold tests it on its training side first.

The notes of a fold (fold.json, and `folds` of run.json) hold `knowledge` with `used`, and with `left_out_loss` and
`left_out_chance`, the log losses of terms alone and of a guess on conditions left out; both are null if it was not
tested, for which LEAST_CONDITIONS conditions with annotated terms are required.
"""

import re
from collections.abc import Mapping, Sequence

LEAST_CONDITIONS = 4  # on a training side: two groups of two, which are left out in turn
STANDARD_ERRORS = 1.5  # of the mean difference, by which terms must tell left-out conditions apart better than a guess
NOT_USED = " (not used)"
OF_KNOWLEDGE = re.compile(
    r"((?:^|, )(?:knowledge of \d+ terms?|\d+ (?:annotated )?terms? (?:looked for in|of) synthetic images)[^,]*)"
)


def with_use(recipe: str, folds: Sequence[Mapping]) -> str:
    """The name of a recipe, which says of knowledge that no fold used that it was not used; folds: notes of each."""
    given, unused = _given_and_unused(folds)
    if not given or len(unused) < len(given):
        return recipe
    return OF_KNOWLEDGE.sub(rf"\1{NOT_USED}", recipe)


def use_of_knowledge(folds: Sequence[Mapping]) -> str | None:
    """A sentence without its full stop, if a fold did not use the knowledge it was given, or else None.

    folds: notes of each fold of each seed."""
    given, unused = _given_and_unused(folds)
    if not unused:
        return None
    losses = [(each["left_out_loss"], each["left_out_chance"]) for each in unused if each["left_out_loss"] is not None]
    reasons = []
    if n_untested := len(unused) - len(losses):
        reason = (
            f"its training side has fewer than {LEAST_CONDITIONS} conditions with annotated terms, too few to test it"
        )
        reasons.append((n_untested, reason))
    if losses:
        loss, chance = (sum(values) / len(losses) for values in zip(*losses, strict=True))
        reason = f"on conditions left out, the log loss of terms alone ({loss:.2f}) was not below that of a guess "
        reason += f"({chance:.2f}) by {STANDARD_ERRORS:g} standard errors"
        reasons.append((len(losses), reason))
    why = "; ".join(f"in {n}, {reason}" if len(reasons) > 1 else reason for n, reason in reasons)
    return f"knowledge was not used in {len(unused)} of {len(given)} folds: {why}"


def _given_and_unused(folds: Sequence[Mapping]) -> tuple[list[Mapping], list[Mapping]]:
    """What folds noted of the knowledge they were given, and of these the notes of knowledge that was not used."""
    given = [fold["knowledge"] for fold in folds if fold.get("knowledge")]
    return given, [knowledge for knowledge in given if not knowledge["used"]]
