"""Choice of the attention implementation, and the vision tower's pooling."""

from __future__ import annotations

import logging

import pytest
import torch

from swift.llm.checkpoint import load as loading
from swift.llm.checkpoint.load import attention_implementation, load_policy
from swift.llm.policy import prompt_embeddings
from tests.support.builders import random_prompts


@pytest.mark.parametrize(
    ("asked", "cuda", "package", "taken"),
    [
        (None, True, True, "sdpa"),
        ("auto", True, True, "sdpa"),
        ("sdpa", True, True, "sdpa"),
        ("eager", False, False, "eager"),
        ("flash_attn", True, True, "flash_attention_2"),
        ("flash_attention_2", True, True, "flash_attention_2"),
        ("flash_attn", False, True, "sdpa"),
        ("flash_attn", True, False, "sdpa"),
        ("flash_attention_2", False, False, "sdpa"),
    ],
)
def test_flash_attention_becomes_sdpa_with_a_note_where_it_cannot_run(monkeypatch, caplog, asked, cuda, package, taken):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(loading, "is_flash_attn_2_available", lambda: package)
    logging.getLogger("chex").addHandler(caplog.handler)
    assert attention_implementation(asked) == taken
    logging.getLogger("chex").removeHandler(caplog.handler)
    noted = any("using sdpa instead" in message for message in caplog.messages)
    assert noted == (asked in ("flash_attn", "flash_attention_2") and taken == "sdpa")


def test_image_features_do_not_need_the_pooling_that_is_left_out(world):
    model = load_policy(world / "policy").model
    prompts = random_prompts()
    pooling = model.model.embed_tokens_extend.image_embed.img_processor.head
    assert pooling() is None
    without = prompt_embeddings(model, prompts.input_ids, prompts.image_inputs())
    del pooling.forward
    assert torch.equal(prompt_embeddings(model, prompts.input_ids, prompts.image_inputs()), without)
