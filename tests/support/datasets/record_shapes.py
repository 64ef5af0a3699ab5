"""Shapes of records as data sets have them: what is read from each, or the words of its refusal."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

ASKED = "Is there a pleural effusion?"
WHOLE = "<think>There is a small left pleural effusion.</think><answer>yes</answer>"
YES = "<answer>yes</answer>"
DICOM_ID = "02aa804e-bde0afdd-112c0b34-7bc16630-4e384014"
PATIENT, STUDY = "10000032", "50414267"
OUTSIDE = "leads outside the image root"
BLIND = "there is no image in it"
UNREAD = "looks like an image and is not read"


@dataclass(frozen=True)
class Shape:
    """A record, and the images and the solution that are read from it; ``refused`` has the words of a refusal."""

    name: str
    record: dict[str, Any]
    images: tuple[str, ...] = ("a.png",)  # names of the files; "" for an image within the record
    solution: str | None = YES
    refused: str | None = None


def encoded() -> str:
    """A PNG in base64."""
    stream = io.BytesIO()
    Image.new("L", (56, 56), 90).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def write_images(root: Path) -> None:
    """Write the image files that the shapes name into ``root``/images, and one outside of it."""
    images = root / "images"
    mimic = images / "files" / f"p{PATIENT[:2]}" / f"p{PATIENT}" / f"s{STUDY}"
    places = [images / name for name in ("a.png", "b.png", "c.jpg", "d.TIFF", "sub/e.png", "4.png")]
    for place in [*places, mimic / f"{DICOM_ID}.jpg", root / "outside" / "o.png"]:
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (56, 56), 90).save(place)
    (images / "link.png").symlink_to(root / "outside" / "o.png")


def _asks(**fields: Any) -> dict[str, Any]:
    return {"question": ASKED, "answer": ["yes"], **fields}


def _turns(*contents: Any) -> list[dict[str, Any]]:
    return [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, contents, strict=False)]


_SHARE_GPT = [{"from": "human", "value": f"<image>\n{ASKED}"}, {"from": "gpt", "value": WHOLE}]
_PARTS = [{"type": "text", "text": ASKED}]
_URL = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded()}"}}

# The forms that this project writes and reads itself.
_OWN = [
    Shape("training A", {"images": ["a.png"], "messages": _turns(ASKED), "solution": WHOLE}, solution=WHOLE),
    Shape("training B", {"image": "a.png", "messages": _turns(ASKED, WHOLE), "answer": "yes"}, solution=WHOLE),
    Shape("evaluation", _asks(explanation=WHOLE, image_ids=["a"]), solution=WHOLE),
    Shape("two images", _asks(explanation=WHOLE, image_ids=["a", "b"]), ("a.png", "b.png"), WHOLE),
    Shape("a result of an evaluation", _asks(image_ids=["a"], image_paths=["a.png"], generated_text="no")),
    Shape("base64", _asks(image=encoded()), ("",)),
]
# Names of image fields.
_FIELDS = [
    Shape("image_path", _asks(image_path="a.png")),
    Shape("image_paths", _asks(image_paths=["a.png", "b.png"]), ("a.png", "b.png")),
    Shape("image_name, as in VQA-RAD", _asks(image_name="c.jpg", image_organ="CHEST"), ("c.jpg",)),
    Shape("img_name and img_id, as in SLAKE", _asks(img_id=1, img_name="sub/e.png"), ("e.png",)),
    Shape("image_id as a number", _asks(image_id=4), ("4.png",)),
    Shape("image_id as a number after pandas", _asks(image_id=4.0), ("4.png",)),
    Shape("image_file", _asks(image_file="a.png")),
    Shape("img", _asks(img="a.png")),
    Shape("imagePath", _asks(imagePath="a.png")),
    Shape("Image Path", _asks(**{"Image Path": "a.png"})),
    Shape("image1 and image2", _asks(image2="b.png", image1="a.png"), ("a.png", "b.png")),
    Shape("img_path_1 alone", _asks(img_path_1="a.png")),
    Shape("image1 beside image", _asks(image="a.png", image1="b.png"), refused=UNREAD),
    Shape("image_base64", _asks(image_base64=encoded()), ("",)),
    Shape("names in capitals", {"Question": ASKED, "Answer": "yes", "Figure_path": "a.png"}),
    Shape("file_name", _asks(file_name="a.png")),
    Shape("dicom_id", _asks(dicom_id="a")),
    Shape("every column is filled", _asks(images=[], image="a.png", image_path=None, conversations=[], messages=None)),
    Shape("two fields of one image", _asks(image_id="a", image_path="images/a.png")),
    Shape("two fields of different images", _asks(image="a.png", image_path="b.png"), refused=UNREAD),
    Shape("an unknown field beside a known one", _asks(image="a.png", prior="b.png"), refused=UNREAD),
    Shape("an unknown field alone", _asks(frontal="a.png"), refused="field 'frontal' looks like one"),
    Shape("a video", _asks(image="a.png", videos=["v.mp4"]), refused=UNREAD),
    Shape("no image", _asks(), refused=BLIND),
    Shape("an empty list of images", _asks(images=[]), refused=BLIND),
]
# Values of image fields.
_VALUES = [
    Shape("objects with a path", _asks(images=[{"path": "a.png", "bytes": None}])),
    Shape("objects with bytes", _asks(images=[{"path": None, "bytes": encoded()}]), ("",)),
    Shape("objects with numbers for bytes", _asks(image={"bytes": list(base64.b64decode(encoded()))}), ("",)),
    Shape("a list as text", _asks(images="['a.png', 'b.png']"), ("a.png", "b.png")),
    Shape("a file's address", _asks(image="file://{root}/images/a.png")),
    Shape("a web address beside a file", _asks(image_url="https://example.org/x.png", image_id="a")),
    Shape("a web address in another field", _asks(image="a.png", origin="https://example.org/x.png")),
    Shape("a web address", _asks(image="https://example.org/a.png"), refused="download the image"),
    Shape("a number", _asks(images=[3]), refused="must be a path or base64 text"),
]
# Places of files.
_FILES = [
    Shape("an identifier of a .jpg", _asks(image_ids=["c"]), ("c.jpg",)),
    Shape("an identifier with its extension", _asks(image_ids=["a.png"])),
    Shape("an extension in capitals", _asks(image_ids=["d"]), ("d.TIFF",)),
    Shape("another extension than the file's", _asks(image="a.jpg")),
    Shape("backslashes", _asks(image="sub\\e.png"), ("e.png",)),
    Shape("blanks around a name", _asks(image=" a.png ")),
    Shape("MIMIC's tree", _asks(image_id=DICOM_ID, subject_id=10000032, study_id=50414267), (f"{DICOM_ID}.jpg",)),
    Shape(
        "MIMIC's tree after pandas",
        _asks(image_id=DICOM_ID, subject_id=10000032.0, study_id="50414267.0"),
        (f"{DICOM_ID}.jpg",),
    ),
    Shape(
        "MIMIC's path on another disk",
        _asks(image_path=f"/disk/files/p10/p{PATIENT}/s{STUDY}/{DICOM_ID}.jpg"),
        (f"{DICOM_ID}.jpg",),
    ),
    Shape("a missing file", _asks(image="gone.png"), refused="gone.png is missing"),
    Shape("a path that leaves the folder", _asks(image="../outside/o.png"), refused=OUTSIDE),
    Shape("a link that leaves the folder", _asks(image="link.png"), refused="pass --allow_links"),
]
# Questions and conversations.
_CONVERSATIONS = [
    Shape("query and response", {"query": ASKED, "response": WHOLE, "images": ["a.png"]}, solution=WHOLE),
    Shape("prompt and completion", {"prompt": ASKED, "completion": WHOLE, "image": "a.png"}, solution=WHOLE),
    Shape("instruction and output", {"instruction": ASKED, "output": WHOLE, "image": "a.png"}, solution=WHOLE),
    Shape("input and output", {"input": ASKED, "output": WHOLE, "image": "a.png"}, solution=WHOLE),
    Shape("ShareGPT", {"conversations": _SHARE_GPT, "image": "a.png"}, solution=WHOLE),
    Shape("a placeholder without an image", {"conversations": _SHARE_GPT}, refused=BLIND),
    Shape(
        "content lists with an image",
        {"messages": _turns([{"type": "image", "image": "a.png"}, *_PARTS], [{"type": "text", "text": WHOLE}])},
        solution=WHOLE,
    ),
    Shape("content lists with image_url", {"messages": _turns([*_PARTS, _URL], WHOLE)}, ("",), WHOLE),
    Shape(
        "content lists with a source",
        {"messages": _turns([{"type": "image", "source": {"type": "base64", "data": encoded()}}, *_PARTS], WHOLE)},
        ("",),
        WHOLE,
    ),
    Shape(
        "content lists beside a field",
        {"messages": _turns([{"type": "image"}, *_PARTS], WHOLE), "images": ["a.png"]},
        solution=WHOLE,
    ),
    Shape(
        "images in both places",
        {"messages": _turns([{"type": "image", "image": "b.png"}, *_PARTS], WHOLE), "images": ["a.png"]},
        refused="keep one of the two",
    ),
    Shape("a path within the text", {"query": f"<img>a.png</img>{ASKED}", "response": WHOLE}, solution=WHOLE),
    Shape("nothing asked", {"image": "a.png", "answer": "yes"}, refused="the record asks nothing"),
    Shape("sound within the turns", {"messages": _turns([{"type": "audio"}], WHOLE)}, refused="only text and images"),
]
# Answers alone.
_ANSWERS = [
    Shape("an answer as text", {"question": ASKED, "answer": "Yes", "image": "a.png"}, solution="<answer>Yes</answer>"),
    Shape("answers", {"question": ASKED, "answers": ["yes"], "image": "a.png"}),
    Shape("ground_truth", {"question": ASKED, "ground_truth": "yes", "image": "a.png"}),
    Shape("several answers", _asks(answer=["ap", "pa"], image="a.png"), solution="<answer>ap, pa</answer>"),
    Shape("no answer to a question for a list", _asks(answer=[], image="a.png"), solution="<answer></answer>"),
    Shape("a number as answer", _asks(answer=3, image="a.png"), solution="<answer>3</answer>"),
    Shape("a number after pandas", _asks(answer=3.0, image="a.png"), solution="<answer>3</answer>"),
    Shape("true as answer", _asks(answer=True, image="a.png")),
    Shape("false in a list", _asks(answer=[False], image="a.png"), solution="<answer>no</answer>"),
    Shape("an object as answer", _asks(answer={"text": "yes"}, image="a.png"), refused="'answer'"),
    Shape("neither answer nor solution", {"question": ASKED, "image": "a.png"}, refused="answer"),
]
SHAPES = [*_OWN, *_FIELDS, *_VALUES, *_FILES, *_CONVERSATIONS, *_ANSWERS]


def record_of(shape: Shape, root: Path, number: int = 0) -> dict[str, Any]:
    """The shape's record in the world at ``root``, with a patient, a kind and a number of its own."""
    own = {"idx": number, "subject_id": f"q{number}", "question_type": "presence"}
    image = shape.record.get("image")
    located = {"image": image.format(root=root)} if isinstance(image, str) and "{root}" in image else {}
    return own | shape.record | located
