"""Which columns of a dataset are published, and of what type each must be.

Columns of this project's own are published. One that the curator added stays in the folder unless it is named, and even
then if its name, its type or a value could tell who a person is. A column whose type can hide what nobody examines,
such as bytes, pictures or structures, is refused by name; only `image` holds pictures.
"""

import itertools
import re
import unicodedata
from collections.abc import Collection, Iterator

import pyarrow as pa

from publishing.private_text import RECORD, private_cell, private_identifier, private_text

REAL_CONFIGS = ("real", "restored", "reports")  # gated, in one repository
OPEN_CONFIGS = ("synthetic",)  # in a repository of their own
MAX_NUMBERS = 32  # in a list of a curator's own: a longer one can be a picture, or the embedding of a face
VECTOR = f"a list of more than {MAX_NUMBERS} numbers, which can be a picture or tell a face"
FOREIGN = "what no value of this column can be"
FORMS = {  # of the project's own columns, as far as their values have one
    "hpo_ids": r"HP:\d{7}", "orphanet_code": r"\d{1,9}", "country": "[A-Z]{3}", "sex": "female|male",
    "paper_split": "train|test", "protocol": "strict|paper",
}  # fmt: skip
DIGEST = r"[0-9a-f]{64}"
IMAGE, TEXT, NUMBER = "a picture", "text", "a number"
# Words in the name of a column that tells who somebody is, in the languages of the regions that curators come from.
PERSONAL = """
patient patients person persona personne surname lastname firstname forename fullname givenname familyname middlename
maiden nickname initials phone telephone tel mobile cell cellphone fax whatsapp email mail emails dob birth birthday
birthdate born bday address addresses street postcode zip zipcode postal home mrn medicalrecord record recordnumber ssn
nhs passport insurance nationalid national cpf curp aadhaar chi nir mother father parent parents guardian sibling
contact relative doctor physician clinician nom prenom naissance adresse nombre apellido apellidos nacimiento direccion
telefono vorname nachname familienname geburtsdatum geburtstag telefon anschrift strasse patientennummer fallnummer nome
cognome sobrenome nascimento nascita endereco indirizzo telefone имя фамилия отчество телефон адрес рождения пациент
姓名 名字 电话 地址 病人 患者 生日 氏名 住所
"""
PERSONAL_WORDS = frozenset(PERSONAL.split())
STEMS = ("patient", "telefon", "telephon", "geburt", "birth", "phone", "email", "passport", "surname", "kontakt")
NAMED = """
camera lens device scanner file model software study journal condition disease syndrome gene column hospital site cohort
dataset image picture instrument drug
"""
NAMED_THINGS = frozenset(NAMED.split())  # whose name is nobody's, as in camera_name
NUMBERED_THINGS = frozenset({"hospital", "case", "chart", "file", "medical", "health", "unit", "account"})


class Column:
    """What config `name` says of a column: `own` if the curator added it, and the kind of its values, None: not known.

    kind: IMAGE, TEXT or NUMBER; lists: how many lists are wrapped around it."""

    def __init__(self, own: bool, kind: str | None, lists: int = 0):
        self.own, self.kind, self.lists = own, kind, lists


def personal_name(column: str) -> bool:
    """Whether a column's name says that its values tell who somebody is."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", column))
    text = unicodedata.normalize("NFC", "".join(c for c in unicodedata.normalize("NFD", text) if _is_kept(c)))
    words = [word for word in re.split(r"[\W_\d]+", text.casefold()) if word]
    together = "".join(words)
    if PERSONAL_WORDS & {*words, together, *("".join(pair) for pair in itertools.pairwise(words))}:
        return True
    if any(word.startswith(STEMS) for word in words):
        return True
    if "name" in words or together.endswith("name"):
        return not NAMED_THINGS & set(words)
    numbered = {"number", "no", "num", "nr", "id", "identifier"} & set(words)
    return bool(numbered and NUMBERED_THINGS & set(words)) or any(private_text(column))


def _is_kept(character: str) -> bool:
    return not (unicodedata.combining(character) and not unicodedata.name(character, "").startswith("CYRILLIC"))


def kind_of(kind: pa.DataType) -> Column | None:
    """The kind of an Arrow type's values; None if values of this type are not published."""
    lists = 0
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind, lists = kind.value_type, lists + 1
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if isinstance(kind, pa.BaseExtensionType):
        return None
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return Column(False, TEXT, lists)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return Column(False, NUMBER, lists)
    is_picture = pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"} and len(kind) == 2
    if is_picture and not lists and all(_holds(field) for field in kind):
        return Column(False, IMAGE)
    return None


def _holds(field: pa.Field) -> bool:
    """Whether a field of a picture is of the type that `datasets` gives it."""
    allowed = (pa.types.is_binary, pa.types.is_large_binary) if field.name == "bytes" else (pa.types.is_string,)
    return any(is_of(field.type) for is_of in allowed)


def known_columns(config: str, names: Collection[str]) -> dict[str, object]:
    """The project's own columns of a config, with their type in `datasets`. names: of all columns of its files."""
    from curation import schema
    from reporting.report_dataset import report_features

    if config == "synthetic":
        columns = dict(schema.scored_features(schema.synthetic_features(["-"]), None))
        lpips = next((name for name in names if re.fullmatch(r"lpips(_[a-z]{1,20})?", name)), None)
        return columns | dict(schema.scored_features(schema.synthetic_features(["-"]), lpips))
    if config == "reports":
        return dict(report_features("image_id", ["-"])) | dict(report_features("synthetic_id", ["-"]))
    columns = schema.real_features(["-"])
    return dict(schema.restored_features(columns)) if config == "restored" else dict(columns)


def schema_problems(config: str, columns: pa.Schema, known: dict[str, object], own: Collection[str]) -> Iterator[str]:
    """Why columns that would be published must not be, by their names and types. own: names of the curator's."""
    from datasets import Features

    for field in columns:
        if field.name in known:
            expected = kind_of(Features({field.name: known[field.name]}).arrow_schema.field(0).type)
            found = kind_of(field.type)
            fits = found and (found.kind, found.lists) == (expected.kind, expected.lists)
            if not fits and not pa.types.is_null(field.type):
                yield f"{config}: column {field.name} holds {field.type}, not {expected.kind}; make the dataset again"
        elif field.name in own:
            found = kind_of(field.type)
            if personal_name(field.name):
                reason = "has a name of what tells who a person is"
                yield f"{config}: column {field.name} {reason}; leave it out of --publish_columns"
            elif found is None or found.kind == IMAGE:
                what = "a second picture" if found else f"values of type {field.type}, which nobody examines"
                yield f"{config}: column {field.name} holds {what}; leave it out of --publish_columns"
    doubled = sorted({name for name in columns.names if columns.names.count(name) > 1})
    yield from (f"{config}: column {name} occurs twice; make the dataset again" for name in doubled)


def private_values(column: str, value: object, is_own: bool) -> Iterator[str]:
    """What a value of a column, which may be a list, gives away, in words that repeat none of it."""
    if isinstance(value, list):
        if is_own and len(value) > MAX_NUMBERS and not isinstance(value[0], str):
            yield VECTOR
            return
        for part in value:
            yield from private_values(column, part, is_own)
    elif isinstance(value, str) and is_own:
        yield from private_cell(value)
    elif isinstance(value, str):
        form = DIGEST if column.endswith("sha256") else FORMS.get(column)
        if form and not re.fullmatch(form, value):
            yield FOREIGN
        yield from private_identifier(value) if column == "subject_id" else private_text(value)
    elif is_own and isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1:
        yield from [RECORD] * (abs(value) >= 1_000_000)
