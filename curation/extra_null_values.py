"""The curator's own texts for "not known" (--null_values), each for one column of the table or for all of them."""

from collections.abc import Iterable

from curation.curated_rows import OPTIONAL, REQUIRED
from harness import text_normalization

COLUMNS = {*REQUIRED, *OPTIONAL} - {"image_name", "disease_abbr"}  # those whose value may be unknown


class NullValues:
    """Texts that mean "not known", and which of them no cell has held so far."""

    def __init__(self, texts: Iterable[str] = ()):
        """texts: TEXT or COLUMN=TEXT. Raises ValueError for a COLUMN that is not one of the table's."""
        self.unmet: dict[tuple[str, str], str] = {}  # column ("" for all of them), key of the text -> as it was given
        for text in texts:
            column, equals, value = text.partition("=")
            if not equals or not column:  # =NA() is a text
                column, value = "", text
            elif column not in COLUMNS:
                raise ValueError(
                    f"{column!r} is no column that may be null; write TEXT, or COLUMN=TEXT as in subject_id=0"
                )
            self.unmet[column, text_normalization.subject_key(value)] = text
        self._keys = set(self.unmet)

    def hold(self, column: str, text: str) -> bool:
        """Whether the text means "not known" in this column; compared as subjects are, so in any capitals."""
        if not self._keys:
            return False
        met = {(column, key := text_normalization.subject_key(text)), ("", key)} & self._keys
        for one in met:
            self.unmet.pop(one, None)
        return bool(met)
