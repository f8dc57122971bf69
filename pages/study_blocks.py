"""What a section of a study's page is made of: texts, tables, figures, faces, pairs of reports; study_page.html shows
them. A text is never HTML: the template escapes it."""

import base64
import dataclasses
from collections.abc import Sequence

LONG = 12  # rows


@dataclasses.dataclass(frozen=True)
class Text:
    text: str
    kind: str = "text"


@dataclasses.dataclass(frozen=True)
class Listing:
    """A list that the page folds under its title."""

    title: str
    items: Sequence[str]
    kind: str = "listing"


@dataclasses.dataclass(frozen=True)
class Missing:
    """What is not there, or was not used. command: how one is made, if that helps."""

    text: str
    command: str = ""
    kind: str = "missing"


@dataclasses.dataclass(frozen=True)
class Table:
    """The first cell of each row is its heading. note: below the table."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""
    kind: str = "table"

    @property
    def is_long(self) -> bool:
        """Whether the page folds it."""
        return len(self.rows) > LONG


@dataclasses.dataclass(frozen=True)
class Figure:
    """says: in one sentence what it shows; svg: the drawing; head, rows: its numbers, for who cannot see it."""

    title: str
    says: str
    svg: bytes
    size_px: tuple[int, int]  # width, height
    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    kind: str = "figure"

    @property
    def source(self) -> str:
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode()


@dataclasses.dataclass(frozen=True)
class Faces:
    """pictures: (caption, alternative text, JPEG file) of each."""

    caption: str
    pictures: Sequence[tuple[str, str, bytes]]
    kind: str = "faces"

    @property
    def shown(self) -> list[tuple[str, str, str]]:
        return [(caption, text, base64.b64encode(jpeg).decode()) for caption, text, jpeg in self.pictures]


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of reports, by condition: what reports_page.shown_condition returns."""

    conditions: Sequence[dict]
    kind: str = "pairs"


@dataclasses.dataclass(frozen=True)
class Section:
    """id: its anchor on the page."""

    id: str
    heading: str
    blocks: Sequence[object]
