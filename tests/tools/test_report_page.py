"""Content of report.html: questions, tokens as columns, images that may be shown, and the page's own policy."""

import base64
import hashlib
import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from tests.support.report_runs import TRUTH, WRONG, result, run_flags, write, write_runs
from tools import compare_results
from tools.reports.page import render_page
from tools.reports.thumbnails import THUMBNAIL_SIDES, image_addresses, is_drawn
from tools.reports.token_columns import token_columns


def compare(files, output, *flags) -> int:
    return compare_results.main(run_flags(files, output, *flags))


@pytest.fixture
def files(tmp_path):
    return write_runs(tmp_path)


def page_data(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    return json.loads(page.partition('id="data">')[2].partition("</script>")[0])


def test_report_is_one_file_that_may_load_and_run_nothing_else(files, tmp_path):
    compare(files, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"\[\[(policy|title|style|body|data|script)\]\]", page)
    assert not re.search(r"\[\[(policy|title|style|body|data|script)\]\]", page)
    assert "https://" not in page
    assert page.replace("http://www.w3.org/2000/svg", "").count("http://") == 0
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src 'none'; img-src data: file:; ")
    for directive, tag in (("style-src", "style"), ("script-src", "script")):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_every_question_is_there_with_what_each_run_said(files, tmp_path):
    compare(files, tmp_path / "out")
    data = page_data(tmp_path / "out")
    overlap = data["rules"].index("answer_overlap")
    right = [[case["runs"][run]["right"] >> overlap & 1 for case in data["cases"]] for run in range(3)]
    assert right == [[1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1]]
    third = data["cases"][2]
    assert (third["question"], third["answer"], third["images"]) == ("Is there an effusion?", ["yes"], [0])
    assert third["runs"][1]["text"] == WRONG
    assert third["runs"][1]["answer"] == ["no"]
    entities, relations = third["facts"]
    named = {
        data["terms"][word]: data["entity_types"][kind]["name"]
        for word, kind in zip(*[iter(entities)] * 2, strict=True)
    }
    assert named["effusion"] == "disorder_present"
    triples = {
        (data["terms"][source], data["relation_types"][kind], data["terms"][target])
        for source, target, kind in zip(*[iter(relations)] * 3, strict=True)
    }
    assert ("effusion", "located_at", "pleural") in triples


def test_text_cannot_leave_its_element_and_slots_in_it_are_text():
    page = render_page("report", "[[script]] <b>", {"title": "</script><script>alert(1)</script><!-- [[body]]"})
    assert page.count("</script>") == 2
    assert page.count("<!--") == 0
    assert "<title>[[script]] &lt;b&gt;</title>" in page
    assert "[[body]]" in page


def test_radiographs_are_embedded_only_when_drawn_or_asked_for(files, tmp_path):
    def source(*flags):
        compare(files, tmp_path / "out", *flags)
        policy = re.search(r"img-src ([^;]*);", (tmp_path / "out" / "report.html").read_text(encoding="utf-8"))[1]
        (address,) = page_data(tmp_path / "out")["images"]  # one image, though six questions show it
        return address[:23], policy

    picture = tmp_path / "world" / "images" / "demo-1.png"
    embedded = ("data:image/jpeg;base64,", "data:")
    assert source() == (picture.as_uri()[:23], "data: file:")
    assert source("--embed_images") == embedded
    (tmp_path / "world" / "manifest.json").write_text('{"arguments": {}, "counts": {}, "sha256": "0"}')
    assert is_drawn(picture)
    assert source() == embedded
    assert not is_drawn(picture.with_name("p10.png"))


def test_a_missing_image_is_an_error_only_where_it_must_be_embedded(files, tmp_path, capsys):
    (tmp_path / "world" / "manifest.json").write_text('{"arguments": {}, "counts": {}, "sha256": "0"}')
    (tmp_path / "world" / "images" / "demo-1.png").unlink()
    assert compare(files, tmp_path / "out") == 0
    assert compare(files, tmp_path / "out", "--embed_images") == 2
    assert "demo-1.png is missing" in capsys.readouterr().err


def test_an_image_that_is_no_file_is_not_shown(tmp_path):
    """Blank images and images in the annotation file have no path."""
    results = [result(number, TRUTH, "") | {"image_paths": [None]} for number in range(2)]
    files = {name: write(tmp_path / f"{name}.json", results) for name in ("sft", "grpo")}
    assert compare(files, tmp_path / "out", "--embed_images") == 0
    data = page_data(tmp_path / "out")
    assert data["images"] == []
    assert [case["images"] for case in data["cases"]] == [[], []]


def test_images_shrink_to_the_room_there_is(tmp_path):
    # Every second one is flat, and those are the ones measured first: the estimate must not be the last word.
    rng = np.random.default_rng(0)
    paths = []
    for number in range(32):
        paths.append(str(tmp_path / f"{number}.png"))
        grain = rng.integers(0, 255, (400, 300), dtype=np.uint8)
        Image.fromarray(grain if number % 2 else grain * 0).save(paths[-1])

    def shrunk(limit):
        addresses = image_addresses(paths, embed=True, limit=limit)
        (tmp_path / "one.jpg").write_bytes(base64.b64decode(addresses[0].partition(",")[2]))
        with Image.open(tmp_path / "one.jpg") as image:
            return max(image.size), sum(map(len, addresses))

    assert shrunk(10**9)[0] == THUMBNAIL_SIDES[0]
    middle, size = shrunk(150_000)
    assert size <= 150_000
    assert THUMBNAIL_SIDES[-1] < middle < THUMBNAIL_SIDES[0]
    assert shrunk(1)[0] == THUMBNAIL_SIDES[-1]


def test_token_columns_are_short_and_exact_to_a_hundredth():
    alternatives = [
        [{"token": "x", "logprob": -4.0}],
        [{"token": "y", "logprob": -0.5}, {"token": "z", "logprob": -9.0}],
        [],
    ]
    columns = token_columns(
        "a🫁é", ["a🫁", "é", ""], [-0.004, -1.239, -math.inf], [0.0, 1.006, 0.5], [1, 3, 1], alternatives
    )
    assert columns == {
        "nats": [0, 124, None],
        "lengths": [3, 1, 0],  # the lungs are two UTF-16 units
        "entropies": [0, 101, 50],
        "ranks": {1: 3},
        "others": {1: [["y", 50], ["z", 900]], 2: []},  # the first token was nearly certain
    }


def test_tokens_that_do_not_join_to_the_text_keep_their_own():
    assert token_columns("ab", ["a", "c"], [-1.0, -2.0]) == {"nats": [100, 200], "texts": ["a", "c"]}


@pytest.mark.parametrize(("tokens", "logps"), [(None, None), ([], []), (["a"], None), (["a", "b"], [-1.0])])
def test_no_columns_without_a_probability_for_every_token(tokens, logps):
    assert token_columns("ab", tokens, logps) is None


def test_questions_with_tokens_stay_small(tmp_path, monkeypatch):
    # 100 tokens with probabilities and entropies in under 2 kB a question beside the text's 0.6 kB, so 5,000 questions
    # of two runs stay under 30 MB with room for images; alternatives have a budget of their own.
    monkeypatch.setattr("tools.reports.evaluation_page.ALTERNATIVES_BYTES", 200_000)
    rng = np.random.default_rng(1)
    words = [" There", " is", " a", " small", " left", " pleural", " effusion", "."]
    results = []
    for number in range(100):
        tokens = [words[index] for index in rng.integers(0, 8, 100)]
        scores = {
            "generated_tokens": tokens,
            "token_logprobs": (-rng.exponential(0.3, 100)).tolist(),
            "token_entropies": rng.exponential(0.3, 100).tolist(),
            "token_ranks": rng.integers(1, 3, 100).tolist(),
            "token_alternatives": [[{"token": " other", "logprob": -1.0}] * 5] * 100,
        }
        results.append(result(number, "".join(tokens), "missing.png", **scores))
    assert compare({"sft": write(tmp_path / "run_results.json", results)}, tmp_path / "out") == 0
    cases = page_data(tmp_path / "out")["cases"]
    sizes = [len(json.dumps(case["runs"][0]["tokens"] | {"others": {}}, separators=(",", ":"))) for case in cases]
    assert max(sizes) < 2000
    alternatives = [case["runs"][0]["tokens"].get("others", {}) for case in cases]
    assert 0 < len(json.dumps(alternatives, separators=(",", ":"))) < 210_000
    assert alternatives[0]
    assert not alternatives[-1]
