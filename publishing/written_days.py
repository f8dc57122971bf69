"""Whether a text says a date to the day, in the ways in which people and cameras write one.

    says_a_day("photo of 04.05.2012 (frontal)")     # True
    says_a_day("101-02-1")                          # False: there is no such day

Only a day that there was counts, of a year from 1900 until now, so that numbers of sites, families and members are
none. Digests and UUIDs, in which any digits can occur, are not looked at.
"""

import datetime
import re
from collections.abc import Iterator

# Names of months and their short forms in the languages of the regions that curators come from.
MONTHS = """
january february march april may june july august september october november december jan feb mar apr jun jul aug sep
sept oct nov dec januar februar märz mai juni juli oktober dezember jän jänner mär okt dez janvier février mars avril
juin juillet août septembre octobre novembre décembre janv févr avr juil déc enero febrero marzo abril mayo junio julio
agosto septiembre octubre noviembre diciembre ene abr ago dic gennaio febbraio aprile maggio giugno luglio settembre
ottobre dicembre gen mag giu lug set ott janeiro fevereiro março maio junho julho setembro outubro novembro dezembro fev
out januari februari maart mei augustus mrt maj augusti stycznia lutego marca kwietnia maja czerwca lipca sierpnia
września października listopada grudnia ocak şubat mart nisan mayıs haziran temmuz ağustos eylül ekim kasım aralık
января февраля марта апреля мая июня июля августа сентября октября ноября декабря янв фев мар апр июн июл авг сен окт
ноя дек
"""
_MONTH = rf"(?:{'|'.join(sorted(MONTHS.split(), key=len, reverse=True))})\.?"
_DAY = r"(?<!\d)(?P<d>\d{1,2})"
_YEAR = r"(?P<y>\d{4})(?!\d)"
_OF = r"(?:of\s+|de\s+|di\s+|del\s+)?"
NUMBERED = re.compile(  # three numbers with one separator between them
    r"(?<!\d)(\d{4})\s?([-./:_])\s?(\d{1,2})\s?\2\s?(\d{1,2})(?!\d)|(?<!\d)(\d{1,2})\s?([-./_])\s?(\d{1,2})\s?\6\s?(\d{4})(?!\d)"
)
TOGETHER = re.compile(r"(?<!\d)(\d{8})(?:[0-2]\d[0-5]\d[0-5]\d)?(?!\d)")  # 20120504, with a time behind it or not
SHORT = re.compile(r"(?<![\d./])(\d{2})([./])(\d{2})\2(\d{2})(?![\d./]\d|\d)")
PERSONAL_NUMBER = re.compile(r"(?<![\w-])(\d{2})(\d{2})(\d{2})[-+A]\d{3}[\dA-Z](?!\w)")  # begins with a date of birth
NAMED = [
    re.compile(rf"{_DAY}(?:st|nd|rd|th|\.)?[\s.-]?\s?{_OF}{_MONTH},?[\s.-]?{_OF}{_YEAR}", re.IGNORECASE),
    re.compile(rf"\b{_MONTH}[\s-]?(?P<d>\d{{1,2}})(?:st|nd|rd|th)?(?:,\s?|[\s-]){_YEAR}", re.IGNORECASE),
    re.compile(rf"(?<!\d){_YEAR},?[\s-]{_MONTH}[\s-](?P<d>\d{{1,2}})(?!\d)", re.IGNORECASE),
    re.compile(rf"{_DAY}[.-](?:VIII|VII|VI|IV|IX|XII|XI|III|II|V|X|I)[.-]{_YEAR}"),
]
SHORT_NAMED = re.compile(rf"{_DAY}[-/. ]{_MONTH}[-/. ]\d{{2}}(?!\d)", re.IGNORECASE)
CHINESE = re.compile(r"(?<!\d)\d{1,4}\s?年\s?\d{1,2}\s?月\s?\d{1,2}\s?日")
DIGESTS = re.compile(
    r"(?<![0-9a-z])(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?=\d*[a-f])[0-9a-f]{16,})(?![0-9a-z])",
    re.IGNORECASE,
)


def says_a_day(text: str, short_years: bool = True) -> bool:
    """short_years: whether 04.05.12 counts, which may be the number of a site, a family and a member."""
    text = DIGESTS.sub(" ", text)
    return (
        any(_was(*day) for day in _numbered(text))
        or any(_was(int(match["y"]), 1, int(match["d"])) for kind in NAMED for match in kind.finditer(text))
        or any(1 <= int(match["d"]) <= 31 for match in SHORT_NAMED.finditer(text))
        or any(_is_short_day(*match.groups()) for match in PERSONAL_NUMBER.finditer(text))
        or (short_years and any(_is_short_day(*match.group(1, 3, 4)) for match in SHORT.finditer(text)))
        or bool(CHINESE.search(text))
    )


def _numbered(text: str) -> Iterator[tuple[int, int, int]]:
    """What may be year, month and day, in each order that is in use."""
    for match in NUMBERED.finditer(text):
        year, a, b = match.group(1, 3, 4) if match[1] else match.group(8, 7, 5)
        yield from ((int(year), int(a), int(b)), (int(year), int(b), int(a)))
    for match in TOGETHER.finditer(text):
        digits = match[1]
        yield int(digits[:4]), int(digits[4:6]), int(digits[6:])
        first, second, year = int(digits[:2]), int(digits[2:4]), int(digits[4:])
        yield from ((year, second, first), (year, first, second))


def _is_short_day(a: str, b: str, c: str) -> bool:
    """Whether two digits each are a day of some century, with the year at either end."""
    orders = ((c, b, a), (c, a, b), (a, b, c))
    return any(_is_day(2000 + int(year), int(month), int(day)) for year, month, day in orders)


def _was(year: int, month: int, day: int) -> bool:
    """Whether this is a day of the years from 1900 until now."""
    return 1900 <= year <= datetime.date.today().year and _is_day(year, month, day)


def _is_day(year: int, month: int, day: int) -> bool:
    try:
        datetime.date(year, month, day)
    except ValueError:
        return False
    return True
