"""Sections of radiology reports, and the places that reports are read from."""

import csv
import json

import pytest

from utils.mimic import read_reports, report_text, split_sections, study_key

REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with cough  // pneumonia?

 COMPARISON:  None.

 FINDINGS:

 There is a small left effusion.
 LUNGS: No consolidation.

 IMPRESSION:

 Small left effusion
"""
FREE = """ FINAL REPORT
 CHEST, TWO VIEWS

 HISTORY:  Cough.

 The heart is enlarged.
 No effusion.

 NOTIFICATION:  Told by phone.
"""


def test_sections_are_found_by_their_headings():
    assert split_sections(REPORT) == {
        "examination": "CHEST (PA AND LAT).",
        "history": "___F with cough  // pneumonia?",
        "comparison": "None.",
        "findings": "There is a small left effusion.\n LUNGS: No consolidation.",
        "impression": "Small left effusion.",
    }


def test_findings_and_impression_are_what_was_seen():
    assert report_text(REPORT) == ("There is a small left effusion.\n LUNGS: No consolidation.\nSmall left effusion.")
    assert report_text(REPORT, ["impression"]) == "Small left effusion."


@pytest.mark.parametrize(
    ("report", "text"),
    [
        ("FINDINGS AND IMPRESSION: No effusion.", "No effusion."),
        ("Findings:  No effusion.\nConclusion : Normal.", "No effusion.\nNormal."),
        ("IMPRESSION: Old.\nADDENDUM: x.\nIMPRESSION: New.", "Old.\nNew."),
        ("We saw findings: none", "We saw findings: none"),
        (FREE, "The heart is enlarged.\n No effusion."),
        ("WET READ: 8 am.\n\nNo effusion.\n\n\n", "No effusion."),
        ("No effusion.", "No effusion."),
        ("HISTORY: Cough.", ""),
        ("  \n\n ", ""),
        ("", ""),
    ],
)
def test_what_was_seen_in_reports_of_many_shapes(report, text):
    assert report_text(report) == text


ONE_LINE = (
    "FINAL REPORT EXAMINATION: CHEST INDICATION: Cough, edema? COMPARISON: None. "
    "FINDINGS: Heart large. IMPRESSION: No effusion."
)
SHAPES = [
    ("", "", "nothing"),
    ("INDICATION Cough, edema?", "", "an indication alone"),
    ("**Indication** Edema?", "", "an indication in bold"),
    ("Indication\nEdema?", "", "an indication on a line of its own"),
    ("Clinical information: edema?", "", "clinical information"),
    ("CLINICAL DATA: edema?", "", "clinical data"),
    ("PROVIDED CLINICAL HISTORY: edema?", "", "provided history"),
    ("REASON FOR THE EXAM: edema?\n\nHeart large.", "Heart large.", "text after an indication"),
    ("Chest, two views. INDICATION: edema?", "Chest, two views.", "text before an indication"),
    ("Heart large. Indication: edema?", "Heart large.", "an indication behind a sentence"),
    (ONE_LINE, "Heart large.\nNo effusion.", "all headings on one line"),
    (ONE_LINE.replace(":", " :"), "Heart large.\nNo effusion.", "blanks before colons"),
    ("Indication: edema? Findings: Heart large. Impression: Stable.", "Heart large.\nStable.", "one line, one capital"),
    ("FINDINGS Heart large.\nIMPRESSION No effusion.", "Heart large.\nNo effusion.", "capitals without a colon"),
    ("FINDINGS - Heart large.", "Heart large.", "a dash in place of a colon"),
    ("Findings\nHeart large.\n\nImpression\nStable.", "Heart large.\nStable.", "alone on lines"),
    ("**FINDINGS:** Heart large.\n**IMPRESSION:** Stable.", "Heart large.\nStable.", "bold with the colon inside"),
    ("**Findings**: Heart large.\n\n**Impression**: Stable.", "Heart large.\nStable.", "bold with the colon outside"),
    ("**Findings** Heart large.", "Heart large.", "bold without a colon"),
    ("__Findings:__ Heart large.", "Heart large.", "bold by underscores"),
    ("<b>Findings:</b> Heart large. <b>Impression:</b> Stable.", "Heart large.\nStable.", "bold in HTML on one line"),
    ("## Findings\nHeart large.\n## Impression\nStable.", "Heart large.\nStable.", "headings in Markdown"),
    ("**Indication:** edema? **Findings:** Heart large.", "Heart large.", "bold on one line"),
    ("No new findings. Heart large.", "No new findings. Heart large.", "the word in a sentence"),
    ("Other findings: none.", "Other findings: none.", "small letters before a colon"),
    ("The impression of edema is old.", "The impression of edema is old.", "the word at the beginning of a sentence"),
    ("FINDINGS: LUNGS: Clear. HEART: Large.", "LUNGS: Clear. HEART: Large.", "headings of organs open no section"),
]


@pytest.mark.parametrize(("report", "text", "reason"), SHAPES)
def test_headings_are_found_however_they_are_set(report, text, reason):
    assert report_text(report) == text, reason


@pytest.mark.parametrize("report", [report for report, _, _ in SHAPES])
def test_an_indication_never_counts_as_seen(report):
    seen = report_text(report)
    assert "edema?" not in seen
    assert "Cough" not in seen


@pytest.mark.parametrize(
    ("several", "expected"),
    [("join", "Heart large.\nStable."), ("first", "Heart large."), ("last", "Stable.")],
)
@pytest.mark.parametrize("kind", ["csv", "folder"])
def test_several_texts_of_one_study_by_option(tmp_path, several, expected, kind):
    texts = ["Heart large.", "Stable.", "Stable."]
    if kind == "csv":
        source = tmp_path / "reports.csv"
        source.write_text("study_id,findings\n" + "".join(f"s50,{text}\n" for text in texts))
    else:
        source = tmp_path
        for number, text in enumerate(texts):
            (tmp_path / str(number)).mkdir()
            (tmp_path / str(number) / "s50.txt").write_text(f"FINDINGS: {text}")
    assert read_reports(source, several=several) == {"50": expected}
    with pytest.raises(ValueError, match=r"study 50 comes twice.*--several join, first, last"):
        read_reports(source)


@pytest.mark.parametrize(("study", "key"), [("s504", "504"), (504, "504"), (504.0, "504"), (" s1x ", "s1x")])
def test_a_study_has_one_name(study, key):
    assert study_key(study) == key


def test_a_folder_of_reports_is_searched_to_any_depth(tmp_path):
    for study, text in (("50", "FINDINGS: No effusion."), ("51", "IMPRESSION: Effusion."), ("52", "Edema.")):
        folder = tmp_path / "files" / "p10" / f"p100{study}"
        folder.mkdir(parents=True)
        (folder / f"s{study}.txt").write_text(text, encoding="utf-8")
    assert read_reports(tmp_path) == {"50": "No effusion.", "51": "Effusion.", "52": "Edema."}
    assert read_reports(tmp_path, ["s51", 52, "99"]) == {"51": "Effusion.", "52": "Edema."}


def test_a_report_that_is_not_utf8_is_read_all_the_same(tmp_path):
    (tmp_path / "s1.txt").write_bytes(b"No effusion\xff.")
    assert read_reports(tmp_path) == {"1": "No effusion\ufffd."}


def test_a_sectioned_csv_is_read(tmp_path):
    path = tmp_path / "mimic_cxr_sectioned.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["study", "impression", "findings", "last_paragraph", "comparison"])
        writer.writerow(["s1", "Small effusion.", "Effusion,\nsmall.", "", "None."])
        writer.writerow(["s2", "", "", "No effusion. ", ""])
    assert read_reports(path) == {"1": "Effusion,\nsmall.\nSmall effusion.", "2": "No effusion."}


@pytest.mark.parametrize("lines", [True, False])
def test_json_and_json_lines_are_read(tmp_path, lines):
    rows = [
        {"study_id": 1, "report": REPORT},
        {"study_id": "s2", "text": "No effusion."},
        {"study_id": 3.0, "findings": float("nan"), "impression": "Edema"},
        {"study_id": 2, "text": "No effusion."},
    ]
    path = tmp_path / ("reports.jsonl" if lines else "reports.json")
    path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows), encoding="utf-8")
    assert read_reports(path, [1, 2, 3]) == {"1": report_text(REPORT), "2": "No effusion.", "3": "Edema."}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("r.xlsx", "", ["a folder of .txt reports"]),
        ("r.json", "[{", ["cannot be read"]),
        ("r.json", "[3]", ["record 0", "not 3"]),
        ("r.json", '[{"report": "x"}]', ["record 0", "no field study_id"]),
        ("r.json", '[{"study_id": 1}]', ["record 0", "no field report"]),
        (
            "r.jsonl",
            '{"study_id": 1, "report": "x"}\n\n{"study_id": 2, "report": ["x"]}',
            ["line 3", "'report'", "text"],
        ),
        ("r.jsonl", '{"study_id": 1, "report": "x"}\n{"study_id"', ["line 2", "not JSON"]),
        ("r.csv", "study_id,text\n1,a\n1,b\n", ["line 3", "study 1", "twice"]),
        ("r.csv", "report,text\n1,a\n", ["line 2", "no field study_id"]),
        ("absent.csv", None, ["cannot be read"]),
    ],
)
def test_a_source_that_cannot_be_read_is_named_with_its_row(tmp_path, name, content, words):
    path = tmp_path / name
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="reports") as error:
        read_reports(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_two_files_of_one_study_that_differ_are_an_error(tmp_path):
    (tmp_path / "s1.txt").write_text("No effusion.")
    (tmp_path / "1.txt").write_text("Effusion.")
    with pytest.raises(ValueError, match="study 1 comes twice"):
        read_reports(tmp_path)
    assert read_reports(tmp_path, ["2"]) == {}
