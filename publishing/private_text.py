"""What a text gives away of a person or a machine: paths, addresses, telephone and record numbers, tokens and keys.

    private_text("see /home/clinic/doe.jpg")          # ["the path of a file on some machine"]
    private_cell("Jane Doe")      # stricter, for columns of the curator's own: ["a person's name"]

Tokens and keys are found by detect-secrets and telephone numbers by phonenumbers, both without a network. presidio's
recognisers of patterns add little to these two, and require spaCy. Texts are read in one spelling: full-width letters,
digits of any script, invisible characters and HTML's and URLs' escapes are resolved first.
"""

import functools
import html
import importlib
import inspect
import ipaddress
import pkgutil
import re
import unicodedata
import urllib.parse
from collections.abc import Iterator

from publishing.personal_names import has_name
from publishing.written_days import DIGESTS, says_a_day

PATH = "the path of a file on some machine"
TOKEN = "a token or key"
MAIL = "an e-mail address"
PHONE = "a telephone number"
RECORD = "the number of a record, an insurance or an account"
BIRTH = "a date of birth"
MACHINE = "the address of a machine in a private network"
ENCODED = "bytes written as text, which nobody can read"
PERSON, STREET = "a person's name", "a postal address"
DAY = "a date with day, month and year, which may be of birth"

PATHS = re.compile(
    r"(?<![\w/.:~-])(?<!\$home\")(?<!\$HOME)/(?:[\w.~@+-]+/)+[\w.~*@+-]"  # /nas/scans/doe.jpg
    r"|(?<![\w/.:-])(?<!\$home\")/(?:home|Users|root|tmp|var|mnt|media|data|srv|opt|private|Volumes|scratch|nas)\b(?!>)"
    r"|(?<![\w:/.])//\w[\w.-]*/\w"  # //server/share
    r"|(?<!\w)[A-Za-z]:(?:\\|/(?!/))\S"
    r"|(?<![\\\w])\\{2,4}[\w?.][\w?.$-]*\\{1,2}\S"  # \\server\share, also as JSON writes it
    r"|(?<![\w./])(?:\.\.[\\/]){2}|(?<![\w./])\.\.[\\/](?:home|users|scans|patients?|data|mnt|media)\b"
    r"|(?<![\w/])~\w*[\\/](?!\.cache)[\w.]|\$\{?HOME\}?[\\/](?!\.cache)[\w.]|%\w+%\\|\$env:\w+\\"
    r"|(?<![\w./$-])(?:home|users)/[\w.-]+/[\w.-]+"
    r"|\b(?:file|s3[an]?|gs|gcs|ssh|sftp|scp|smb|cifs|nfs|afp|abfss?|wasbs?|adls?|azure|az|hdfs|webhdfs|dbfs|webdavs?|rsync|minio|oss|cos"
    r"|obs|b2|r2|drive|vscode-remote|sshfs|gsiftp|lustre):/"
    r"|(?<![\w.])[\w.-]+@[\w.-]+:[/~\w]",  # user@machine:folder
    re.IGNORECASE,
)
TOKENS = re.compile(  # of services that detect-secrets does not know, or knows less of
    r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}|\bhf_(?:[A-Za-z0-9](?:[\"'+>|\\\s]*\n[\"'+>|\s]*)?){20,}"
    r"|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}|\bsk-[\w-]{20,}|\b[rs]k_(?:live|test)_\w{10,}|\bAIza[\w-]{35}"
    r"|\bya29\.[\w-]{20,}|\bxox[a-z]-[\w-]{10,}|\bxapp-[\w-]{10,}|\bnpm_\w{30,}|\bdckr_pat_[\w-]{20,}|\bdop_v1_\w{40,}"
    r"|\bglpat-[\w-]{15,}|\bAGE-SECRET-KEY-1\w{20,}|\bLTAI\w{12,}|\bwandb_v1_\w{20,}|\beyJ[\w-]{10,}\.eyJ[\w-]+"
    r"|\bPuTTY-User-Key-File|(?<![a-z])(?:secret|private|access|api)_(?:\w{1,20}_)?key\s*[:=]\s*[\"']?[\w/+=-]{16,}"
    r"|-{3,5} ?BEGIN [A-Z0-9 ]*PRIVATE KEY|\bssh-(?:rsa|ed25519|dss) AAAA\w{20,}"
    r"|\bAccountKey=\S{20,}|\bSharedAccessSignature\b"
    r"|(?<=[\w+.-])://[^\s/?#@\"'<>]+@[\w\[]"  # ssh://user@machine, https://user:password@machine
    r"|[?&;](?:access_?token|auth_?token|token|api_?key|apikey|sig|signature|password|passwd|pwd|secret|client_secret|auth"
    r"|jwt|session(?:_?id)?|x-amz-\w[\w-]*|x-goog-\w[\w-]*|awsaccesskeyid)=[^&\s]{4,}"
    r"|\b(?:password|passwd|passphrase|api[_ -]?key|secret[_ -]?key|access[_ -]?key|auth[_ -]?token|bearer)\b"
    r"\s*(?:[:=]|\bis\b)\s*[\"']?[^\s\"']{6,}|\bbearer\s+[\w.~+/-]{16,}",
    re.IGNORECASE,
)
_AT = r"(?:[ \t]?@[ \t]?|\s*[\[({<]\s*(?:at|@|a|ät|arroba|chez)\s*[\])}>]\s*|[-_.]at[-_.])"
_DOT = r"(?:\.|[ \t]?\.[ \t]?|\s*[\[({<]\s*(?:dot|\.|punkt|point|punto)\s*[\])}>]\s*|\s+dot\s+|[-_]dot[-_])"
_DOMAIN = rf"(?:[\w-]{{1,63}}?{_DOT}){{1,6}}[^\W\d_]{{2,}}"
_SPELLED = r"(?:[\w-]{1,63}(?:\s+dot\s+|\s*[\[({]\s*dot\s*[\])}]\s*)){1,6}[^\W\d_]{2,}"
MAILS = re.compile(  # begins behind the last letter of a name, which is looked at afterwards: nothing else is quick
    rf"(?<=[\w.+%'-]){_AT}{_DOMAIN}|(?<=[\w.+-])@\[[\da-f.:]+\]|(?<=[\w.+-])\s+at\s+{_SPELLED}|(?P<quoted>\"@)\w"
    r"|(?<=[^\W\d_])(?P<bare>\s+at\s+(?:[\w-]{1,63}\.){1,5}[a-z]{2,})|\bmailto:\S",
    re.IGNORECASE,
)
QUOTED = re.compile(r"\"[\w .+-]{1,64}$")
FULL_NAME = re.compile(r"[^\W\d_][._][^\W\d_]{1,30}$")  # before "at clinic.org", which may be any place
IN_ADDRESS = re.compile(r"://\S*/[\w.+%'-]*$")  # a page's address has names of files with an @, too
PHONE_WORDS = re.compile(
    r"(?:\b(?:tel|telephone|telefon|téléphone|teléfono|telefone|phone|fon|mobile|mobil|handy|móvil|cell|cellphone|fax|whatsapp"
    r"|signal|call|ring|тел|телефон)\b|电话|電話|☎|☏|✆|\N{TELEPHONE RECEIVER}|\N{MOBILE PHONE})[^\w+(]{0,4}"
    r"(?:(?:no|nr|number)\b\W{0,3})?(?:at|on|us|me|her|him|is)?\W{0,3}\+?\(?\d(?:[\s().\-/]{0,3}\d){5,}"
    r"|\b(?:wa\.me/|whatsapp\.com/send/?\?phone=|t\.me/(?=\+)|tel:)\+?\d{6}",
    re.IGNORECASE,
)
INTERNATIONAL = re.compile(r"(?<![\w:.])\(?(?:\+|00(?=[\s().-]{0,2}[1-9]))")
PHONE_REGIONS = ("US", "GB", "DE", "FR", "BR", "IN", "CN", "JP", "AU", "IT", "ES")  # whose ways of writing are known
RECORDS = re.compile(
    r"\b(?:mrn|medical[ _-]?record|record[ _-]?(?:no|nr|num|number|id)|patient[ _-]?(?:id|no|nr|number|identifier)"
    r"|chart[ _-]?(?:no|number)|hospital[ _-]?(?:no|number|id)|hosp\.? ?no|case[ _-]?(?:no|number|id)|unit[ _-]number"
    r"|nhs(?:[ _-]?(?:no|number))?|chi[ _-]number|ssn|social[ _-]security|passport|national[ _-]?id|id[ _-]card"
    r"|insurance|medicare|medicaid|fallnummer|patientennummer|versichertennummer|krankenkasse|personnummer|cpf"
    r"|curp|aadhaar|nir|bsn|account[ _-]?(?:no|number))\b"
    r"(?:\s*(?:no|nr|number|num|id|is|was))?[\s.:#=º°-]{0,5}[A-Z]{0,4}[-/ ]?\d[\d./ -]{2,}\d"
    r"|\bmrn[\s.:#=º°-]{0,5}[A-Z]{0,3}\d{4}",
    re.IGNORECASE,
)
NATIONAL = re.compile(r"(?<![\w.])\(0\d{1,5}\)(?:[\s/-]?\d){5,}|(?<![\w./=-])0[1-9]\d{8,9}(?![\w.])")  # telephone
ENCODINGS = re.compile(  # a picture as base64 or hexadecimal digits; the longest digest has 128 of these
    r"\bdata:[\w/+.-]*(?:;[\w=-]+)*;base64,|(?<![A-Za-z0-9+/])(?:[A-Za-z0-9+/]{76}\s{1,3}){2,}|[A-Za-z0-9+/_-]{200,}"
    r"|(?:\\x[0-9a-f]{2}){24,}|(?:\b[0-9a-f]{2}[\s:,]){48,}",
    re.IGNORECASE,
)
SOCIAL_SECURITY = re.compile(r"(?<![\w-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")
ACCOUNT = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b")
_MONTH = r"[^\W\d_]{3,9}\.?"
_DATE = (
    r"(?:\d{1,4}\s?[./-]\s?\d{1,2}\s?[./-]\s?\d{1,4}|\d{8}"
    rf"|\d{{1,2}}(?:st|nd|rd|th|\.)?\s+(?:of\s+|de\s+|di\s+)?{_MONTH},?\s+(?:de\s+|del\s+)?\d{{4}}"
    rf"|{_MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?,?\s+\d{{4}}|\d{{4}},?\s+{_MONTH}\s+\d{{1,2}}"
    rf"|\d{{1,2}}-{_MONTH}-\d{{2,4}}|\d{{4}}\s?年\s?\d{{1,2}}\s?月\s?\d{{1,2}}\s?日?)"
)
BIRTHS = re.compile(
    rf"(?:\b(?:born|dob|d\.o\.b|date[ _-]of[ _-]birth|birth[ _-]?(?:date|day)?|geb(?:\.?[ -]?dat(?:um)?)?|geboren"
    rf"|geburtsdatum|geboortedatum|née?|naissance|nascita|nac|f[öø]dd?|urodz\w*|doğum(?:\s+tarihi)?|syntynyt|született"
    rf"|nacid[oa]|nascid[oa]|nacimiento|nascimento|nat[oa]|рожд[её]н\w*|родил\w*)\b|\bb\."
    rf"|出生日期|出生于|生年月日|生まれ|出生)\W{{0,4}}(?:\([dmyjta/. -]{{6,12}}\)\W{{0,3}})?"
    rf"(?:(?:is|was|on|am|in|the|le|el|il|em|в)\b\W{{0,3}}){{0,2}}{_DATE}"
    rf"|\d\s?日\s?(?:生|出生)",
    re.IGNORECASE,
)
DEFANGED = re.compile(r"[\[({]([.:@])[\])}]")  # 192[.]168[.]1[.]20
IPV4 = re.compile(r"(?<![\w.])(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?![\w]|\.\d)")
IPV6 = re.compile(
    r"(?<![\w:])(?:fe[89ab][0-9a-f]|f[cd][0-9a-f]{2})?(?::{1,2}[0-9a-f]{1,4}){1,7}(?![\w:])", re.IGNORECASE
)
MACHINES = re.compile(
    r"\b(?:localhost(?::\d|/)|(?<=[\w-])\.(?:internal|intranet|intra|lan|local|localdomain|corp|home\.arpa)(?:[:/]|\b(?!\.\w)))"
    r"|(?<![\w:])(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}(?![\w:])",
    re.IGNORECASE,
)
# Own columns only.
STREETS = re.compile(
    r"\b\d{1,5}[a-z]?,?\s+(?:[^\W\d_][\w'.-]*\s+){1,4}(?:street|st|road|rd|avenue|ave|lane|ln|drive|way|court|crescent|boulevard|blvd"
    r"|square|terrace|gardens)\b|\b\d{1,5}[a-z]?,?\s+(?-i:(?:[^\W\da-zß-ÿ_][\w'.-]*\s+){1,4})(?:close|place)\b(?!-)|\b[^\W\d_]+(?:straße|strasse|str\.|weg|platz|gasse|allee|laan|straat|gatan)\s*\d"
    r"|\b(?:rue|avenue|calle|rua|via|viale|plaza|avenida|ul\.|улица)\s+(?:[^\W\d_][\w'.-]*\s*){1,5},?\s*\d"
    r"|\b\d{1,4},?\s+(?:rue|avenue|boulevard)\s|\b[A-Z]{1,2}\d[A-Z\d]?\s\d[A-Z]{2}\b|\bP\.? ?O\.? ?Box\s*\d",
    re.IGNORECASE,
)
LONG_NUMBER = re.compile(
    r"(?<![\w.])\d(?:[\s/-]?\d){6,}(?!\.?\w)"
    r"|(?<!\d)(?<!\d[.,])\d{7,}(?![.,]?\d)"  # also within a word: H1234567
)
PERSONAL_NUMBERS = re.compile(  # that countries or insurances give to a person
    r"(?<!\w)(?:\d{1,3}(?:\.\d{3}){2}-[\dk]{1,2}"  # Brazil, Chile
    r"|[A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3}[A-Z]|[A-Z]{4}\d{6}[HM][A-Z]{5}[A-Z\d]\d"  # Italy, Mexico
    r"|756\.\d{4}\.\d{4}\.\d{2}|[A-CEGHJ-PR-TW-Z]{2}\d{6}[A-D])(?!\w)"  # Switzerland, United Kingdom
    r"|(?<!\d)\d{3}\.\d{3}\.\d{3}-\d{2}(?!\d)",
    re.IGNORECASE,
)
PUBLIC_NUMBERS = re.compile(  # that anybody can look up, and which tell of no patient
    r"\b(?:PMID|PMC|HP|OMIM|MIM|ORPHA(?:NET|CODE)?|MONDO|DOID|UMLS|NCT|MESH|ENS[GTP]|N[MPCGR]_|rs|ISBN(?:-1[03])?|ISSN)[:\s]{0,3}\d[\d-]*"
    r"|\bchr\w{1,2}:\d+(?:-\d+)?|\b10\.\d{4,9}/\S+|(?<!\d)(?:19|20)\d\d\s?[-/]\s?(?:19|20)\d\d(?!\d)",
    re.IGNORECASE,
)


def private_text(text: str) -> list[str]:
    """What a text gives away, in words that repeat none of it; empty if it gives nothing away."""
    return list(_kinds_of(text))


@functools.lru_cache(maxsize=100_000)
def _kinds_of(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(kind for spelling in _spellings(text) for kind in _private_kinds(spelling)))


def private_cell(text: str) -> list[str]:
    """The same of a value in a curator's own column, of which nobody knows what it is for: also names of people, postal
    addresses, dates to the day and long numbers."""
    found = dict.fromkeys(private_text(text))
    for spelling in _spellings(text):
        found |= dict.fromkeys(_personal_kinds(spelling))
    return list(found)


def _spellings(text: str) -> list[str]:
    """The text in one spelling, and with the escapes of HTML and of web addresses resolved, if there are any."""
    plain = _plain(text)
    unescaped = _plain(DEFANGED.sub(r"\1", urllib.parse.unquote(html.unescape(plain))))
    return [plain] if plain == unescaped else [plain, unescaped]


def _plain(text: str) -> str:
    """Compatibility forms are resolved (NFKC), digits become ASCII, and invisible characters vanish."""
    if text.isascii():
        return text
    characters = []
    for character in unicodedata.normalize("NFKC", text):
        category = unicodedata.category(character)
        if category == "Nd":
            character = str(unicodedata.digit(character))
        elif category == "Pd":
            character = "-"
        elif category == "Zs":
            character = " "
        if category != "Cf":
            characters.append(character)
    return "".join(characters)


def _private_kinds(text: str) -> Iterator[str]:
    if PATHS.search(text):
        yield PATH
    if TOKENS.search(text) or _has_secret(text):
        yield TOKEN
    if _has_mail(text):
        yield MAIL
    if _has_telephone_number(text):
        yield PHONE
    if RECORDS.search(text) or SOCIAL_SECURITY.search(text) or _has_account(text):
        yield RECORD
    if BIRTHS.search(text):
        yield BIRTH
    if MACHINES.search(text) or _has_private_address(text):
        yield MACHINE
    if ENCODINGS.search(text):
        yield ENCODED


def _personal_kinds(text: str) -> Iterator[str]:
    if has_name(text):
        yield PERSON
    if STREETS.search(text):
        yield STREET
    text = PUBLIC_NUMBERS.sub(" ", DIGESTS.sub(" ", text))
    if says_a_day(text):
        yield DAY
    elif LONG_NUMBER.search(text) or PERSONAL_NUMBERS.search(text):
        yield RECORD


def private_identifier(text: str) -> list[str]:
    """What the identifier of a subject gives away. It may be a number, and may hold several with a dash or a dot
    between them, so that a date needs a year of four digits or a month in words."""
    found = dict.fromkeys(private_text(text))
    for spelling in _spellings(text):
        found |= dict.fromkeys([PERSON] * has_name(re.sub(r"\b(?=\w*\d)[0-9a-f]{6,}\b|[_-]", " ", spelling)))
        found |= dict.fromkeys([DAY] * says_a_day(spelling, short_years=False))
        found |= dict.fromkeys([RECORD] * bool(PERSONAL_NUMBERS.search(spelling)))
    return list(found)


def _has_mail(text: str) -> bool:
    for match in MAILS.finditer(text):
        before = text[max(0, match.start() - 300) : match.start()]
        begins = FULL_NAME if match["bare"] else QUOTED if match["quoted"] else None
        if not IN_ADDRESS.search(before) and (begins is None or begins.search(before)):
            return True
    return False


@functools.cache
def _secret_patterns() -> list[re.Pattern]:
    """detect-secrets' patterns of tokens and keys. Its measure of randomness would take digests for keys."""
    import detect_secrets.plugins as plugins  # takes half a second
    from detect_secrets.plugins.base import RegexBasedDetector

    patterns = []
    for module in pkgutil.iter_modules(plugins.__path__, f"{plugins.__name__}."):
        for detector in vars(importlib.import_module(module.name)).values():
            is_detector = isinstance(detector, type) and issubclass(detector, RegexBasedDetector)
            if is_detector and not inspect.isabstract(detector) and not module.name.endswith("ip_public"):
                patterns += detector().denylist
    return patterns


def _has_secret(text: str) -> bool:
    return len(text) >= 16 and any(pattern.search(text) for pattern in _secret_patterns())


def _has_telephone_number(text: str) -> bool:
    text = ISBN.sub(lambda match: " " if _is_isbn(match[0]) else match[0], text)
    if PHONE_WORDS.search(text) or NATIONAL.search(text):
        return True
    if sum(map(str.isdigit, text)) < 7:
        return False
    import phonenumbers

    if INTERNATIONAL.search(text):
        for match in phonenumbers.PhoneNumberMatcher(text, "GB", phonenumbers.Leniency.POSSIBLE):
            if INTERNATIONAL.match(text, match.start):
                return True
    spaced = re.search(r"\d[\s().\-/]{1,3}\d", text)  # a number without any gap may be anything
    return bool(spaced) and any(
        re.search(r"\D", match.raw_string.strip()) and not NUMBERS.fullmatch(match.raw_string)
        for region in PHONE_REGIONS
        for match in phonenumbers.PhoneNumberMatcher(text, region, phonenumbers.Leniency.STRICT_GROUPING)
    )


NUMBERS = re.compile(  # that phonenumbers takes for telephone numbers: shares, dates, years
    r"0[.,]\d+|\d{4}[ .-]\d{2}[ .-]\d{2}|(?:19|20)\d\d\s*-\s*(?:19|20)\d\d"
)


ISBN = re.compile(r"(?<=\bISBN)(?:-1[03])?[:\s]{1,3}(?:\d[\s-]?){9}(?:(?:\d[\s-]?){3})?[\dX]\b", re.IGNORECASE)


def _is_isbn(text: str) -> bool:
    """Whether the check digit of a book's number is right (ISO 2108); text: behind the letters ISBN."""
    digits = [10 if digit in "Xx" else int(digit) for digit in re.findall(r"[\dXx]", re.sub(r"^-1[03]", "", text))]
    if len(digits) == 10:
        return sum(weight * digit for weight, digit in zip(range(10, 0, -1), digits, strict=True)) % 11 == 0
    return sum(digits[::2] + [3 * digit for digit in digits[1::2]]) % 10 == 0


def _has_account(text: str) -> bool:
    """An international bank account number with its right check digits (ISO 13616)."""
    for match in ACCOUNT.finditer(text):
        number = match[0].replace(" ", "")
        if 15 <= len(number) <= 34 and int("".join(str(int(c, 36)) for c in number[4:] + number[:4])) % 97 == 1:
            return True
    return False


def _has_private_address(text: str) -> bool:
    for match in IPV4.finditer(text):
        octets = [int(octet) for octet in match.groups()]
        if max(octets) < 256 and octets[0] > 0:
            address = ipaddress.IPv4Address(bytes(octets))
            if address.is_private or address.is_link_local or address in ipaddress.IPv4Network("100.64.0.0/10"):
                return True
    for match in IPV6.finditer(text):
        try:
            address = ipaddress.IPv6Address(match[0])
        except ValueError:
            continue
        if address.is_loopback or address.is_link_local or address in ipaddress.IPv6Network("fc00::/7"):
            return True
    return False
