"""CSV tables that users write: every row has one cell for each column, and no column occurs twice."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from harness.errors import InputError, one_line

MOST_SHOWN = 5  # of the problems of a table
SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}


class TableError(InputError):
    """A table that cannot be used; `problems` has one line per reason, and the message is the first lines of them."""

    def __init__(self, problems: Sequence[str]):
        more = [f"{len(problems)} problems, of which {MOST_SHOWN} are shown"] if len(problems) > MOST_SHOWN else []
        super().__init__("\n".join([*problems[:MOST_SHOWN], *more]))
        self.problems = list(problems)


def read_table(file: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The names of the columns, and of each row the line on which it ends and its cells by column.

    The cells are parted by the one of SEPARATORS that makes most columns of the header. Blank lines are passed over,
    and so are empty cells behind the last column if `most_cells` allows them. Raises TableError for a file that cannot
    be read or is no CSV in UTF-8, for a column that occurs twice, and, with a line for each, for rows that have more or
    fewer cells than there are columns, as a decimal comma makes them."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
        separator = max(SEPARATORS, key=lambda separator: len(_first_cells(text, separator)))
        options = {"delimiter": separator, "strict": True, "skipinitialspace": True}
        reader = csv.reader(io.StringIO(text, newline=""), **options)
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except OSError as error:
        raise TableError([f"{file}: cannot be read ({error.strerror}); give a CSV file in UTF-8"]) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise TableError([f"{file}: is no CSV file in UTF-8 ({one_line(error)}); write it again"]) from error
    header = [name.strip() for name in lines[0][1]] if lines else []
    while header and not header[-1]:
        header.pop()
    if repeated := [name for name in header if header.count(name) > 1]:
        raise TableError([f"{file}: column {repeated[0] or 'without a name'} occurs twice; keep one of them"])
    most = most_cells(lines[0][1] if lines else [], [cells for _, cells in lines[1:]])
    rows = [(line, without_empty_end(cells, len(header), most)) for line, cells in lines[1:]]
    if odd := [(line, len(cells)) for line, cells in rows if len(cells) != len(header)]:
        what = f"but the header has {len(header)}; give one per column, and write decimals with a point"
        raise TableError([f"{file}:{line}: has {n} cells, {what}" for line, n in odd])
    return header, [(line, dict(zip(header, cells, strict=True))) for line, cells in rows]


def _first_cells(text: str, separator: str) -> list[str]:
    """The cells of the first row that is not blank, if this is what separates them; none if it cannot be."""
    try:
        return next(filter(None, csv.reader(io.StringIO(text, newline=""), delimiter=separator)), [])
    except csv.Error:
        return []


def decimal(text: str) -> float:
    """A number with a decimal point or a decimal comma. Raises ValueError for 1,000, of which the comma may separate
    thousands, and for every text that is no number."""
    return float(text.replace(",", ".") if re.fullmatch(r"\s*(0,\d+|\d+,(?!\d{3}\s*$)\d+)\s*", text) else text)


def most_cells(header: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """The largest number of cells that a row may have, if the last of them are empty.

    A spreadsheet ends every row, or the header too, with the same empty cells. If one row alone has a cell more than
    the others, a comma within a cell may have parted it, so that all values after it stand one column too far."""
    return max(len(header), min(map(len, rows)) if len(rows) > 1 else 0)


def without_empty_end(cells: list[str], n_columns: int, most: int) -> list[str]:
    """The cells of a row without empty ones behind the last column; as they are, if there are more than `most`."""
    surplus_is_empty = not any(cell.strip() for cell in cells[n_columns:])
    return cells[:n_columns] if surplus_is_empty and len(cells) <= most else cells
