"""Models that compute otherwise than assumed take the slow path or are refused, and incomplete folders are refused."""

from __future__ import annotations

import copy
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from swift.engine import packing
from swift.engine.attention import views
from swift.engine.logprobs import why_plain
from swift.engine.probe import WORDS, Paths, choose_paths, first_layers, probe_batch, shares_cache
from swift.llm.checkpoint.load import load_policy
from swift.llm.dataset import Record, load_records
from swift.llm.template.choose import template_for
from swift.llm.template.hf import ProcessorTemplate
from swift.utils.errors import UserError
from tests.support.builders import QUESTIONS, SOLUTIONS, tiny_model
from tests.support.tiny_models import MORE_WRITERS, WRITERS


@pytest.fixture(scope="module")
def records(world) -> list[Record]:
    base = load_records([world / "data" / "train.json"])
    return [base[0], replace(base[2], images=())]


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("llava") / "llava"
    WRITERS["llava"](path)
    return path


def probe(folder: Path, records: list[Record], spoil) -> Paths:
    policy = load_policy(folder)
    template = template_for(policy)
    spoil(policy.model)
    return choose_paths(policy.model, template, [template.encode_prompt(record) for record in records])


def test_a_model_that_counts_positions_itself_is_not_packed(llava, records, caplog):
    def spoil(model):
        def forget(module, args, kwargs):
            return args, kwargs | {"position_ids": None}

        model.model.language_model.register_forward_pre_hook(forget, with_kwargs=True)

    caplog.set_level(logging.INFO)
    assert not probe(llava, records, spoil).packed
    assert "log-probabilities: plain (packed rows differ by" in caplog.text


def test_a_model_that_takes_no_dense_mask_is_not_packed(llava, records, caplog):
    def spoil(model):
        def refuse(module, args, kwargs):
            if kwargs["attention_mask"] is not None and kwargs["attention_mask"].ndim == 4:
                raise ValueError("two dimensions only")

        model.model.register_forward_pre_hook(refuse, with_kwargs=True)

    caplog.set_level(logging.INFO)
    assert not probe(llava, records, spoil).packed
    assert "log-probabilities: plain (packed rows fail in this model: two dimensions only)" in caplog.text


def test_a_model_whose_cache_cannot_be_shared_reads_each_prompt_anew(llava, records, caplog):
    def spoil(model):
        def cut(module, args, kwargs):
            if kwargs.get("logits_to_keep") == 1 and kwargs.get("past_key_values") is None:
                raise TypeError("no prefill")

        model.register_forward_pre_hook(cut, with_kwargs=True)

    caplog.set_level(logging.INFO)
    assert probe(llava, records, spoil) == Paths(packed=True, shared=False)
    assert "each prompt is read once per completion (shared caches fail in this model: no prefill)" in caplog.text


def test_a_model_that_bends_its_logits_is_refused(llava, records):
    def spoil(model):
        def bend(module, args, output):
            output.logits = output.logits * 0.5
            return output

        model.register_forward_hook(bend)

    with pytest.raises(UserError, match="log-probabilities in padded rows differ"):
        probe(llava, records, spoil)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "chat_template.jinja").unlink(), "has no chat template"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "its processor cannot be built"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"cut"), "model.safetensors cannot be read"),
        (
            lambda folder: (folder / "chat_template.jinja").write_text("{{ raise_exception('no') }}"),
            "chat template refuses the turns",
        ),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'),
            "model_type 'bert' is not supported",
        ),
    ],
)
def test_folders_that_are_not_whole_are_refused(llava, tmp_path, spoil, message):
    shutil.copytree(llava, tmp_path / "copy")
    spoil(tmp_path / "copy")
    with pytest.raises(UserError, match=message):
        template_for(load_policy(tmp_path / "copy"))


@pytest.mark.parametrize("kind", list(MORE_WRITERS))
def test_more_kinds_take_the_fast_paths(kind, records, tmp_path):
    MORE_WRITERS[kind](tmp_path)
    assert probe(tmp_path, records, lambda model: None) == Paths(packed=True, shared=True)


def test_dynamic_hd_is_refused(llava):
    with pytest.raises(UserError, match="--dynamic_hd 2 is for Phi-4's tiling"):
        load_policy(llava, dynamic_hd=2)


def test_phi4_takes_the_fast_paths(world):
    policy = load_policy(world / "policy")
    template = template_for(policy)
    examples = [template.encode_prompt(record) for record in load_records([world / "data" / "train.json"])]
    assert choose_paths(policy.model, template, examples) == Paths(packed=True, shared=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_completions_that_see_each_other_are_noticed_in_either_precision(world, monkeypatch, dtype):
    """In bfloat16 the difference, 0.06 nats, is below what rounding may cause in a large model's plain path."""
    policy = load_policy(world / "policy", dtype=dtype)
    template = template_for(policy)
    examples = [template.encode_prompt(record) for record in load_records([world / "data" / "train.json"])]

    def leaky(segments, queries):
        length = segments.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        return causal & (segments != packing.PADDING)[:, None, :] | torch.eye(length, dtype=torch.bool)

    assert choose_paths(policy.model, template, examples).packed
    monkeypatch.setattr(views, "group_mask", leaky)
    assert not choose_paths(policy.model, template, examples).packed


def test_a_processor_that_brings_code_is_refused_without_asking(llava, tmp_path, monkeypatch):
    folder = shutil.copytree(llava, tmp_path / "copy")
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    file = folder / "preprocessor_config.json"
    settings = {"image_processor_type": "X", "auto_map": {"AutoImageProcessor": "evil.X"}}
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    with pytest.raises(UserError, match="its processor cannot be built"):
        load_policy(folder)


def test_prompts_stay_on_one_side_of_the_length_where_longrope_turns(world):
    policy = load_policy(world / "policy")
    template = template_for(policy)
    examples = [template.encode_prompt(record) for record in load_records([world / "data" / "train.json"])]
    short, long = WORDS
    prompts, _ = probe_batch(policy.model, template, examples)
    assert prompts.lengths.tolist() == [short + 2, long + 7]
    policy.model.config.original_max_position_embeddings = short + 18
    prompts, _ = probe_batch(policy.model, template, examples)
    assert prompts.lengths.tolist() == [short + 2, short + 7]


def tokens_of_forwards(model) -> list[int]:
    """Tokens of every forward pass of the model from now on."""
    counts = []

    def count(module, args, kwargs):
        tokens = next(v for v in (*args, kwargs.get("input_ids"), kwargs.get("inputs_embeds")) if v is not None)
        counts.append(tokens.shape[0] * tokens.shape[1])

    model.register_forward_pre_hook(count, with_kwargs=True)
    return counts


def test_the_probe_costs_at_most_two_scoring_forwards(world):
    """The micro-batch is one group of eight. At the published sizes a prompt has 545 tokens or more and a completion up
    to 256. Here a prompt of 545 tokens and completions of 16 make 673."""
    policy = load_policy(world / "policy")
    template = template_for(policy)
    examples = [template.encode_prompt(record) for record in load_records([world / "data" / "train.json"])]
    counts = tokens_of_forwards(policy.model)
    choose_paths(policy.model, template, examples)
    assert sum(counts) <= 2 * 673 / 3
    assert len(counts) <= 9


def test_layers_that_carry_a_state_are_not_packed():
    model = tiny_model()
    model.config.layer_types = ["linear_attention", "full_attention"]
    assert why_plain(model) == "its linear_attention layers take no per-token mask"


SPACED_CHAT = (
    "{% for turn in messages %}{{ turn['role'] }}\n{% for part in turn['content'] %}{{ part['text'] }}{% endfor %}</s>"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant\n' }}{% endif %}"
)


def test_tokenizers_that_put_a_space_in_front_do_not_do_so_inside_a_turn(llava):
    """SentencePiece tokenizers encode "yes" alone as "_yes". An answer after a line break used to begin so, too."""
    base = load_policy(llava)
    tokenizer = Tokenizer(models.BPE(unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    special = ["<pad>", "<s>", "</s>", "<image>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([*QUESTIONS, *SOLUTIONS, "user\nassistant\n"], trainer)
    spaced = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", chat_template=SPACED_CHAT
    )
    processor = copy.copy(base.image_processor)
    processor.processor = copy.copy(processor.processor)
    processor.processor.chat_template = None
    template = ProcessorTemplate(spaced, processor)
    whole = spaced.encode("user\nIs it</s>assistant\nyes left</s>", add_special_tokens=False)
    ids = template.encode_completion("yes left")
    assert whole[-len(ids) :] == ids
    assert "".join(spaced.convert_ids_to_tokens(ids)) == "yes\u2581left</s>"
    assert "".join(template.decode_tokens(ids)) == template.decode(ids) == "yes left"


def test_the_probe_runs_the_first_layers_alone(world):
    policy = load_policy(world / "policy")
    policy = replace(policy, model=tiny_model(vocabulary=512, layers=5))
    template = template_for(policy)
    examples = [template.encode_prompt(record) for record in load_records([world / "data" / "train.json"])]
    passes = [0] * 5
    for number, layer in enumerate(policy.model.model.layers):
        layer.register_forward_pre_hook(lambda *_, number=number: passes.__setitem__(number, passes[number] + 1))
    assert choose_paths(policy.model, template, examples) == Paths(packed=True, shared=True)
    assert passes[0] == passes[1] > 0
    assert passes[2:] == [0, 0, 0]
    assert len(policy.model.model.layers) == 5


def test_evaluation_shares_caches_in_a_model_of_many_layers(world):
    policy = load_policy(world / "policy")
    policy = replace(policy, model=tiny_model(vocabulary=512, layers=5))
    template = template_for(policy)
    examples = [template.encode_prompt(record) for record in load_records([world / "data" / "train.json"])]
    assert shares_cache(policy.model, template, examples)


def test_the_second_layer_of_each_kind_is_among_the_first():
    model = tiny_model(layers=6)
    model.config.layer_types = ["sliding_attention", "sliding_attention", "full_attention"] * 2
    layers = list(model.model.layers)
    with first_layers(model):
        assert list(model.model.layers) == layers
    model.config.layer_types = ["full_attention"] * 6
    with first_layers(model):
        assert list(model.model.layers) == layers[:2]
    assert list(model.model.layers) == layers
