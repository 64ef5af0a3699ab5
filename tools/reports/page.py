"""Pages in one file: frame, style, script and data, and a security policy that blocks every request to the network.

`templates/frame.html` is the frame of every page. A page NAME adds `NAME.html` (its body), `NAME.css` and its scripts
to the shared ones. Data comes as JSON, and the scripts show it as text only.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TEMPLATE_FOLDER = Path(__file__).parent / "templates"
SCRIPTS = {
    "report": ("shared", "report", "looking", "questions"),
    "training": ("shared", "training"),
    "audit": ("shared", "audit"),
}


def render_page(name: str, title: str, data: Mapping[str, Any], *, image_files: bool = False) -> str:
    """The page ``name`` with its data. The policy allows the style and scripts of the page, and images from data URIs.
    With ``image_files`` it allows images from files too."""
    style = _read("shared.css") + _read(f"{name}.css")
    script = '"use strict";\n' + "".join(_read(f"{part}.js") for part in SCRIPTS[name])
    policy = (
        f"default-src 'none'; img-src data:{' file:' if image_files else ''}; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": policy,
        "title": html.escape(title),
        "style": style,
        "body": _read(f"{name}.html"),
        "data": encode_data(data),
        "script": script,
    }
    # Only the slots of the frame are filled: a text of the page may itself contain "[[data]]".
    pieces = re.split(r"\[\[(\w+)\]\]", _read("frame.html"))
    return "".join(parts[piece] if position % 2 else piece for position, piece in enumerate(pieces))


def encode_data(data: Any) -> str:
    """JSON that cannot close its HTML element. Half a surrogate pair becomes "?"."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").encode("utf-8", "replace").decode("utf-8")


def data_uri(content: bytes, kind: str) -> str:
    """The data URI of an image. ``kind`` is jpeg or png."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _read(name: str) -> str:
    return (TEMPLATE_FOLDER / name).read_text(encoding="utf-8")
