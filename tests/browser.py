"""An installed Chromium without a window: measures a page at several widths, and takes pictures of it.

    python tests/browser.py runs/demo/report.html docs/study_page.jpg --top 3790 --height 740 --shown_width 900
    python tests/browser.py PAGE PICTURE --width 390 --height 6000

The first line makes the picture in README.md; where it begins depends on the runs that the page shows."""

import argparse
import html
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr")
# As a child of a page as wide as the widest frame, since a window of Chromium is at least 500 pixels wide.
MEASURE = """<script>addEventListener("load", () => { const root = document.documentElement, beyond = [];
for (const each of document.querySelectorAll("body *")) {
 const isBeyond = each.getBoundingClientRect().right > innerWidth + 1 && !each.closest(".wide, .hidden, .skip");
 if (isBeyond) beyond.push(each.tagName + " " + each.textContent.slice(0, 40)); }
parent.postMessage({width: innerWidth, scroll: root.scrollWidth, beyond: beyond,
 sections: [...document.querySelectorAll("main section[id]")].map((e) => e.id),
 broken: [...document.images].filter((e) => !e.complete || !e.naturalWidth).map((e) => e.alt.slice(0, 60)),
 requests: performance.getEntriesByType("resource").map((e) => e.name).filter((name) => !name.startsWith("data:"))
}, "*"); });</script>"""
COLLECT = """<script>const all = []; addEventListener("message", (event) => { all.push(event.data);
document.documentElement.dataset.all = JSON.stringify(all); });</script>"""


def find_browser() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


def run(browser: str, *flags: str, file: Path) -> tuple[str, list[str]]:
    """What the browser prints of a page, and the lines of its console."""
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
        command = [browser, *FLAGS, f"--user-data-dir={profile}", *flags, file.resolve().as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def measure(browser: str, page: Path, widths: tuple[int, ...], folder: Path) -> dict[int, dict]:
    """Width -> what lies beyond it, sections, broken pictures and requests of the page, shown in a frame so wide.

    The page has no script of its own, so a copy in `folder` gets one, without the policy that forbids it."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    (folder / "measured.html").write_text(text.replace("</body>", MEASURE + "</body>"), encoding="utf-8")
    shown = '<iframe src="measured.html" style="width:{}px;height:900px;border:0"></iframe>'
    frames = [shown.format(width) for width in widths]
    (folder / "frames.html").write_text(f"<!doctype html>{COLLECT}{''.join(frames)}", encoding="utf-8")
    printed, _ = run(browser, "--virtual-time-budget=9000", "--dump-dom", file=folder / "frames.html")
    (found,) = re.findall(r'data-all="([^"]*)"', printed)
    return {one["width"]: one for one in json.loads(html.unescape(found))}


def picture(browser: str, page: Path, file: Path, width: int, top: int, height: int, shown_width: int) -> None:
    """A picture (PNG or JPEG) of a part of a page, `height` px from `top` on and `width` px wide, at shown_width px."""
    bottom = top + height
    with tempfile.TemporaryDirectory(prefix="picture-") as folder:
        frame = f'<iframe src="{page.resolve().as_uri()}" style="width:{width}px;height:{bottom}px;border:0"></iframe>'
        shell, shot = Path(folder) / "frame.html", Path(folder) / "shot.png"
        shell.write_text(f'<!doctype html><body style="margin:0">{frame}', encoding="utf-8")
        run(browser, f"--window-size={max(width, 500)},{bottom}", f"--screenshot={shot}", file=shell)
        with Image.open(shot) as taken:
            part = taken.convert("RGB").crop((0, top, width, bottom))
            part.resize((shown_width, height * shown_width // width)).save(file, quality=70, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--top", type=int, default=0, help="where the picture begins, in pixels of the page")
    parser.add_argument("--height", type=int, default=860)
    parser.add_argument("--shown_width", type=int, help="width of the picture (default: --width)")
    args = parser.parse_args()
    browser = find_browser() or parser.error(f"none of {', '.join(NAMES)} is installed")
    shown_width = args.shown_width or args.width
    picture(browser, args.page, args.picture, args.width, args.top, args.height, shown_width)


if __name__ == "__main__":
    main()
