"""The gallery page in a real browser: what is visible after filtering, what details say, and that nothing gets out."""

import base64
import csv
import html
import http.server
import io
import json
import re
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from datasets import disable_progress_bars, load_dataset
from in_process import exit_status
from PIL import Image

import make_report
import rdface_dataset
from curation.opening import load_images
from harness.errors import InputError
from pages import dataset_page

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; apt install chromium")
EVIL = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> & Söhne syndrome"
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
HEADER = [
    "image_name", "disease_name", "disease_abbr", "sub_category", "gene_name", "orphanet_code", "subject_id", "age",
    "sex", "country", "hpo_ids", "source_type", "source_url", "camera",
]  # fmt: skip
WILLIAMS = ("Williams syndrome", "WIL", "cardiac", "ELN;GTF2I", "904")
MELNICK = ("Melnick-Needles syndrome", "MEL", "skeletal", "FLNA", "90400")
OTHER = (EVIL, "EVL", "skeletal", "", "")
ROWS = [
    ("WIL.1.jpg", *WILLIAMS, "s1", "2.6", "female", "Germany", "HP:0000316;HP:0000365", "journal", "", ""),
    ("WIL.2.jpg", *WILLIAMS, "", "", "", "", "", "", "", ""),
    ("WIL.10.jpg", *WILLIAMS, "s1", "3 months", "female", "Germany", "", "journal", "javascript:alert(1)", "Leica"),
    ("MEL.1.jpg", *MELNICK, "s2", "5.97", "male", "Brazil", "HP:0000154", "clinic", "", EVIL),
    ("EVL.1.jpg", *OTHER, "s3", "30", "male", "Germany", "", "clinic", "", ""),
]


def photograph(number: int, grey: bool = False) -> Image.Image:
    """Bright patches, no two pictures alike, larger than a thumbnail."""
    patches = np.random.default_rng(number).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    picture = Image.fromarray(patches).resize((240, 200), Image.Resampling.BICUBIC)
    return picture.convert("L") if grey else picture


def build(folder: Path, rows: list[tuple], name: str) -> Path:
    """What rdface_dataset.py makes of a curator's folder with these rows."""
    raw = folder / f"{name}-raw"
    for number, row in enumerate(rows):
        file = raw / "rd_images" / row[2] / row[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        photograph(number, grey=row[0] == "WIL.2.jpg").save(file)
    with (raw / "disease_images.csv").open("w", encoding="utf-8", newline="") as table:
        csv.writer(table).writerows([HEADER, *rows])
    assert exit_status(rdface_dataset, "build", raw, "--output_dir", folder / name) == 0
    return folder / name


def gallery_of(dataset: Path, output_file: Path, *options: str) -> str:
    arguments = ["gallery", str(dataset), *options, "--output_file", str(output_file)]
    make_report.main(make_report.parse_args(arguments))
    return output_file.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    disable_progress_bars()
    return build(tmp_path_factory.mktemp("gallery"), ROWS, "faces")


@pytest.fixture(scope="module")
def page(dataset) -> Path:
    gallery_of(dataset, dataset.parent / "page.html")
    return dataset.parent / "page.html"


def browse(page: Path, address: str = "", *flags: str) -> str:
    """Open a page in a headless browser, with a profile beside it; returns the document as it stands afterwards."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions"]
    command += ["--disable-background-networking", f"--user-data-dir={page.parent / 'profile'}"]
    command += ["--virtual-time-budget=2000", *(flags or ["--dump-dom"]), f"file://{page}{address}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def driven(page: Path, script: str) -> dict:
    """What `script` put into `log`, after acting on the page like a user; the policy is taken out for that."""
    content = POLICY.sub("", page.read_text(encoding="utf-8"))
    tail = '<pre id="log"></pre><script>addEventListener("load", () => {const log = {}; %s;'
    tail += ' byId("log").textContent = JSON.stringify(log);})</script>'
    copy = page.with_name("driven.html")
    copy.write_text(content.replace("</body>", tail % script + "</body>"), encoding="utf-8")
    return json.loads(html.unescape(re.search(r'<pre id="log">(.*?)</pre>', browse(copy))[1]))


def shown(document: str) -> list[str]:
    """image_ids of the faces that are not hidden, in the page's order."""
    return re.findall(r"<li><button[^>]*>.*?<b>([^<]+)</b>", document)


def text_of(document: str, element_id: str) -> str:
    found = re.search(rf'<(\w+)[^>]* id="{element_id}"[^>]*>(.*?)</\1>', document, re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", "", found[2]))


def details(document: str) -> dict[str, str]:
    pairs = re.findall(r"<dt>(.*?)</dt><dd[^>]*>(.*?)</dd>", document)
    return {html.unescape(name): html.unescape(re.sub(r"<[^>]+>", "", value)) for name, value in pairs}


# ---- the file
def test_the_page_is_private_and_stands_alone(page):
    content = page.read_text(encoding="utf-8")
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert not list(page.parent.glob(".*.partial"))
    assert "Gated photographs" in content and "do not pass it on" in content and "noindex" in content
    assert "SIMULATED" not in content
    body = content[: content.index('<script type="application/json"')]
    assert not re.search(r"""\b(?:src|href|action)=["'](?!data:image/jpeg;base64,)""", body)
    assert "default-src 'none'; img-src data:;" in POLICY.search(content)[0]


def test_a_page_takes_the_place_of_a_readable_one_and_is_private(dataset, tmp_path):
    (tmp_path / "page.html").write_text("old")
    (tmp_path / ".page.html.partial").write_text("left by a killed run")
    gallery_of(dataset, tmp_path / "page.html")
    assert stat.S_IMODE((tmp_path / "page.html").stat().st_mode) == 0o600


def test_pictures_are_thumbnails_without_metadata(page):
    pictures = re.findall(r"data:image/jpeg;base64,([^\"]+)", page.read_text(encoding="utf-8"))
    assert len(pictures) == len(ROWS)
    for picture in map(base64.b64decode, pictures):
        assert Image.open(io.BytesIO(picture)).size == (160, 133)
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "Jane Doe"
    photograph(1).save(buffer, "JPEG", comment=b"Jane Doe", exif=exif, icc_profile=b"Jane Doe", xmp=b"Jane Doe")
    assert buffer.getvalue().count(b"Jane Doe") == 4
    assert b"Jane Doe" not in dataset_page.thumbnail(Image.open(buffer))


def test_ages_are_never_rounded_up():
    assert [dataset_page.age(years) for years in (None, 0.0, 0.0833, 1.1, 5.97, 2.0, 4.1)] == [
        None, "0 months", "1 month", "13 months", "5.9 years", "2 years", "4.1 years",
    ]  # fmt: skip


def test_terms_beyond_the_face_are_named_too():
    terms = dataset_page.hpo_terms({"HP:0000316", "HP:0000365", "HP:9999999"})
    assert [term["name"] for term in terms.values()] == ["Hypertelorism", "Hearing impairment", ""]
    assert "Widely spaced eyes" in terms["HP:0000316"]["words"]


# ---- in a browser
@in_a_browser
@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("", ["EVL.1", "MEL.1", "WIL.10", "WIL.1", "WIL.2"]),  # by condition, within it the youngest first
        ("#condition=WIL&sex=female", ["WIL.10", "WIL.1"]),
        ("#region=America&age=2-5&q=melnick", ["MEL.1"]),
        ("#colour=grey&sex=male", []),
    ],
)
def test_what_the_address_asks_for_is_visible(page, address, expected):
    document = browse(page, address)
    assert shown(document) == expected
    conditions = len({image_id.split(".")[0] for image_id in expected})
    assert text_of(document, "count") == f"{len(expected)} of 5 photographs, {conditions} of 3 conditions"
    assert len(re.findall(r"<section[^>]*hidden", document)) == 3 - conditions
    assert ('id="nothing" hidden' in document) == bool(expected)


@in_a_browser
def test_search_finds_names_genes_codes_and_terms(page):
    expected = {
        "widely spaced": ["WIL.1"],  # a lay wording of HP:0000316
        "HEARING": ["WIL.1"],
        "eln": ["WIL.10", "WIL.1", "WIL.2"],  # the gene, not Melnick
        "elnick": ["MEL.1"],
        "sohne": ["EVL.1"],
        "ORPHA:904": ["WIL.10", "WIL.1", "WIL.2"],  # not ORPHA:90400
        "904 gtf2i": ["WIL.10", "WIL.1", "WIL.2"],
        "wil.1": ["WIL.1"],  # not WIL.10
        "needles melnick": ["MEL.1"],
        '"needles melnick"': [],
        "williams (*": [],  # taken as it stands, not as a regular expression
        '"': ["EVL.1", "MEL.1", "WIL.10", "WIL.1", "WIL.2"],
        "": ["EVL.1", "MEL.1", "WIL.10", "WIL.1", "WIL.2"],
    }
    script = "for (const q of %s) { search(q); log[q] = visible().map((i) => page.faces[i].id); }"
    assert driven(page, script % json.dumps(list(expected))) == expected


@in_a_browser
def test_options_count_what_they_would_give_and_the_empty_case_says_what_to_leave_out(page):
    document = browse(page, "#country=DEU&sex=male&age=0-1&condition=XYZ")
    assert "Germany (0)" in document and ">female (1)<" in document and ">18+ (1)<" in document
    assert re.search(r'<option value="BRA"[^>]*disabled=""[^>]*>Brazil \(0\)', document)
    assert text_of(document, "leave-out") == "without sex: male (1)without age in years: 0-1 (1)"
    assert text_of(document, "unknown") == "Not on this page, and left out: condition=XYZ"


@in_a_browser
def test_details_say_what_is_recorded_and_what_is_not(page):
    recorded = details(browse(page, "#face=WIL.1"))
    assert recorded["Age"] == "2.6 years" and recorded["Country"] == "Germany (Europe, DEU)"
    assert recorded["HPO terms"] == "Hypertelorism HP:0000316Hearing impairment HP:0000365"
    assert recorded["Width"] == "240 px" and len(recorded["SHA-256"]) == 64
    document = browse(page, "#face=WIL.2")
    unknown = details(document)
    for name in ("Age", "Age group", "Sex", "Country", "Subject", "HPO terms", "Source", "Licence", "camera"):
        assert unknown[name] == "not recorded", name
    assert unknown["Split, paper"] == "none" and unknown["Colours"] == "shades of grey"
    assert "0 years" not in document.split('id="details"')[1].split("</dialog>")[0]


@in_a_browser
def test_curated_text_is_shown_and_never_run(page):
    document = browse(page, "#face=MEL.1")
    assert re.search("<title>(.*?)</title>", document)[1] == "RDFace gallery"
    assert details(document)["camera"] == " ".join(EVIL.split())
    assert details(browse(page, "#face=WIL.10"))["Source address"] == "javascript:alert(1)"
    without_policy = page.with_name("unguarded.html")
    without_policy.write_text(POLICY.sub("", page.read_text(encoding="utf-8")), encoding="utf-8")
    document = browse(without_policy, "#face=EVL.1")  # the policy is the second wall; the first must stand alone
    assert re.search("<title>(.*?)</title>", document)[1] == "RDFace gallery"
    assert details(document)["Condition"] == EVIL


@in_a_browser
def test_a_user_searches_opens_steps_and_clears(page):
    log = driven(
        page,
        """
        const type = (words) => { form.q.value = words; form.q.dispatchEvent(new Event("input", {bubbles: true})); };
        const press = (target, key) => target.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
        const ids = () => visible().map((i) => page.faces[i].id);
        type("williams");
        log.typed = [ids(), location.hash];
        cards[visible()[0]].click();
        log.opened = [byId("details-title").textContent, dialog.open, location.hash];
        press(dialog, "ArrowRight");
        log.stepped = byId("details-title").textContent;
        log.group = byId("group").querySelector("button").textContent;
        byId("values").querySelector("dd button").click();
        log.term = [form.q.value, ids(), dialog.open];
        form.sex.value = "male"; form.sex.dispatchEvent(new Event("input", {bubbles: true}));
        log.nothing = [ids(), byId("nothing").hidden];
        byId("leave-out").querySelector("button").click();
        log.left_out = [form.sex.value, ids()];
        byId("clear").click();
        log.cleared = [ids().length, location.hash, byId("clear").disabled];
        cards[0].focus(); press(cards[0], "ArrowRight");
        log.focused = document.activeElement === cards[1];
        """,
    )
    assert log == {
        "typed": [["WIL.10", "WIL.1", "WIL.2"], "#q=williams"],
        "opened": ["WIL.10 · Williams syndrome", True, "#q=williams&face=WIL.10"],
        "stepped": "WIL.1 · Williams syndrome",
        "group": "WIL.10",
        "term": ["HP:0000316", ["WIL.1"], False],
        "nothing": [[], False],
        "left_out": ["", ["WIL.1"]],
        "cleared": [5, "", True],
        "focused": True,
    }


@in_a_browser
def test_the_policy_lets_nothing_out(page, tmp_path):
    asked = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        away = f"http://127.0.0.1:{server.server_port}"
        injected = f'<img src="{away}/image"><link rel="stylesheet" href="{away}/style"><script src="{away}/script">'
        injected += (
            f"</script><script>fetch('{away}/fetch').catch(() => 0)</script><iframe src='{away}/frame'></iframe>"
        )
        content = page.read_text(encoding="utf-8").replace("</body>", injected + "</body>")
        (tmp_path / "guarded.html").write_text(content, encoding="utf-8")
        browse(tmp_path / "guarded.html")
        assert asked == []
        (tmp_path / "open.html").write_text(POLICY.sub("", content), encoding="utf-8")
        browse(tmp_path / "open.html")
        server.shutdown()
    assert {"/image", "/style", "/script", "/fetch", "/frame"} <= set(asked)  # so the listener does hear


@in_a_browser
def test_the_pictures_are_painted(page):
    at_once = page.with_name("at_once.html")  # with pictures that are all there when the page is loaded
    content = page.read_text(encoding="utf-8")
    at_once.write_text(content.replace('loading="lazy" decoding="async"', 'decoding="sync"'), encoding="utf-8")
    script = """const spreads = () => [...document.querySelectorAll("button.face img")].map((image) => {
      image.scrollIntoView({behavior: "instant", block: "end"});
      const box = image.getBoundingClientRect(), middle = [box.x + box.width / 2, box.y + box.height / 2];
      const isOnTop = !!box.width && document.elementFromPoint(...middle) === image;
      if (!isOnTop || !image.checkVisibility({opacityProperty: true, visibilityProperty: true})) return null;
      const canvas = Object.assign(document.createElement("canvas"), {width: 40, height: 33});
      canvas.getContext("2d").drawImage(image, 0, 0, 40, 33);
      const pixels = canvas.getContext("2d").getImageData(0, 0, 40, 33).data, found = [];
      for (let at = 0; at < pixels.length; at += 4) {
        const colour = pixels.slice(at, at + 3);
        found.push(Math.max(...colour) - Math.min(...colour));
      }
      return found.filter((spread) => spread > 60).length / found.length; });
      log.all = spreads();
      form.q.value = "nobody";
      form.q.dispatchEvent(new Event("input", {bubbles: true}));
      log.none = spreads()"""
    log = driven(at_once, script)
    *coloured, grey = sorted(log["all"], reverse=True)  # shares of strongly coloured pixels
    assert len(coloured) == 4 and min(coloured) > 0.5 and grey == 0
    assert log["none"] == [None] * len(ROWS)


# ---- other datasets
def test_the_restored_config_and_its_provenance(dataset, tmp_path):
    images = load_images(str(dataset))
    restored = images.add_column("original_width", [60] * 5).add_column("colorizer", [None, "ddcolor"] + [None] * 3)
    folder = tmp_path / "both"
    for name, part in {"real": images, "restored": restored}.items():
        (folder / name).mkdir(parents=True)
        part.to_parquet(str(folder / name / "train-00000-of-00001.parquet"))
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/train-*.parquet\n" for name in ("real", "restored"))
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    content = gallery_of(folder, tmp_path / "page.html", "--dataset_config_name", "restored")
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', content)[1])
    at = [label for _, label in data["columns"]].index("Colorizer")
    assert {face["id"]: face["values"][at] for face in data["faces"]}["WIL.2"] == "ddcolor"
    assert {face["values"][at] for face in data["faces"]} == {"ddcolor", "none"}
    assert "from config restored" in content


def test_columns_that_are_missing_are_left_out(dataset):
    images = load_images(str(dataset))
    content = dataset_page.gallery_page(images.select_columns(["image", "image_id", "label", "group_id", "sex"]))
    names = re.findall(r'<select name="(\w+)"', content)
    assert names == ["condition", "sex"] and "RDFace gallery" in content and "Gated photographs" in content


def test_simulated_faces_are_called_so(tmp_path):
    rows = [(*row[:11], "simulated", *row[12:]) for row in ROWS]
    content = gallery_of(build(tmp_path, rows, "sim"), tmp_path / "page.html")
    assert "SIMULATED data" in content and "Gated photographs" not in content
    assert content.count('alt="simulated face') == 5 and "<title>RDFace-sim gallery (simulated)</title>" in content
    images = load_dataset(str(tmp_path / "sim"), split="train")
    mixed = images.map(lambda row: row | {"source_type": "clinic" if row["image_id"] == "WIL.1" else "simulated"})
    content = dataset_page.gallery_page(mixed)
    assert "Gated photographs" in content and content.count("<span>SIMULATED, ") == 4


# ---- refusals
def test_a_page_is_not_written_into_the_dataset(dataset):
    with pytest.raises(InputError, match="lies in the dataset, which gets published"):
        gallery_of(dataset, dataset / "gallery.html")
    assert not (dataset / "gallery.html").exists()


def test_a_page_that_cannot_be_written_is_one_line(dataset, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--output_file .*name another file"):
        gallery_of(dataset, tmp_path / "file" / "page.html")


def test_too_many_images_and_damaged_ones_are_refused(dataset, monkeypatch):
    images = load_images(str(dataset))
    damaged = images.to_list()
    damaged[3]["image"] = {"bytes": b"\xff\xd8 cut off", "path": None}
    with pytest.raises(InputError, match="image in row 4 cannot be decoded"):
        dataset_page.gallery_page(images.from_list(damaged, features=images.features))
    monkeypatch.setattr(dataset_page, "MAX_IMAGES", 4)
    with pytest.raises(InputError, match="5 images make a page that browsers hardly open, 4 is the most"):
        dataset_page.gallery_page(images)


def test_another_config_is_refused_in_one_line(dataset, tmp_path):
    command = [sys.executable, str(ROOT / "make_report.py"), "gallery", str(dataset)]
    command += ["--dataset_config_name", "synthetic", "--output_file", str(tmp_path / "page.html")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "synthetic" in done.stderr
    assert not (tmp_path / "page.html").exists()
