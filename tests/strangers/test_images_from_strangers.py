"""Image paths of records by a stranger: nothing outside the image root is opened, and nothing is waited for."""

from __future__ import annotations

import json
import os

import pytest
from PIL import Image

from swift.llm.dataset import ReadingRules, check_records, load_records
from swift.utils.errors import UserError


@pytest.fixture
def root(tmp_path):
    (tmp_path / "images" / "dir.png").mkdir(parents=True)
    Image.new("L", (30, 30)).save(tmp_path / "outside.png")
    for name, target in (("zero", "/dev/zero"), ("environ", "/proc/self/environ"), ("loop", "loop.png"),
                         ("out", str(tmp_path / "outside.png"))):  # fmt: skip
        os.symlink(target, tmp_path / "images" / f"{name}.png")
    os.mkfifo(tmp_path / "images" / "pipe.png")
    return tmp_path


@pytest.mark.parametrize(
    "image",
    [
        "../outside.png", "images/../../outside.png", "/etc/passwd", "/dev/zero", "/dev/stdin", "/proc/self/environ",
        "zero.png", "environ.png", "loop.png", "out.png", "pipe.png", "dir.png", "file:///etc/passwd",
        "file:///dev/zero", "http://evil.example/a.png", "https://evil.example/a.png", "ftp://evil.example/a.png",
        "a.png\0.png", "a\nb.png", "/" * 4000, "x" * 5000, "\ud800.png", "..\\..\\etc\\passwd", "~root/a.png",
        "data:image/png;base64,AAAA", "data:image/svg+xml;base64,PHN2Zy8+", {"path": "/etc/passwd"},
        {"url": "http://evil.example/a.png"}, {"bytes": "AAAA"},
    ],
)  # fmt: skip
def test_a_path_that_leads_out_or_is_not_a_file_is_refused(root, image):
    (root / "data.json").write_text(json.dumps([{"images": [image], "question": "Is there?", "answer": "no"}]))
    with pytest.raises(UserError, match="record 0"):
        check_records(load_records([root / "data.json"], reading=ReadingRules(root / "images")))
