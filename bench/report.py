"""Time to open report.html of thousands of questions, and its size.

    python -m bench.report                    5,000 questions, 2 runs with token probabilities, 2,500 images
    python -m bench.report --questions 500

The report is made from random answers about random images, with every image embedded, and opened in headless Chromium
three times. `seconds_to_open` is the median time from the beginning of the navigation until the list of questions and
the first question are laid out. `seconds_to_filter` is one search through all texts after that. The last line of output
is one JSON object.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import html
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from swift.utils.errors import UserError, reports_user_errors
from swift.utils.files import write_json
from tools.reports.comparison import compare_files
from tools.reports.write import ReportOptions

ROUNDS = 3
PHRASES = (
    "There is a small left pleural effusion with adjacent atelectasis.", "The heart size is normal.",
    "No pneumothorax is seen.", "Increased opacities are noted in the right lower lobe.",
    "The endotracheal tube ends above the carina.", "Mild pulmonary edema is present in both lungs.",
)  # fmt: skip
TIMER = """
document.body.offsetHeight;
const opened = performance.now();
const query = document.getElementById("query");
query.value = "no such words anywhere";
query.dispatchEvent(new Event("input"));
document.body.offsetHeight;
const filtered = performance.now();
const place = document.createElement("pre");
place.id = "times";
place.textContent = JSON.stringify({ opened, filtered: filtered - opened, cases: data.cases.length });
document.body.append(place);
"""


def make_images(folder: Path, count: int, rng: np.random.Generator) -> list[Path]:
    """Write ``count`` different gray films of 384 x 448 pixels, smooth with some grain."""
    folder.mkdir(parents=True)
    paths = []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (14, 12), dtype=np.uint8)).resize((384, 448), Image.BICUBIC)
        grain = rng.integers(-12, 13, (448, 384))
        film = np.clip(np.asarray(coarse, dtype=np.int16) + grain, 0, 255).astype(np.uint8)
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(film).save(paths[-1], quality=80)
    return paths


def make_results(path: Path, questions: int, images: Sequence[Path], rng: np.random.Generator) -> Path:
    """Write a result file in the form of evaluate_token_prob.py."""
    results = []
    for number in range(questions):
        words = [PHRASES[index] for index in rng.integers(0, len(PHRASES), (2, 6)).ravel()]
        think = [" ".join(words[:6]), " ".join(words[6:])]
        answers = ["yes" if chance < 0.6 else "no" for chance in rng.random(2)]
        truth, text = (
            f"<think>{body}</think><answer>{answer}</answer>" for body, answer in zip(think, answers, strict=True)
        )
        tokens = [*re.findall(r"\s?\w+|[^\w]", text), ""]
        logps = np.round(-(rng.exponential(0.3, len(tokens)) ** 2), 5).tolist()
        results.append(
            {
                "id": number,
                "subject_id": f"p{number // 4}",
                "question": f"Is there any abnormality in the left lower lung zone, question {number}?",
                "answer": [answers[0]],
                "explanation": truth,
                "semantic_type": ("verify", "choose", "query")[number % 3],
                "content_type": ("presence", "anatomy", "attribute", "abnormality")[number % 4],
                "generated_text": text,
                "num_tokens": len(tokens),
                "image_paths": [str(images[number * len(images) // questions])],
                "generated_tokens": tokens,
                "token_logprobs": logps,
                "token_entropies": np.round(rng.exponential(0.4, len(tokens)), 5).tolist(),
                "token_ranks": [1 if logp > -0.7 else 2 for logp in logps],
                "token_alternatives": [
                    [{"token": token, "logprob": logp}, {"token": " other", "logprob": -1.25}]
                    for token, logp in zip(tokens, logps, strict=True)
                ],
            }
        )
    return write_json(path, {"dataset": "bench", "checkpoint": path.stem, "results": results}, indent=None)


def open_page(chromium: str, page: Path, folder: Path) -> dict[str, float]:
    """Open a page once. Returns milliseconds by the page's own clock, from the beginning of its navigation."""
    digest = base64.b64encode(hashlib.sha256(TIMER.encode()).digest()).decode()
    before, closing, after = page.read_text(encoding="utf-8").rpartition("</body>")
    text = f"{before}<script>{TIMER}</script>{closing}{after}".replace(
        "script-src ", f"script-src 'sha256-{digest}' ", 1
    )
    copy = folder / "timed.html"
    copy.write_text(text, encoding="utf-8")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    dom = subprocess.run([*command, "--dump-dom", copy.as_uri()], capture_output=True, text=True, check=True).stdout
    return json.loads(html.unescape(re.search(r'<pre id="times">(.*?)</pre>', dom)[1]))


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Make the report, open it, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=5000, help="questions of each run")
    parser.add_argument("--images", type=int, default=2500, help="images, shared by the questions")
    arguments = parser.parse_args(argv)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise UserError("Chromium is not on PATH, so the report cannot be opened; install it")
    with tempfile.TemporaryDirectory() as place:
        folder, rng = Path(place), np.random.default_rng(0)
        images = make_images(folder / "images", min(arguments.images, arguments.questions), rng)
        runs = {name: [make_results(folder / f"{name}.json", arguments.questions, images, rng)] for name in "ab"}
        started = time.perf_counter()
        print(compare_files(runs, ReportOptions(folder / "out", embed_images=True)))
        made = time.perf_counter() - started
        page = folder / "out" / "report.html"
        times = [open_page(chromium, page, folder) for _ in range(ROUNDS)]
        figures = {
            "questions": int(times[0]["cases"]),
            "images": len(images),
            "seconds_to_make": round(made, 1),
            "seconds_to_open": round(statistics.median(time["opened"] for time in times) / 1000, 2),
            "seconds_to_filter": round(statistics.median(time["filtered"] for time in times) / 1000, 2),
            "megabytes": round(page.stat().st_size / 1e6, 1),
        }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
