"""Cut one question out of a report: python docs/images/case.py REPORT_HTML ID PNG

Opens a copy of the report that shows nothing but the question with this id and the entities of its answers, in headless
Chromium, and crops the screenshot. Needs Chromium on the PATH.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

WIDTH, HEIGHT, SCALE, MARGIN = 920, 900, 2, 16  # pixels of the page; the picture has SCALE times as many
COLORS = 255  # of the palette, which keeps the file small
ONLY_THE_CASE = """
  body, main, #case { background: #fff !important; margin: 0 !important }
  body, main { padding: 0 !important; max-width: none !important }
  header, .toolbar, .note:not(.legend), #list, .casehead button, .tags, details, section > h2,
  .facts h5:nth-of-type(2), .facts ul:nth-of-type(2),
  section:not(:has(#case)) { display: none !important }
  section { border: 0 !important; padding: 0 !important; margin: 0 !important; box-shadow: none !important }
  .browser { display: block !important; border: 0 !important; height: auto !important; margin: 0 !important }
  #case { position: static !important; padding: 16px !important; overflow: visible !important }
  .evidence { grid-template-columns: 24% minmax(0, 1fr) !important }
  .outputs { grid-template-columns: repeat(3, minmax(0, 1fr)) !important }
"""


def show_case(page: str, position: int) -> str:
    """The page with one question alone. The content policy goes too, because it refuses styles added later."""
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page, count=1)
    return page.replace("</head>", f"<style>{ONLY_THE_CASE}</style></head>", 1).replace(
        "<script>", f'<script>location.hash = "question-{position}";</script><script>', 1
    )


def position_of(page: str, name: str) -> int:
    """Position of the question with this id in the report's data. Raises StopIteration if there is none."""
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    return next(position for position, case in enumerate(data["cases"]) if str(case["id"]) == name)


def main(report: str, name: str, output: str) -> None:
    page = Path(report).read_text(encoding="utf-8")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or "google-chrome"
    with tempfile.TemporaryDirectory() as folder:
        copy, shot = Path(folder) / "page.html", Path(folder) / "shot.png"
        copy.write_text(show_case(page, position_of(page, name)), encoding="utf-8")
        command = [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--screenshot={shot}",
            f"--force-device-scale-factor={SCALE}", f"--window-size={WIDTH},{HEIGHT}",
            f"--user-data-dir={folder}/profile", "--virtual-time-budget=6000", copy.as_uri(),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        picture = Image.open(shot).convert("RGB")
    white = Image.new("RGB", picture.size, "white")
    _, top, _, bottom = ImageChops.difference(picture, white).getbbox()
    margin = MARGIN * SCALE
    picture = picture.crop((0, max(0, top - margin), picture.width, min(picture.height, bottom + margin)))
    picture.quantize(COLORS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(output, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
