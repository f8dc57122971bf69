"""Who reaches a repository on the Hub: whether only its members see it, and what a visitor does before a download."""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub import DatasetInfo


class Gate(enum.Enum):
    """What somebody who sees a repository must do before he may download from it. The values are the Hub's."""

    NONE = False  # nothing
    AUTOMATIC = "auto"  # ask, and be let in at once
    MANUAL = "manual"  # ask, and be approved by a person


@dataclasses.dataclass(frozen=True)
class Audience:
    """private: only members of the organisation see the repository and its files."""

    private: bool
    gate: Gate

    @property
    def only_gate_protects(self) -> bool:
        """Whether strangers see the repository, so that nothing but the gate keeps them from its files."""
        return not self.private and self.gate is not Gate.NONE

    def is_that_of(self, state: DatasetInfo) -> bool:
        """Whether the Hub's answer says exactly the same. It may also say neither, or nonsense."""
        return (state.private, state.gated) == (self.private, self.gate.value)
