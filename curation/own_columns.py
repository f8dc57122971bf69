"""The columns of a curator's table that the project does not know: kept as text, with a note on what they may be."""

import unicodedata
from collections.abc import Collection, Mapping, Sequence

from curation.csv_file import Header, column_name
from curation.curated_rows import CSV_NAME, OPTIONAL, REQUIRED, FolderError, Problem
from harness import text_normalization

OTHER_NAMES = {  # known column -> what it is called elsewhere, in English, German, French and Spanish, without accents
    "subject_id": "subject subjectid patient patient_id patientid patient_no patient_number pat_id person person_id "
    "individual individual_id participant participant_id case case_id patienten_id patientennummer pat_nr patienten_nr "
    "fall fall_id fallnummer proband probanden_id sujet id_sujet id_patient numero_patient cas paciente id_paciente "
    "numero_paciente sujeto id_sujeto caso",
    "age": "ages age_in_years age_at_photo age_at_photograph alter alter_jahre alter_in_jahren lebensalter age_ans "
    "age_en_annees edad edad_anos edad_en_anos",
    "sex": "gender m_f male_female geschlecht sexe genre sexo genero",
    "country": "nation nationality country_code country_of_origin land staat herkunftsland nationalitat "
    "staatsangehorigkeit pays pays_d'origine pays_origine nationalite pais pais_de_origen nacionalidad",
    "hpo_ids": "hpo hpo_id hpo_term hpo_terms hpo_code hpo_codes hpo_begriffe hpo_nummern termes_hpo codes_hpo "
    "terminos_hpo codigos_hpo",
    "source_type": "source quelle quellentyp quellenart type_source type_de_source fuente tipo_fuente tipo_de_fuente",
    "source_url": "url link source_link web_link quellen_url webadresse url_source lien enlace url_fuente",
    "license": "licence copyright rights lizenz nutzungsrechte urheberrecht droits licencia derechos",
}
KNOWN_AS = {name: column for column, names in OTHER_NAMES.items() for name in (column, *names.split())}
ONLY_KEPT = "nothing here uses them, and publish_dataset.py leaves them out unless --publish_columns names them"


def own_columns(
    header: Header, written: Collection[str], asked_for: Mapping[str, str], problems: list[Problem]
) -> list[str]:
    """The names of the columns that the project does not know; notes say that they are kept, and what they may be.

    written: names of columns that a build writes, which no own column may have; asked_for: name of a column that a
    build writes -> the table's column that it is made of. Raises FolderError for a name that cannot be kept."""
    own = [name for name in header.names if name and name not in REQUIRED + OPTIONAL]
    _check(own, written, asked_for, header)
    known = {name: column for name in own if (column := may_be(name)) and column not in header.names}
    others = [name for name in own if name not in known]
    if known:
        guesses, one = ", ".join(f"{name} may be {column}" for name, column in known.items()), len(known) == 1
        reason = f"{guesses}, but under {'this name it is' if one else 'these names they are'} kept as text only"
        remedy = "rename those that are, and leave the others"
        if one:
            remedy = f"rename it to {next(iter(known.values()))} if it is, or leave it"
        problems.append(Problem(CSV_NAME, header.line, None, "note", reason, remedy))
    if others:
        reason = f"unknown columns are kept as text: {', '.join(others)}"
        problems.append(Problem(CSV_NAME, header.line, None, "note", reason, ONLY_KEPT))
    return own


def may_be(name: str) -> str | None:
    """The optional column that is called by this name elsewhere, as age is Alter; None for any other name."""
    return KNOWN_AS.get(text_normalization.without_accents(column_name(name)))


def _check(names: Sequence[str], written: Collection[str], asked_for: Mapping[str, str], header: Header) -> None:
    """Raise FolderError for a column of the curator's own whose name Parquet, its readers or people would mistake."""
    line = header.line
    clashes = sorted(set(names) & set(written))
    if clashes:
        reason = f"column {', '.join(clashes)} has a name that the build writes"
        asked = asked_for.get(clashes[0]) if len(clashes) == 1 else None
        to = f" to {asked}" if asked and asked not in header.names else ""
        raise FolderError(CSV_NAME, reason, f"rename it{to}" if len(clashes) == 1 else "rename them", row=line)
    seen = {name: name for name in written}
    for name in names:
        visible = unicodedata.normalize("NFKC", "".join(c for c in name if unicodedata.category(c) != "Cf"))
        visible, whole, reason = " ".join(visible.split()), name.partition(".")[0], None
        if whole != name and whole in written:  # Parquet names the parts of a column like this, as in image.bytes
            reason = f"column {name} has the name of a part of column {whole}, which the build writes"
        elif not visible or any(unicodedata.category(c) in ("Cc", "Zl", "Zp") and c not in "\t\n\r" for c in name):
            reason = f"column {name!r} has characters in its name that cannot be seen"
        elif seen.setdefault(visible, name) != name:
            reason = f"column {name!r} looks like column {seen[visible]!r}"
        if reason:
            raise FolderError(CSV_NAME, reason, "rename it", row=line)
