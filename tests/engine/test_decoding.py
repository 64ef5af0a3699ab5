"""The decoding loop draws the tokens of a rollout that repeats the prompts' caches, whenever rows leave."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from bench.repeated_cache import generate_in_stages, generate_repeated, repeated_cache
from swift.engine import sampling as rollout
from swift.engine.batch import collate_prompts
from swift.engine.logprobs import completion_logprobs
from swift.engine.probe import Forced
from swift.engine.rollout import decoding, group_cache
from swift.engine.rollout.choosing import Sampling
from swift.engine.rollout.decoding import OpenRows, decode_groups, prefill
from swift.engine.rollout.pace import Pace
from swift.engine.sampling import decode, generate
from swift.llm.checkpoint.load import load_policy
from swift.llm.dataset import load_records
from swift.llm.policy import prompt_embeddings
from swift.llm.template.choose import template_for
from swift.llm.template.protocol import EncodedPrompt
from tests.support.builders import PAD, VOCABULARY, longrope_model, random_completions, random_prompts, tiny_model
from tests.support.tiny_models import MORE_WRITERS, WRITERS

STOPS = tuple(range(7, 15))  # an eighth of the vocabulary: answers end early and late
BANNED = (5, 6)
NO_STOP = (VOCABULARY,)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def prompts():
    return random_prompts(images=(1, 2, 0, 1), lengths=(7, 4, 9, 5))


def uniforms(count, length, seed=3):
    return torch.rand(count, length, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def small_blocks(monkeypatch):
    """Memory of completions is taken three tokens at a time, so that it grows."""
    monkeypatch.setattr(group_cache, "BLOCK", 3)


@pytest.mark.parametrize("size", [1, 2, 8])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_tokens_are_those_of_repeated_caches(model, prompts, small_blocks, size, temperature):
    settings = Sampling(23, STOPS, PAD, temperature, banned_token_ids=BANNED)
    drawn = uniforms(4 * size, 23)
    expected = generate_repeated(model, prompts, size, settings, drawn)
    found = generate(model, prompts, size, settings, drawn)
    assert found.token_lists() == expected.token_lists()
    assert found.finished.tolist() == expected.finished.tolist()
    assert temperature == 0 or len(set(found.lengths.tolist())) > 2
    assert generate_in_stages(model, prompts, size, settings, drawn).token_lists() == expected.token_lists()


@pytest.mark.parametrize("leaving", [1, 8, 1000])
@pytest.mark.parametrize("stage", [1, 3])
def test_it_does_not_matter_when_rows_leave(model, prompts, small_blocks, monkeypatch, leaving, stage):
    settings = Sampling(23, STOPS, PAD, 1.0, banned_token_ids=BANNED)
    drawn = uniforms(32, 23)
    expected = generate_repeated(model, prompts, 8, settings, drawn).token_lists()
    monkeypatch.setattr(decoding, "LEAVING", leaving)
    monkeypatch.setattr(decoding, "look_every", lambda device: stage)
    assert generate(model, prompts, 8, settings, drawn).token_lists() == expected


PATTERNS = {
    "all at once": [5] * 6,
    "one long": [1, 1, 1, 1, 1, 11],
    "one group at once": [1, 1, 1, 9, 4, 7],
    "first row of each group": [1, 8, 9, 1, 10, 11],
    "falling": [11, 9, 7, 5, 3, 1],
    "at the limit": [12, 12, 3, 12, 12, 12],
}


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("lengths", PATTERNS.values(), ids=PATTERNS)
def test_every_pattern_of_lengths_sees_the_right_keys(model, small_blocks, lengths, fixed):
    """Given tokens are fed, and their log-probabilities compared with those of scoring."""
    prompts, given = random_prompts(images=(1, 2), lengths=(7, 3)), random_completions(6, longest=12, seed=5)
    ids = torch.from_numpy(np.random.default_rng(1).integers(15, VOCABULARY, (6, 12)))
    for row, length in enumerate(lengths):
        ids[row, length - 1] = STOPS[0]
    given = replace(given, ids=ids, lengths=torch.tensor(lengths))
    forced = Forced(ids)
    step_function = decoding.eager_step if fixed else None
    settings = Sampling(12, STOPS, PAD)
    with torch.no_grad():
        tokens, ended = decode_groups(
            model, prompts, 3, settings, forced, pace=Pace(model, synced=False), step_function=step_function
        )
        expected = completion_logprobs(model, prompts, given).logps
    assert torch.equal(tokens[given.mask], ids[given.mask])
    assert not tokens[~given.mask].any()
    assert ended.all()
    assert (forced.logps - expected)[given.mask].abs().max() < 1e-5


def test_rows_leave_when_an_eighth_of_them_has_ended(model, prompts):
    settings = Sampling(12, STOPS, PAD, 1.0, banned_token_ids=BANNED)
    sizes = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    with hook:
        lengths = generate(model, prompts, 8, settings, uniforms(32, 12)).lengths
    # one pass over four prompts, then at step n (from 0) the rows that have not ended, or those that were there before
    # if the others are fewer than an eighth
    expected, there = [4], 32
    for step in range(int(lengths.max()) - 1):
        still = int((lengths > step + 1).sum())
        there = still if (there - still) * 8 >= there else there
        expected.append(there)
    assert sizes == expected
    assert len(set(sizes)) > 4


def test_padded_rows_are_halved_and_never_fewer_than_two(model, prompts):
    read = prefill(model, prompts, 8, 4, fixed=True)
    rows = OpenRows(read.positions, 8, padded=True)
    rows.ended[0:17] = True
    assert rows.leave(read.cache)
    assert rows.sizes == [16, 2, 8]
    assert rows.index.tolist() == [*range(17, 32), 31]
    assert read.cache.table.shape == (2, 8)
    rows.ended[rows.index != 20] = True
    assert rows.leave(read.cache)
    assert rows.sizes == [2, 2, 2]
    assert rows.index.tolist() == [20, 20]
    rows.ended[:] = True
    assert not rows.leave(read.cache)


def test_slices_draw_the_same_tokens(model, prompts, monkeypatch):
    settings = Sampling(14, STOPS, PAD, 1.0, banned_token_ids=BANNED)
    drawn = uniforms(16, 14)
    expected = generate(model, prompts, 4, settings, drawn).token_lists()
    passes = []
    monkeypatch.setattr(rollout, "decode_groups", lambda *a, **k: passes.append(len(a[1])) or decode_groups(*a, **k))
    for room, batches in ((1e9, [4]), (1e5, [2, 2]), (1.0, [1, 1, 1, 1])):
        passes.clear()
        monkeypatch.setattr(rollout, "free_bytes", lambda device, room=room: room)
        assert generate(model, prompts, 4, settings, drawn).token_lists() == expected
        assert passes == batches


@pytest.fixture
def traced(monkeypatch):
    """Compiled steps are traced as one graph, and run without the compiler's slow part."""
    torch._dynamo.reset()
    step = torch.compile(decoding.eager_step, fullgraph=True, dynamic=True, backend="eager")
    monkeypatch.setattr(rollout, "compiled_step", lambda device: step)


@pytest.mark.parametrize("kind", [*WRITERS, *MORE_WRITERS])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_other_models_draw_the_tokens_of_repeated_caches(kind, temperature, world, tmp_path, traced):
    """Prompts of three lengths, the second with two images; windows of 16 tokens pass over them."""
    (WRITERS | MORE_WRITERS)[kind](tmp_path)
    policy = load_policy(tmp_path)
    template = template_for(policy)
    base = load_records([world / "data" / "train.json"])
    records = [base[0], replace(base[1], images=base[1].images + base[2].images), replace(base[2], images=())]
    prompts = collate_prompts([template.encode_prompt(record) for record in records], template.pad_token_id)
    banned = tuple(template.banned_token_ids)
    settings = Sampling(40, tuple(template.stop_token_ids), template.pad_token_id, temperature, banned_token_ids=banned)
    for size in (1, 3):
        drawn = uniforms(3 * size, 40)
        expected = generate_repeated(policy.model, prompts, size, settings, drawn).token_lists()
        assert generate(policy.model, prompts, size, settings, drawn).token_lists() == expected
        assert generate(policy.model, prompts, size, settings, drawn, shared=False).token_lists() == expected
    if temperature:
        assert generate(policy.model, prompts, size, settings, drawn, compiled=True).token_lists() == expected


@pytest.mark.parametrize("fixed", [False, True])
def test_windows_that_leave_the_prompt_behind(small_blocks, fixed):
    """A window of 6 tokens, prompts of 3 and 20, completions of 15: each token against one forward of all."""
    torch.manual_seed(0)
    widths = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MistralConfig(**widths, vocab_size=64, num_key_value_heads=2, sliding_window=6, pad_token_id=PAD)
    model = MistralForCausalLM(config).eval()
    model.model.embed_tokens.weight.data.mul_(30)
    generator = np.random.default_rng(0)
    rows = [torch.from_numpy(generator.integers(7, 64, length)) for length in (3, 20)]
    prompts = collate_prompts([EncodedPrompt(row, (), "") for row in rows], PAD)
    ids = torch.from_numpy(generator.integers(7, 64, (4, 15)))
    forced = Forced(ids)
    step_function = decoding.eager_step if fixed else None
    with torch.no_grad():
        decode_groups(
            model,
            prompts,
            2,
            Sampling(15, NO_STOP, PAD),
            forced,
            pace=Pace(model, synced=False),
            step_function=step_function,
        )
        for row in range(4):
            whole = torch.cat([rows[row // 2], ids[row]])
            logps = model(whole[None]).logits[0, -16:-1].log_softmax(dim=-1)
            expected = logps.gather(1, ids[row, :, None]).squeeze(1)
            assert (forced.logps[row] - expected).abs().max() < 1e-5


def one_by_one(model, prompts, steps):
    """Greedy tokens, each from a full forward of its own row."""
    found = []
    for row in range(len(prompts)):
        prompt = prompts.select([row])
        ids = prompt.input_ids
        for _ in range(steps):
            logits = model(ids, **prompt.image_inputs()).logits[0, -1].clone()
            logits[list(BANNED)] = -torch.inf
            ids = torch.cat([ids, logits.argmax()[None, None]], dim=1)
            if int(ids[0, -1]) in STOPS[:1]:
                break
        found.append(ids[0, prompt.input_ids.shape[1] :].tolist())
    return found


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("embedded", [False, True])
def test_each_completion_crosses_the_longrope_switch_on_its_own(embedded, compiled, traced):
    model = longrope_model()
    # lengths below, up to and beyond the switch; the third and the fourth cross it, with an image and without
    prompts = random_prompts(images=(0, 0, 1, 0, 2), lengths=(5, 30, 9, 22, 4), sizes=((28, 28),))
    expected = one_by_one(model, prompts, 12)
    if embedded:
        prompts = prompts.with_embeds(prompt_embeddings(model, prompts.input_ids, prompts.image_inputs()))
    settings = Sampling(12, STOPS[:1], PAD, 0.0, banned_token_ids=BANNED)
    found = generate(model, prompts, 2, settings, compiled=compiled).token_lists()
    assert found == [row for row in expected for _ in range(2)]
    assert any(length <= 24 < length + 12 for length in prompts.lengths.tolist())


def test_a_groups_prompt_is_kept_once(model):
    prompts = random_prompts(images=(2, 2), lengths=(190, 180))
    cache = prefill(model, prompts, 8, 8, fixed=False).cache
    width = prompts.input_ids.shape[1]
    token = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, head size, bytes
    assert cache.nbytes == token * (2 * width + 16 * 8)
    repeated = sum(layer.keys.nbytes + layer.values.nbytes for layer in repeated_cache(model, prompts, 8).layers)
    assert repeated > 5 * cache.nbytes


def test_memory_follows_the_tokens_that_there_are(model, prompts, small_blocks):
    cache = prefill(model, prompts, 8, 100, fixed=False).cache
    widths = []
    for step in range(8):
        cache.begin_step(step)
        widths.append(cache.layers[0].own_keys.shape[2])
    assert widths == [3, 3, 3, 6, 6, 6, 9, 9]


def test_other_kinds_of_layers_are_refused(model, prompts, monkeypatch):
    monkeypatch.setattr(model.config, "layer_types", ["full_attention", "linear_attention"], raising=False)
    with pytest.raises(ValueError, match="linear_attention layers hold more than keys and values"):
        decode(model, prompts, 2, Sampling(3, STOPS, PAD), Forced(torch.zeros(8, 3, dtype=torch.long)))


def test_the_models_attention_is_its_own_again_afterwards(model, prompts):
    before = model.config._attn_implementation
    generate(model, prompts, 2, Sampling(3, STOPS, PAD, 0.0))
    assert model.config._attn_implementation == before
    with pytest.raises(RuntimeError, match="broken"):
        decode(model, prompts, 2, Sampling(3, STOPS, PAD), _broken)
    assert model.config._attn_implementation == before


def _broken(logits, rows, step):
    raise RuntimeError("broken")


@pytest.mark.slow
def test_the_step_compiles_as_one_graph_and_draws_the_same_tokens(prompts):
    """With inductor; a graph break would be an error. The rows shrink and the memory grows meanwhile."""
    model = tiny_model(layers=1)
    settings = Sampling(80, (7,), PAD, 1.0, banned_token_ids=BANNED)
    drawn = uniforms(16, 80)
    torch._dynamo.utils.counters.clear()
    expected = generate(model, prompts, 4, settings, drawn)
    assert expected.lengths.max() > group_cache.BLOCK
    found = generate(model, prompts, 4, settings, drawn, compiled=True)
    assert found.token_lists() == expected.token_lists()
    assert 1 <= torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 4
    assert not torch._dynamo.utils.counters["graph_break"]
