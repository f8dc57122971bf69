"""HTML in a report: tags become blanks or line ends, entities characters; what is struck out or hidden is left out."""

import html
import re
from functools import cache

HIDDEN = ("del", "s", "strike", "script", "style")  # elements whose text is none of the report
_BLOCKS = (
    "address article aside blockquote br caption dd div dl dt footer h1 h2 h3 h4 h5 h6 header hr li main ol p pre "
    "section table tbody td tfoot th thead title tr ul"
)
_LINE_ENDS = frozenset(_BLOCKS.split())
_MARK = re.compile(
    r"<!--|</?([A-Za-z][A-Za-z0-9]*)(?:[\s/][^<>]{0,500})?>|&(?:#\d{1,7}|#[xX][\dA-Fa-f]{1,6}|\w{2,31});"
)
_COMMENT_END = re.compile("-->")


def plain_text(text: str) -> tuple[str, list[int] | None]:
    """The text without HTML, and the place in the text of each of its characters and of its end.

    None instead of places if there is no HTML. A tag of a block (<br>, <p>, <li>, <td>) ends the line, another one is
    a blank. Comments and elements of HIDDEN become a blank with all that they hold; one that is never closed hides
    nothing. An entity is decoded (&nbsp; is a blank), once: &lt;b&gt; gives no tag."""
    if "<" not in text and "&" not in text:
        return text, None
    pieces: list[str] = []
    places: list[int] = []
    copied = 0
    for start, end, replacement in _marks(text, only_hidden=False):
        pieces += (text[copied:start], replacement)
        places.extend(range(copied, start))
        places.extend([start] * len(replacement))
        copied = end
    if not copied:
        return text, None
    places.extend(range(copied, len(text) + 1))
    return "".join([*pieces, text[copied:]]), places


def without_hidden(text: str) -> str:
    """The text with a blank in place of each comment and each element of HIDDEN; other HTML stays."""
    if "<" not in text:
        return text
    pieces, copied = [], 0
    for start, end, replacement in _marks(text, only_hidden=True):
        pieces += (text[copied:start], replacement)
        copied = end
    return "".join([*pieces, text[copied:]])


def _marks(text: str, only_hidden: bool) -> list[tuple[int, int, str]]:
    """(start, end, replacement) of the HTML in a text, in its order."""
    found, position, never_closed = [], 0, set()
    while (mark := _MARK.search(text, position)) is not None:
        start, position = mark.span()
        name = "--" if mark.group() == "<!--" else (mark[1] or "").lower()
        hidden = name == "--" or (name in HIDDEN and mark.group()[1] != "/")
        if hidden and name not in never_closed:
            closing = _closing(name).search(text, position)
            if closing is not None:
                position = closing.end()
                found.append((start, position, " "))
                continue
            never_closed.add(name)  # so that time grows with the length of the text
        if not only_hidden:
            if mark.group()[0] == "&":
                found.append((start, position, html.unescape(mark.group()).replace("\xa0", " ").replace("\xad", "")))
            else:  # two line ends, since one may be the wrapping of a line
                found.append((start, position, "\n\n" if name in _LINE_ENDS else " "))
    return found


@cache
def _closing(name: str) -> re.Pattern:
    return _COMMENT_END if name == "--" else re.compile(rf"</{name}\s{{0,20}}>", re.IGNORECASE)
