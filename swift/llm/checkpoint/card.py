"""The README.md of a saved checkpoint: its base, its training and how to load it, for people who find the folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from swift.llm.phi4_names import NATIVE_CLASS
from swift.llm.policy import is_phi4
from swift.utils.files import write_text

CARD_HEAD = "# {name}\n\nA {kind} of {model}, trained with CheX-Phi4MM.\n\n"
PHI4_LOADING = {
    "model": "Phi-4-multimodal",
    "base": "the native layout of the base",
    "loader": NATIVE_CLASS,
}
OTHER_LOADING = {"base": "the base", "loader": "AutoModelForImageTextToText"}
ADAPTER_LOADING = """## Load

    from swift.llm.checkpoint.load import load_policy
    policy = load_policy("{name}")  # base= names the base's folder if it was moved

or, on {base}, with transformers and PEFT:

    base = {loader}.from_pretrained(BASE)
    model = PeftModel.from_pretrained(base, "{name}", adapter_name="vision")
"""
FULL_LOADING = """## Load

    from swift.llm.checkpoint.load import load_policy
    policy = load_policy("{name}")

or with transformers and, if there is a vision-lora/, PEFT:

    base = {loader}.from_pretrained("{name}")
    model = PeftModel.from_pretrained(base, "{name}/vision-lora", adapter_name="vision")
"""


def write_card(folder: Path, facts: Mapping[str, object], model: nn.Module, *, adapter: bool) -> Path:
    """Write README.md of ``model``: one row per fact that is not None. A list is shown with commas."""
    rows = [f"| {name} | {_cell(value)} |" for name, value in facts.items() if value is not None]
    words = PHI4_LOADING if is_phi4(model) else OTHER_LOADING | {"model": type(model).__name__}
    kind = "vision adapter" if adapter else "full checkpoint"
    table = "\n".join(["| | |", "|---|---|", *rows]) + "\n\n"
    usage = (ADAPTER_LOADING if adapter else FULL_LOADING).format(name=folder.name, **words)
    return write_text(folder / "README.md", CARD_HEAD.format(name=folder.name, kind=kind, **words) + table + usage)


def _cell(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text.replace("|", r"\|").replace("\n", " ")
