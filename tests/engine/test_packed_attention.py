"""Attention in packed rows is the same under a dense mask, by FlexAttention, and by flash attention in parts."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch.nn.attention.flex_attention import create_block_mask
from torch.nn.functional import scaled_dot_product_attention

from swift.engine.attention import flex, parts, varlen
from swift.engine.attention.choice import FLASH, FLEX, PARTS, attend_by
from swift.engine.attention.flex import attend_flex, block_mask, pairs, sight_rule
from swift.engine.attention.parts import attend_parts, parts_mask
from swift.engine.attention.varlen import FlashKernel, Part, PartCall
from swift.engine.attention.views import LayerView, dense_mask
from swift.engine.graphs import WatchedGraphs
from swift.engine.logprobs import completion_logprobs, why_plain
from swift.engine.long_groups import Passes, sliced_loss
from swift.engine.packing import PADDING, PackedRows
from swift.llm.policy import prompt_embeddings
from tests.support.builders import random_completions, random_prompts, tiny_config, tiny_model, train_adapter_and_head
from tests.support.slow_logprobs import SlowKernel

TOLERANCE = 1e-5
HEADS, SHARED, SIZE = 6, 2, 8  # three query heads to a head of keys, as in Phi-4


@pytest.fixture
def slow_kernel(monkeypatch):
    monkeypatch.setattr(varlen, "kernel", SlowKernel())


@pytest.fixture(autouse=True)
def backward_on_a_cpu(monkeypatch):
    """torch refuses gradients of uncompiled FlexAttention on a CPU, but computes them."""
    monkeypatch.setattr(torch.nn.attention.flex_attention, "_validate_device", lambda *_inputs: None)


def random_rows(seed: int, *, rows: int = 3, group: int = 4, longest_prompt: int = 20, queries=None) -> PackedRows:
    """Left-padded prompts of random lengths, each with completions of random lengths, padded on the right."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high + 1, shape, generator=generator)

    prompts, lengths = draw(1, longest_prompt, rows), draw(1, 9, rows, group)
    width = longest_prompt + int(lengths.sum(dim=1).max())
    segments, order = torch.full((rows, width), PADDING), torch.zeros(rows, width, dtype=torch.long)
    for row in range(rows):
        prompt = int(prompts[row])
        segments[row, longest_prompt - prompt : longest_prompt] = 0
        order[row, longest_prompt - prompt : longest_prompt] = torch.arange(prompt)
        start = longest_prompt
        for number, length in enumerate(lengths[row].tolist(), 1):
            segments[row, start : start + length] = number
            order[row, start : start + length] = prompt + torch.arange(length)
            start += length
    return PackedRows(segments, order, width if queries is None else width - longest_prompt)


def view_of(seed: int, window: int | None = None, images: bool = False, queries: str | None = None) -> LayerView:
    rows = random_rows(seed, queries=queries)
    image_of = (rows.segments == 0) & (rows.order % 7 > 3) if images else None
    if image_of is not None:
        image_of = torch.where(image_of, rows.order // 7 + 1, 0)
    return LayerView(rows, window, image_of)


VIEWS = {
    "all": {},
    "window": {"window": 6},
    "window of one": {"window": 1},
    "completions ask": {"queries": "completions"},
    "completions ask a window": {"queries": "completions", "window": 6},
}
WITH_IMAGES = VIEWS | {"images": {"images": True}, "images and window": {"images": True, "window": 6}}


class Module(torch.nn.Module):
    """The attributes that attention functions read of their module."""

    num_key_value_groups = HEADS // SHARED
    is_causal = True


def results_and_gradients(view: LayerView, attend) -> list[torch.Tensor]:
    """The result at tokens that are not padding, and the gradients of queries, keys and values."""
    generator = torch.Generator().manual_seed(1)
    rows, length = view.rows.segments.shape
    shapes = [(rows, HEADS, view.rows.queries, SIZE), *[(rows, SHARED, length, SIZE)] * 2]
    inputs = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]
    result = attend(*inputs)
    real = view.rows.segments[:, view.rows.first_query :] != PADDING
    weights = torch.randn(result.shape, generator=generator) * real[:, :, None, None]
    (result * weights).sum().backward()
    return [result[real], *(value.grad for value in inputs)]


def by_dense_mask(view: LayerView):
    def attend(query, key, value):
        key, value = (part.repeat_interleave(HEADS // SHARED, dim=1) for part in (key, value))
        return scaled_dot_product_attention(query, key, value, dense_mask(view), scale=0.4).transpose(1, 2)

    return results_and_gradients(view, attend)


def by_flex_attention(view: LayerView):
    mask = block_mask(view)
    return results_and_gradients(view, lambda *inputs: attend_flex(Module(), *inputs, mask, scaling=0.4)[0])


def assert_close(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for measured, wanted in zip(found, expected, strict=True):
        assert (measured - wanted).abs().max() < TOLERANCE


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("case", WITH_IMAGES.values(), ids=WITH_IMAGES)
def test_flex_attention_is_sdpa_with_the_dense_mask(case, seed):
    view = view_of(seed, **case)
    assert_close(by_flex_attention(view), by_dense_mask(view))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("case", WITH_IMAGES.values(), ids=WITH_IMAGES)
def test_the_rule_is_the_dense_mask(case, seed):
    view = view_of(seed, **case)
    rows, length = view.rows.segments.shape
    seen = pairs(sight_rule(view), rows, range(view.rows.queries), length, view.rows.segments.device)
    assert torch.equal(seen, dense_mask(view)[:, 0])


@pytest.mark.parametrize("window", [None, 400])
@pytest.mark.parametrize("queries", [None, "completions"])
def test_blocks_are_those_of_torch(monkeypatch, window, queries):
    monkeypatch.setattr(flex, "QUERIES_AT_ONCE", flex.SPARSE_BLOCK)
    rows = random_rows(6, rows=2, group=60, longest_prompt=600, queries=queries)
    view = LayerView(rows, window, None)
    found = block_mask(view)
    length = rows.segments.shape[1]
    expected = create_block_mask(sight_rule(view), 2, None, rows.queries, length, device="cpu")
    assert found.shape == expected.shape
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.equal(found.to_dense(), expected.to_dense())
    assert found.full_kv_num_blocks.sum() > 0


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("case", VIEWS.values(), ids=VIEWS)
def test_flash_attention_in_parts_is_sdpa_with_the_dense_mask(slow_kernel, case, seed):
    view = view_of(seed, **case)
    mask = parts_mask(view)
    found = results_and_gradients(view, lambda *inputs: attend_parts(Module(), *inputs, mask, scaling=0.4)[0])
    assert_close(found, by_dense_mask(view))


def test_a_mask_that_lost_its_calls_is_refused():
    query, key = torch.randn(3, HEADS, 5, SIZE), torch.randn(3, SHARED, 5, SIZE)
    with pytest.raises(ValueError, match="has lost its calls"):
        attend_parts(Module(), query, key, key, torch.ones(3, 1, 1, 5, dtype=torch.bool))


def test_parts_leave_padding_at_zero(slow_kernel):
    view = view_of(0)
    rows, length = view.rows.segments.shape
    query, key = torch.randn(rows, HEADS, length, SIZE), torch.randn(rows, SHARED, length, SIZE)
    result, _ = attend_parts(Module(), query, key, key, parts_mask(view))
    assert not result[view.rows.segments == PADDING].any()


def test_other_rows_take_the_flash_attention_of_transformers(monkeypatch):
    """transformers finds the kernel by the name in the configuration of the module."""
    taken = []

    def forward(module, query, key, value, attention_mask, **settings):
        taken.append((module.config._attn_implementation, attention_mask, settings))
        return query, None

    monkeypatch.setattr(parts, "flash_attention_forward", forward)
    module, mask = Module(), torch.ones(1, 3)
    module.config = tiny_config()
    module.config._attn_implementation_internal = PARTS
    attend_parts(module, *[torch.zeros(1, 2, 3, 4)] * 3, mask, scaling=0.4, sliding_window=5)
    assert taken == [(FLASH, mask, {"scaling": 0.4, "sliding_window": 5, "dropout": 0.0})]
    assert module.config._attn_implementation == PARTS


def test_flash_attention_refuses_images_that_see_both_ways():
    with pytest.raises(ValueError, match="flash attention is causal"):
        parts_mask(view_of(0, images=True))


def test_the_flash_kernels_of_torch_take_the_arguments():
    """On tensors without values, which have types and shapes only."""
    query, key = (torch.empty(7, heads, 8, device="meta", dtype=torch.bfloat16) for heads in (HEADS, SHARED))
    ends = torch.empty(3, dtype=torch.int32, device="meta")
    for causal, window in ((False, None), (True, None), (True, 3)):
        call = PartCall(query, key, key, Part(ends, ends, ends, 4, 5, causal, window), 0.4)
        result, logsum = FlashKernel().attend(call)
        assert (result.shape, logsum.shape, logsum.dtype) == (query.shape, (HEADS, 7), torch.float32)
        shares = FlashKernel().gradients(call, result, result, logsum)
        assert [share.shape for share in shares] == [query.shape, key.shape, key.shape]


# Whole models


def gradients(model, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def scored(model, prompts, completions):
    logps = completion_logprobs(model, prompts, completions).logps
    return logps.detach(), gradients(model, (logps * torch.linspace(-1, 1, logps.numel()).view_as(logps)).sum())


def in_slices(model, prompts, completions):
    loss, scores = sliced_loss(
        model, prompts, completions, Passes(4, 5), lambda rows, scores: (scores.logps**2).sum() / 7
    )
    return scores.logps, gradients(model, loss)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("form", [scored, in_slices])
@pytest.mark.parametrize("name", [FLEX, PARTS])
def test_a_model_has_the_scores_and_gradients_of_sdpa(slow_kernel, name, form, checkpointing):
    model = tiny_model()
    train_adapter_and_head(model)
    prompts, completions = random_prompts(), random_completions(6)
    prompts = prompts.with_embeds(prompt_embeddings(model, prompts.input_ids, prompts.image_inputs()))
    logps, expected = form(model, prompts, completions)
    attend_by(model, name)
    assert why_plain(model) is None
    if checkpointing:
        model.train().gradient_checkpointing_enable()
    found_logps, found = form(model, prompts, completions)
    assert (found_logps - logps).abs().max() < TOLERANCE
    assert found.keys() == expected.keys()
    scale = max(1.0, *(float(value.abs().max()) for value in expected.values()))
    for parameter, value in expected.items():
        assert (found[parameter] - value).abs().max() < TOLERANCE * scale, parameter


def test_at_the_limit_of_compilations_rows_take_sdpa(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise FailOnRecompileLimitHit

    monkeypatch.setattr(flex, "_kernel", lambda device: WatchedGraphs(refuse, flex.attend_densely, "it", "so"))
    view = view_of(0, window=6)
    assert_close(by_flex_attention(view), by_dense_mask(view))


@torch.no_grad()
def test_rows_of_all_lengths_share_a_graph():
    """Traced as on a GPU, without making a kernel."""
    attend = torch.compile(flex.flex_attention, **flex.COMPILED, backend="aot_eager")
    torch._dynamo.utils.counters.clear()
    for seed in range(4):
        view = view_of(seed)
        rows, length = view.rows.segments.shape
        query, key = torch.randn(rows, HEADS, length, SIZE), torch.randn(rows, SHARED, length, SIZE)
        attend(query, key, key, block_mask=block_mask(view), scale=0.4, enable_gqa=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


# On a GPU


def on_gpu(view: LayerView) -> LayerView:
    rows = PackedRows(view.rows.segments.cuda(), view.rows.order.cuda(), view.rows.queries)
    return LayerView(rows, view.window, view.image_of)


@pytest.mark.cuda
@pytest.mark.parametrize("case", VIEWS.values(), ids=VIEWS)
def test_compiled_flex_attention_agrees_on_a_gpu(case):
    compare_on_gpu(view_of(0, **case), block_mask, attend_flex)


@pytest.mark.cuda
@pytest.mark.parametrize("case", VIEWS.values(), ids=VIEWS)
def test_flash_kernels_agree_on_a_gpu(case):
    compare_on_gpu(view_of(0, **case), parts_mask, attend_parts)


def compare_on_gpu(view: LayerView, make, attend) -> None:
    """Both in bfloat16, against SDPA in float32 on the CPU."""
    mask = make(on_gpu(view))

    def attend_there(*inputs):
        inputs = [value.cuda().bfloat16().repeat(1, 1, 1, 4) for value in inputs]  # heads of 32 entries
        return attend(Module(), *inputs, mask, scaling=0.1)[0].float().cpu()[..., :SIZE]

    for found, expected in zip(results_and_gradients(view, attend_there), by_dense_mask(view), strict=True):
        assert (found - expected).abs().max() < 0.05 * expected.abs().max().clamp(min=1)
