"""Model folders with wrong values in any configuration, and adapters whose files are cut or bent: loaded, or refused
in one line, and left as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.llm.checkpoint.load import load_policy
from tests.support.fuzzing.values import damaged, documents, fuzz, json_bytes, mutated, refusal, snapshot

CONFIGS = ("config.json", "generation_config.json", "preprocessor_config.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def policy(world, tmp_path_factory) -> Path:
    """A copy of the tiny policy."""
    return Path(shutil.copytree(world / "policy", tmp_path_factory.mktemp("fuzz") / "policy"))


def load(folder: Path, name: str, content: bytes) -> None:
    """Load the policy with another file in the place of one of its own, which is put back."""
    own = (folder / name).read_bytes()
    (folder / name).write_bytes(content)
    before = snapshot(folder)
    try:
        refusal(lambda: load_policy(folder))
        assert snapshot(folder) == before
    finally:
        (folder / name).write_bytes(own)


@fuzz(12)
@given(data=st.data(), name=st.sampled_from(CONFIGS))
def test_configurations(policy, data, name):
    load(policy, name, data.draw(documents(json.loads((policy / name).read_text()))))


@fuzz(8)
@given(data=st.data())
def test_configurations_of_an_adapter(policy, data):
    name = "vision-lora/adapter_config.json"
    load(policy, name, data.draw(documents(json.loads((policy / name).read_text()))))


@st.composite
def tensors(draw, content: bytes) -> bytes:
    """A safetensors file with another header, or cut, or with other bytes near its beginning."""
    size = int.from_bytes(content[:8], "little")
    header, rest = json.loads(content[8 : 8 + size]), content[8 + size :]
    if draw(st.booleans()):
        text = json_bytes(draw(mutated(header, most=2)))
        return len(text).to_bytes(8, "little") + text + rest
    return draw(damaged(content[: 8 + size])) + (
        rest if draw(st.booleans()) else rest[: draw(st.integers(0, len(rest)))]
    )


@fuzz(20)
@given(data=st.data(), name=st.sampled_from(["vision-lora/adapter_model.safetensors", "model.safetensors"]))
def test_tensors(policy, data, name):
    load(policy, name, data.draw(tensors((policy / name).read_bytes())))
