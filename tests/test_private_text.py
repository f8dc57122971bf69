"""What texts give away, in many spellings, and the ordinary texts of a dataset, which give nothing away."""

import pytest

from publishing.private_text import private_cell, private_text
from publishing.published_columns import personal_name, private_values

GIVEN_AWAY = {
    "path": ["C:/Users/doe/x.jpg", "D:/scans/1.jpg", "../../home/doe/x", "//server/share/x", "/scratch/doe/x", "/nas/x",
             "saved in /content/drive/MyDrive/x", "s3://bucket/key", "file:///c/x", r"\\server\share", "~doe/x",
             r'"\\\\server\\share\\x"', "smb://host/share", "gs://bucket/x", "％USERPROFILE％\\x", "$HOME/scans",
             "$env:USERPROFILE\\scan.jpg", "az://container/doe", "home/doe/scans/x.jpg", "users/doe/x.jpg",
             "c:\\patients\\1.jpg", "scp doe@cluster:/data/x", "/lustre/project/faces/1.jpg"],
    "e-mail": ["jane (at) clinic.org", "jane.doe [at] clinic [dot] org", "jane at clinic dot org", "jane＠clinic.org",
               "jane&#64;clinic.org", "jane%40clinic.org", "JANE@CLINIC.ORG", "jane @ clinic.org",
               "jane.doe@clínica.org",
               "jаne@clinic.org", "jane.doe at clinic.org", "mailto:x",
               '"jane doe"@clinic.org', "jane@\u200bclinic.org", "Jane Doe/jane.doe@clinic.org"],
    "telephone": ["+44 20 7946 0018", "(212) 555-2368", "0049 30 1234567", "٠٢٠ ٧٩٤٦ ٠٠١٨", "Tel. 030/1234567",
                  "phone 5551234", "+４４ ２０ ７９４６ ００１８", "020 7946 0018", "01 42 68 53 00",
                  "(030) 123 456 7", "07911123456",
                  "Syndrome (+1 212 555 2368)", "https://wa.me/442079460018"],
    "token": ["-----BEGIN RSA PRIVATE KEY-----", "-----BEGIN OPENSSH PRIVATE KEY-----", "https://x.org/a?token=abcdef123",
              "https://user:pw@x.org/", "ssh://user@host", "AKIAIOSFODNN7EXAMPLE",
              "AIzaSyA1234567890abcdefghijklmnopqrstuv",
              "ghp_abcdefghijklmnopqrstuvwxyz0123456789", "xoxb-1234567890-abcdefghij", "glpat-abcdefghij0123456789",
              "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc", "hf_abcdefghijklmnop\nqrstuvwxyzabcdefgh",
              "password: hunter22", "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
              "PuTTY-User-Key-File-3: ssh-ed25519"],
    "machine": ["192.168.1.17", "10.0.0.5", "172.16.3.4", "fe80::1", "http://pacs.clinic.local/x", "http://localhost:80",
                "192[.]168[.]1[.]20"],
    "number of a record": ["MRN 1234567", "MRN48213", "patient id: 00123456", "123-45-6789",
                           "GB82 WEST 1234 5698 7654 32"],
    "date of birth": ["DOB 04/05/2012", "born on 3 May 2012", "geboren am 3.5.2012",
                      "b. 12 March 2015", "born on the 12th of March 2015", "born 2015 March 12", "DOB 12-MAR-2015",
                      "nacido el 12 de marzo de 2015", "生年月日 2015年3月12日", "出生日期：2015年3月12日",
                      "дата рождения 12.03.2015", "родился 12.03.2015", "data di nascita: 04/05/2012",
                      "född 2012-05-04",
                      "Geb.-Datum: 04.05.2012", "Date of birth (dd/mm/yyyy): 04/05/2012", "2012年5月4日生"],
    "bytes written as text": ["data:image/png;base64,iVBORw0KGgo=", "QUJD" * 60, "4a616e65" * 30, "\\xff\\xd8" * 20,
                              "ff d8 ff e0 " * 12],
}  # fmt: skip
HONEST = [
    "and/or", "https://www.clinic.org/home/var/images/1.jpg", "https://medium.com/@jane/faces", "a: b", "2004-05-06",
    "Am J Med Genet A. 2004;128A(2):190-4", "doi:10.1002/ajmg.a.30123", "https://doi.org/10.1056/NEJM199001013220101",
    "PMID: 12345678", "0000-0002-1825-0097", "1990-2000", "HP:0000316; HP:0000407",
    "ORPHA:192", "22q11.2 microdeletion",
    "46,XX,del(5)(p15.2)", "c.1234A>G (p.Arg412Gly)", "NM_000138.5:c.1234A>G", "chr7:155799529-155799530",
    "Cornelia de Lange syndrome", "ratio 3.5/4.2 mm", "hosted at example.org", "version 1.2.3.4", "CC BY 4.0",
    "3 images @ 2.5 GHz", "ISBN 978-0-306-40615-7", "ISBN 0721606156",
    "ISBN-10: 0195138430", "ISBN 080442957X", "https://pubmed.ncbi.nlm.nih.gov/12345678/",
    "https://www.ncbi.nlm.nih.gov/pmc/articles/PMC1234567/figure/F1/?report=objectonly", 'load_dataset("./rdface")',
    "photo of a sks child with widely spaced eyes; seed 1234567890", "https://example.org/a?id=12&key=3", "male/female",
    "Interpupillary distance 55 mm (97th centile), 3 - 4 years", "born at 38 weeks; birth weight 2340 g", "born 2004",
    "https://upload.wikimedia.org/wikipedia/commons/1/12/1234567890_b.jpg", "20 30 40 50 60 70", "1 000 000 000",
    "https://www.flickr.com/photos/12345678@N00/1234567/", "12:30:45",
    "* 2026-11-29: version 1.2.0", "**2026-11-29**", "children at home/school", "0.123456789", "top-1 0.1234567",
    "seed=0123456789",
    "d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90", '{"x": "y", "z": {\n  "@type": "@json"}}',
    "photo at clinic.org", "https://example.org/img/face@2x.png",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in GIVEN_AWAY.items() for text in texts])
def test_a_text_that_gives_something_away_is_known_in_any_spelling(kind, text):
    assert any(kind in found for found in private_text(text))
    assert private_text(f"She was seen there ({text}) and smiled.")


@pytest.mark.parametrize("text", HONEST)
def test_an_ordinary_text_is_no_false_alarm(text):
    assert private_text(text) == []


@pytest.mark.parametrize("text", ["Jane Doe", "doe, jane", "Dr. Smith", "12 High Street", "2012-05-04", "1234567",
                                  "Mother: Anna Miller", "seen with Jane Doe today", "Anna Müller"])  # fmt: skip
def test_a_curators_own_column_holds_no_name_no_address_no_day_and_no_long_number(text):
    assert private_cell(text)


@pytest.mark.parametrize("text", [
    "2012:05:04 10:11:12", "photo of 04.05.2012 (frontal)", "4 May 2012, frontal", "04.05.2012; 05.06.2013",
    "*04.05.2012", "2012年5月4日生", "IMG_20120504_101112.jpg", "seen on 4/5/2012", "04May2012", "4 mai 2012",
    "12-MAR-2015", "4.V.2012", "31.12.85",
])  # fmt: skip
def test_a_day_is_found_wherever_it_stands_in_a_curators_own_column(text):
    assert "a date with day, month and year, which may be of birth" in private_cell(text)


@pytest.mark.parametrize("text", ["H1234567", "12345678Z", "123.456.789-09", "RSSMRA85T10A562S", "AB123456C"])
def test_a_persons_number_is_found_also_within_a_word(text):
    assert private_cell(text) == ["the number of a record, an insurance or an account"]


@pytest.mark.parametrize("text", ["DOE JANE", "Doe Jane", "Maria da Silva", "JaneDoe", "Müller Anna", "Nguyen Van Anh"])
def test_a_name_is_found_in_either_order(text):
    assert private_cell(text) == ["a person's name"]


@pytest.mark.parametrize("text", [
    "DOE JANE", "JaneDoe", "JD-2012-05-04", "JD20120504", "120504-1234", "20120504-1234", "MRN1234567",
    "RSSMRA85T10A562S", "anna-mueller", "Jane Doe", "04.05.2012",
])  # fmt: skip
def test_a_subjects_identifier_holds_no_name_and_no_day(text):
    assert list(private_values("subject_id", text, is_own=False))


@pytest.mark.parametrize("text", [
    "P-0012", "s17", "sim42-00007", "101-02-1", "1-2-3", "01-02-003", "01.02.03", "1.2.3", "3/12/1", "10000001",
    "20000001", "00000012", "Patient 3", "Family A Patient 2", "F1/P2/1", "AAR-first", "2012-0345", "GSM1234567",
    "550e8400-e29b-41d4-a716-446655440000", "d4735e3a265e16eee03f59718b9b5d03", "a1b220120504c3d4e5f6", "17ed8abe",
])  # fmt: skip
def test_an_honest_identifier_of_a_subject_is_no_false_alarm(text):
    assert list(private_values("subject_id", text, is_own=False)) == []


@pytest.mark.parametrize("text", [
    "Long face", "Long nose; long face", "Dimple chin", "MS patient", "MR imaging", "Paris, France",
    "Santa Maria hospital", "7 normal close", "12 front close", "1 full face close-up", "in 1 place",
    "Baby photograph", "Dr. consent",
])  # fmt: skip
def test_a_phenotype_a_disease_or_a_place_is_nobodys_name_or_address(text):
    assert private_cell(text) == []


@pytest.mark.parametrize("text", ["7 Normal Close", "12 Saint James Place", "ISBN 0721606157", "Doe, Georgia"])
def test_what_only_looks_like_it_is_refused(text):
    assert private_cell(text)


def test_a_day_is_called_one_thing():
    assert len(private_cell("2012-05-04")) == len(private_cell("04.05.2012")) == 1


@pytest.mark.parametrize(
    "text", [
        "Canon EOS", "Nikon Coolpix", "frontal view", "Room 12", "unit A", "2012", "0.1234567", "EOS 5D Mark II",
        "1/2/3", "PMID: 12345678", "PMC1234567", "10.1002/ajmg.a.30123", "HP:0000316; HP:0000407", "ORPHA:192",
        "OMIM 194050", "FBN1", "NM_000138.5:c.1234A>G", "chr7:155799529-155799530", "Cornelia de Lange syndrome",
        "1990-2000", "IL10RB",
        "Rubinstein-Taybi syndrome", "version 1.2.3", "10 x 15 cm", "5 marks", "May 2012", "2012-05",
        "ISO 200, 1/125 s", "d4735e3a265e16eee03f59718b9b5d03",
    ],
)  # fmt: skip
def test_what_says_nothing_of_a_person_may_be_published(text):
    assert private_cell(text) == []


def test_names_of_columns_that_tell_who_somebody_is():
    personal = (
        "patient_name phone date_of_birth address mrn PatientName dob Telefonnummer hospital_number Mail téléphone"
    )
    personal = [*personal.split(), "prénom", "имя", "case id", "Name", "surname", "ｎａｍｅ"]
    assert [name for name in personal if not personal_name(name)] == []
    assert not [name for name in ("camera", "camera_name", "notes", "view", "light") if personal_name(name)]
