"""Visits of a page in headless Chromium: a script at the end of a copy of the page acts and reports."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

_WATCH = """
window.seen = { errors: [], blocked: [] };
addEventListener("error", (event) => seen.errors.push(event.message), false);
addEventListener("securitypolicyviolation", (event) => seen.blocked.push(event.blockedURI));
"""
_ACT = """
(async () => {
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const all = (selector) => [...document.querySelectorAll(selector)];
  const one = (selector) => document.querySelector(selector);
  const press = (key, target = document.activeElement) =>
    target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const pick = (label, value) => {
    const own = all("label").find((element) => element.firstChild.textContent.trim() === label);
    const select = own.querySelector("select");
    select.value = value;
    select.dispatchEvent(new Event("change"));
  };
  const type = (text) => { const query = one("#query"); query.value = text; query.dispatchEvent(new Event("input")); };
  const outcome = {};
  try { STEPS } catch (error) { seen.errors.push(String(error)); }
  await pause(50);
  Object.assign(outcome, seen, { resources: performance.getEntriesByType("resource").map((entry) => entry.name) });
  const place = document.createElement("pre");
  place.id = "outcome";
  place.textContent = JSON.stringify(outcome);
  document.body.append(place);
})();
"""


@dataclass(frozen=True)
class Visit:
    """Result of a visit: what the steps put into ``outcome``, and the network addresses that Chromium requested."""

    outcome: dict[str, Any]
    addresses: set[str]


def visit(page: Path, folder: Path, steps: str = "", *, size: str = "1300,1000", fragment: str = "") -> Visit:
    """Open a copy of ``page``, run ``steps`` at its end, and wait for them. ``folder`` takes what Chromium writes."""
    folder.mkdir(parents=True, exist_ok=True)
    act = _ACT.replace("STEPS", steps)
    text = page.read_text(encoding="utf-8")
    digests = " ".join(f"'sha256-{_digest(script)}'" for script in (_WATCH, act))
    text = text.replace("script-src ", f"script-src {digests} ", 1)
    text = text.replace("<title>", f"<script>{_WATCH}</script><title>", 1)
    before, closing, after = text.rpartition("</body>")
    copy, log = folder / "page.html", folder / "net.json"
    copy.write_text(f"{before}<script>{act}</script>{closing}{after}", encoding="utf-8")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={folder / 'profile'}",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--log-net-log={log}", f"--window-size={size}", "--dump-dom",
        "--virtual-time-budget=10000", copy.as_uri() + fragment,
    ]  # fmt: skip
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="outcome">(.*?)</pre>', process.stdout, re.DOTALL)
    assert found, f"the page's script did not come to its end: {process.stdout[-2000:]}"
    shutil.rmtree(folder / "profile", ignore_errors=True)
    return Visit(json.loads(html.unescape(found[1])), _addresses(log))


def _addresses(log: Path) -> set[str]:
    """Requested network addresses, without those of the browser's maker."""
    found = set(re.findall(r'"url":"((?:https?|wss?|ftp)://[^"]+)"', log.read_text(encoding="utf-8")))
    return {
        address for address in found if not re.match(r"https?://[\w.-]*\.(google|googleapis|gstatic)\.com/", address)
    }


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
