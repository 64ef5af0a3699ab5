"""The choice of the attention of packed rows, by device, flag and probe."""

from __future__ import annotations

import logging

import pytest
import torch

from swift.engine.attention import flex
from swift.engine.attention.choice import FLASH, FLEX, PARTS, attend_by, decoder_attention, packing_attentions
from swift.engine.graphs import WatchedGraphs
from swift.engine.logprobs import completion_logprobs
from swift.engine.probe import choose_paths
from swift.llm.template.protocol import EncodedPrompt
from tests.support.builders import random_completions, random_prompts, tiny_model


@pytest.fixture(autouse=True)
def backward_on_a_cpu(monkeypatch):
    """torch refuses gradients of uncompiled FlexAttention on a CPU, but computes them."""
    monkeypatch.setattr(torch.nn.attention.flex_attention, "_validate_device", lambda *_inputs: None)


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.INFO)
    logging.getLogger("chex").addHandler(caplog.handler)
    yield caplog
    logging.getLogger("chex").removeHandler(caplog.handler)


def test_beyond_the_limit_of_graphs_another_function_is_called_and_one_line_says_so(told):
    compiled = torch.compile(lambda value: value * value.shape[0], backend="eager", fullgraph=True, dynamic=False)
    watched = WatchedGraphs(compiled, lambda value: -value, "doubling", "the sign changes")
    with torch._dynamo.config.patch(recompile_limit=1):
        found = [float(watched(torch.ones(length))[0]) for length in (3, 4, 3, 5)]
    assert found == [3, -1, 3, -1]  # lengths of which there is a graph still take it
    assert [line for line in told.messages if "doubling" in line] == [
        "doubling reached the limit of 1 compilations; the sign changes"
    ]


@pytest.mark.parametrize(
    ("own", "device", "dropout", "asked", "names"),
    [
        ("sdpa", "cpu", 0.0, "auto", ["sdpa"]),
        ("sdpa", "cpu", 0.0, "flex_attention", ["sdpa"]),
        ("sdpa", "cuda", 0.0, "auto", [FLEX, "sdpa"]),
        ("sdpa", "cuda", 0.0, "flex_attention", [FLEX, "sdpa"]),
        ("sdpa", "cuda", 0.0, "flash_attn", [FLEX, "sdpa"]),  # flash-attn is not installed
        ("sdpa", "cuda", 0.0, "sdpa", ["sdpa"]),
        ("sdpa", "cuda", 0.1, "auto", ["sdpa"]),
        ("eager", "cuda", 0.0, "eager", ["eager"]),
        (FLASH, "cuda", 0.0, "flash_attn", [PARTS, FLASH]),
    ],
)
def test_packed_rows_take_what_the_device_and_the_flag_allow(own, device, dropout, asked, names):
    model = tiny_model(adapter=False)
    attend_by(model, own)
    model.config.attention_dropout = dropout
    assert packing_attentions(model, asked, torch.device(device)) == names


class Words:
    """A template that says which tokens end and which are banned."""

    banned_token_ids, stop_token_ids, pad_token_id = (5, 6), (0, 1), 0


def probed(model, monkeypatch):
    monkeypatch.setattr("swift.engine.probe.packing_attentions", lambda model, asked, device: [FLEX, "sdpa"])
    return choose_paths(model, Words(), [EncodedPrompt(torch.arange(7, 40), (), "")])


def test_the_probe_takes_flex_attention_where_it_agrees(monkeypatch, told):
    model = tiny_model()
    assert probed(model, monkeypatch).packed
    assert decoder_attention(model) == FLEX
    assert "log-probabilities: packed (packed_flex)" in told.text
    assert not any(parameter.requires_grad for parameter in model.parameters())


def broken(*_args, **_kwargs):
    raise RuntimeError("no compiler")


@pytest.mark.parametrize("kernel", [broken, lambda query, *_inputs, **_settings: query])
def test_the_probe_takes_sdpa_where_flex_attention_fails_or_differs(monkeypatch, told, kernel):
    monkeypatch.setattr(flex, "_kernel", lambda device: kernel)
    model = tiny_model()
    assert probed(model, monkeypatch).packed
    assert decoder_attention(model) == "sdpa"
    assert "packed_flex is not used: packed rows" in told.text


def test_the_probe_takes_sdpa_where_gradients_differ(monkeypatch, told):
    own = flex._kernel("cpu")
    monkeypatch.setattr(flex, "_kernel", lambda device: lambda query, *rest, **more: own(query.detach(), *rest, **more))
    model = tiny_model()
    assert probed(model, monkeypatch).packed
    assert decoder_attention(model) == "sdpa"
    assert "packed_flex is not used: gradients differ by" in told.text


def test_towers_keep_their_attention_and_other_rows_take_sdpa():
    model = tiny_model()
    prompts, completions = random_prompts(), random_completions(6)
    expected = completion_logprobs(model, prompts, completions, packed=False).logps
    attend_by(model, FLEX)
    assert model.model.embed_tokens_extend.image_embed.img_processor.config._attn_implementation == "sdpa"
    assert torch.equal(completion_logprobs(model, prompts, completions, packed=False).logps, expected)
