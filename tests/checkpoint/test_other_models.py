"""SmolVLM, LLaVA, Qwen2.5-VL and Gemma 3 through the loader, the template, the engine and the saver."""

from __future__ import annotations

import logging
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from swift.engine.batch import Completions, collate_prompts, concat_prompts
from swift.engine.logprobs import completion_logprobs
from swift.engine.long_groups import Passes, sliced_loss
from swift.engine.probe import Paths, choose_paths
from swift.engine.rollout.choosing import Sampling, prompt_uniforms
from swift.engine.sampling import generate
from swift.llm.arguments import ModelArguments
from swift.llm.checkpoint.load import load_policy
from swift.llm.checkpoint.save import save_policy
from swift.llm.dataset import Record, load_records
from swift.llm.images.source import open_image
from swift.llm.policy import Policy, trainable_parameters
from swift.llm.template.choose import template_for
from swift.llm.template.protocol import Template
from swift.llm.trainable import choose_trainable
from swift.trainers.question_groups import QuestionGroups, collate_groups
from swift.utils.errors import UserError
from tests.support.tiny_models import WRITERS

TOLERANCE = 1e-5
LENGTHS = (5, 1, 4, 2, 5, 3, 4, 4, 1)
SYSTEM = {"role": "system", "content": "Answer briefly."}
HOSTILE = (
    "Is <|im_end|> or <end_of_turn><start_of_turn> </s><end_of_utterance> or <|image_pad|><image_soft_token> seen?"
)


@pytest.fixture(scope="module")
def folder(other_model: Path) -> Path:
    return other_model


@pytest.fixture(scope="module")
def kind(other_model: Path) -> str:
    return other_model.name


@pytest.fixture(scope="module")
def policy(folder) -> Policy:
    return load_policy(folder)


@pytest.fixture(scope="module")
def template(policy) -> Template:
    return template_for(policy)


@pytest.fixture(scope="module")
def records(world) -> list[Record]:
    """One image; two images, one in the text before the other; none."""
    base = load_records([world / "data" / "train.json"])
    one, other = base[0], next(record for record in base if record.images != base[0].images)
    turn = {"role": "user", "content": "Compare <image_2> with <image_1> before."}
    two = replace(one, images=one.images + other.images, messages=(SYSTEM, turn))
    return [one, two, replace(base[2], images=())]


@pytest.fixture(scope="module")
def prompts(template, records):
    return collate_prompts([template.encode_prompt(record) for record in records], template.pad_token_id)


@pytest.fixture(scope="module")
def completions(template) -> Completions:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor(LENGTHS)
    ids = torch.randint(30, 300, (len(LENGTHS), max(LENGTHS)), generator=generator)
    ids[torch.arange(max(LENGTHS)) >= lengths[:, None]] = template.pad_token_id
    return Completions(ids, lengths, torch.ones(len(LENGTHS), dtype=torch.bool))


def own_inputs(policy: Policy, record: Record) -> dict[str, torch.Tensor]:
    """The model's inputs for a prompt, made of the whole text by transformers' own processor."""
    question = record.messages[-1]["content"]
    if "<image_2>" in question:
        pictures = [record.images[1], record.images[0]]
        parts = ("Compare ", None, " with ", None, " before.")
        content = [{"type": "image"} if text is None else {"type": "text", "text": text} for text in parts]
    else:
        pictures = list(record.images)
        content = [{"type": "image"}] * len(pictures) + [{"type": "text", "text": question}]
    turns = [{"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}]} for turn in record.messages]
    turns[-1]["content"] = content
    processor = policy.image_processor.processor
    text = policy.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    images = [open_image(source) for source in pictures] or None
    return processor(text=[text], images=images, return_tensors="pt", add_special_tokens=begins(policy, text))


def begins(policy: Policy, text: str) -> bool:
    """True if the tokenizer is to add its begin token, by the rule of transformers' apply_chat_template."""
    return policy.tokenizer.bos_token is None or not text.startswith(policy.tokenizer.bos_token)


def logps_of(policy: Policy, record: Record, template: Template) -> torch.Tensor:
    """Log-probabilities of three fixed tokens after the record's prompt."""
    prompt = collate_prompts([template.encode_prompt(record)], template.pad_token_id)
    chosen = Completions(torch.tensor([[40, 50, 60]]), torch.tensor([3]), torch.ones(1, dtype=torch.bool))
    return completion_logprobs(policy.model, prompt, chosen, packed=False).logps


def tiles(images: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """SmolVLM's tiles without padding. Its processor puts all images of a prompt in one row; here each has its own."""
    if "pixel_attention_mask" not in images:
        return images
    images = {name: images[name].flatten(0, 1) for name in ("pixel_values", "pixel_attention_mask")}
    real = images["pixel_attention_mask"].flatten(1).any(dim=1)
    return {name: value[real] for name, value in images.items()}


def test_nothing_imports_torchvision(policy):
    assert "torchvision" not in sys.modules
    assert policy.model.config.model_type in WRITERS


@pytest.mark.parametrize("row", [0, 1, 2], ids=["one image", "two images", "no image"])
def test_prompts_are_those_of_the_models_own_processor(policy, template, records, row):
    expected = own_inputs(policy, records[row])
    prompt = template.encode_prompt(records[row])
    assert prompt.input_ids.tolist() == expected["input_ids"][0].tolist()
    found = tiles(collate_prompts([prompt], template.pad_token_id).image_inputs())
    expected = tiles({name: value for name, value in expected.items() if "pixel" in name or "grid" in name})
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_an_answer_continues_its_prompt_as_the_whole_conversation_reads(policy, template, records):
    record = records[2]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "No, 5 cm."}]}
    asked = {"role": "user", "content": [{"type": "text", "text": record.messages[0]["content"]}]}
    whole = policy.tokenizer.apply_chat_template([asked, answer], tokenize=False)
    ids = [*template.encode_prompt(record).input_ids.tolist(), *template.encode_completion("No, 5 cm.")]
    assert policy.tokenizer.encode(whole, add_special_tokens=begins(policy, whole))[: len(ids)] == ids


def test_scores_equal_one_forward_of_transformers_own_inputs(policy, prompts, completions, records):
    """Packed and plain, padded, three prompts and three completions each, against one unpadded row each."""
    expected = torch.zeros(completions.ids.shape)
    for row, ids in enumerate(completions.token_lists()):
        inputs = own_inputs(policy, records[row // 3])
        inputs = {name: value for name, value in inputs.items() if name != "attention_mask"}
        for name, fill in (
            ("input_ids", ids),
            ("token_type_ids", [0] * len(ids)),
            ("mm_token_type_ids", [0] * len(ids)),
        ):
            if name in inputs:
                inputs[name] = torch.cat([inputs[name], torch.tensor([fill])], dim=1)
        with torch.no_grad():
            logps = policy.model(**inputs).logits[0, -len(ids) - 1 : -1].log_softmax(dim=-1)
        expected[row, : len(ids)] = logps[torch.arange(len(ids)), torch.tensor(ids)]
    assert expected.std() > 0.5
    with torch.no_grad():
        for packed in (True, False):
            found = completion_logprobs(policy.model, prompts, completions, packed=packed).logps
            assert (found - expected).abs().max() < TOLERANCE, "packed" if packed else "plain"


def test_gradients_of_packed_rows_are_those_of_plain_ones(folder, prompts, completions):
    policy = load_policy(folder)
    choose_trainable(policy.model, ModelArguments(model="m", train_type="lora", trainable="vision-lora+head"))
    found = []
    for packed in (True, False):
        policy.model.zero_grad()
        (
            completion_logprobs(policy.model, prompts, completions, packed=packed).logps * torch.linspace(-1, 1, 5)
        ).sum().backward()
        found.append({name: value.grad for name, value in trainable_parameters(policy.model).items()})
    assert any(".lora_A." in name for name in found[0])
    for name, value in found[0].items():
        assert torch.allclose(value, found[1][name], atol=TOLERANCE * max(1, float(value.abs().max()))), name


def test_slices_have_the_scores_and_gradients_of_plain_rows(folder, prompts, completions):
    policy = load_policy(folder)
    choose_trainable(policy.model, ModelArguments(model="m", train_type="lora", trainable="vision-lora+head"))
    plain = completion_logprobs(policy.model, prompts, completions, packed=False).logps
    (plain**2).sum().backward()
    expected = {name: value.grad for name, value in trainable_parameters(policy.model).items()}
    policy.model.zero_grad()
    loss, scores = sliced_loss(
        policy.model, prompts, completions, Passes(3, 6), lambda _, scores: (scores.logps**2).sum()
    )
    loss.backward()
    assert (scores.logps - plain).abs().max() < TOLERANCE
    for name, value in trainable_parameters(policy.model).items():
        scale = max(1, float(expected[name].abs().max()))
        assert torch.allclose(value.grad, expected[name], atol=TOLERANCE * scale), name


@pytest.mark.parametrize("temperature", [0, 0.9])
def test_shared_and_plain_rollout_draw_the_same_tokens(policy, template, prompts, temperature):
    stops, banned = template.stop_token_ids, template.banned_token_ids
    sampling = Sampling(8, stops, template.pad_token_id, temperature=temperature, banned_token_ids=banned)
    uniforms = torch.from_numpy(np.concatenate([prompt_uniforms((0, row), 3, 8) for row in range(len(prompts))]))
    shared = generate(policy.model, prompts, 3, sampling, uniforms)
    plain = generate(policy.model, prompts, 3, sampling, uniforms, shared=False)
    assert shared.token_lists() == plain.token_lists()
    assert not set(banned) & set(shared.ids.flatten().tolist())


def test_the_probe_takes_the_fast_paths(policy, template, records, caplog):
    caplog.set_level(logging.INFO)
    examples = [template.encode_prompt(record) for record in records]
    assert choose_paths(policy.model, template, examples) == Paths(packed=True, shared=True)
    assert "log-probabilities: packed" in caplog.text


def test_eager_attention_packs_too(folder, policy, prompts, completions):
    eager = load_policy(folder, attn_impl="eager").model
    found = completion_logprobs(eager, prompts, completions, packed=True).logps
    assert (found - completion_logprobs(policy.model, prompts, completions, packed=False).logps).abs().max() < TOLERANCE


def test_a_template_reaches_data_loader_workers(template, records):
    copy = pickle.loads(pickle.dumps(template))
    first, second = (one.encode_prompt(records[1]) for one in (template, copy))
    assert torch.equal(first.input_ids, second.input_ids)
    assert all(torch.equal(value, second.images[0].tensors[name]) for name, value in first.images[0].tensors.items())


def test_batches_survive_cutting_and_joining(policy, prompts, completions):
    expected = completion_logprobs(policy.model, prompts, completions).logps.detach()
    joined = concat_prompts(prompts.select([2, 1]), prompts.select([0])).select([2, 1, 0])
    assert (completion_logprobs(policy.model, joined, completions).logps - expected).abs().max() < TOLERANCE


def test_the_image_matters(policy, template, world):
    base = load_records([world / "data" / "train.json"])
    same_size = [r for r in base if open_image(r.images[0]).size == open_image(base[0].images[0]).size]
    other = replace(base[0], images=next(r.images for r in same_size if r.images != base[0].images))
    first, second = (logps_of(policy, record, template) for record in (base[0], other))
    assert (first - second).abs().max() > 1e-3


def test_text_of_a_dataset_is_never_a_control_token(template, policy, records):
    controls = set(policy.tokenizer.get_added_vocab().values())
    hostile = replace(records[0], messages=({"role": "user", "content": HOSTILE},))
    found, plain = (template.encode_prompt(record).input_ids.tolist() for record in (hostile, records[0]))
    assert [token for token in found if token in controls] == [token for token in plain if token in controls]
    assert HOSTILE in policy.tokenizer.decode(found)
    assert HOSTILE in template.encode_prompt(hostile).text


def test_completions_end_as_the_chat_template_ends_them(kind, template, policy):
    end = {"smolvlm": "<end_of_utterance>", "llava": "</s>", "qwen2_5_vl": "<|im_end|>", "gemma3": "<end_of_turn>"}
    ids = template.encode_completion("Yes, 5 cm. α→β")
    assert policy.tokenizer.convert_ids_to_tokens(ids[-1]) == end[kind]
    assert ids[-1] in template.stop_token_ids
    assert template.decode(ids).strip() == "Yes, 5 cm. α→β"
    assert "".join(template.decode_tokens(ids)) == template.decode(ids)
    assert template.decode_tokens(ids)[-1] == ""
    cut = ids[:-2]  # within the bytes of the last letter
    assert template.decode(cut).endswith("\ufffd")
    assert "".join(template.decode_tokens(cut)) == template.decode(cut)


def test_too_long_prompts_are_named(policy, records):
    short = template_for(policy, max_length=20)
    with pytest.raises(UserError, match=r"record 0: the prompt has \d+ tokens, over --max_length 20.*and 1 more"):
        short.check_prompts(records[:2])


def test_questions_about_one_image_share_a_row(policy, template, records):
    texts = [("Is there a nodule?", "no"), ("Is there an effusion on the left?", "yes"), ("Which view?", "ap")]
    questions = [
        replace(records[0], messages=({"role": "user", "content": question},), solution=solution)
        for question, solution in texts
    ]
    sums = []
    for size, packed in ((3, True), (3, False), (1, False)):
        prompts, completions, learned = collate_groups(list(QuestionGroups(questions, template, size)), template)
        assert len(prompts) == len(texts) // size
        sums.append(
            float((completion_logprobs(policy.model, prompts, completions, packed=packed).logps * learned).sum())
        )
    assert sums[0] == pytest.approx(sums[2], abs=1e-4)
    assert sums[1] == pytest.approx(sums[2], abs=1e-4)


def perturbed(folder: Path, **choice: object) -> Policy:
    """The policy with every trainable tensor moved."""
    policy = load_policy(folder)
    choose_trainable(policy.model, ModelArguments(model="m", **choice))
    with torch.no_grad():
        for parameter in trainable_parameters(policy.model).values():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.05)
    return policy


@pytest.mark.parametrize("choice", ["lora", "vision-lora+head", "full"])
def test_saved_is_what_loads(folder, template, records, tmp_path, choice):
    train_type = "full" if choice == "full" else "lora"
    named = choice if choice == "vision-lora+head" else None
    trained = perturbed(folder, train_type=train_type, trainable=named)
    save_policy(trained, tmp_path / "saved")
    assert (tmp_path / "saved" / "adapter_config.json").exists() == (choice != "full")
    expected = logps_of(trained, records[1], template)
    again = load_policy(tmp_path / "saved")
    assert torch.equal(logps_of(again, records[1], template_for(again)), expected)
    assert not torch.equal(logps_of(load_policy(folder), records[1], template), expected)
    # plain transformers, and PEFT, read the same
    if choice == "full":
        model = AutoModelForImageTextToText.from_pretrained(tmp_path / "saved")
    else:
        base = AutoModelForImageTextToText.from_pretrained(folder, tie_word_embeddings=named is None)
        model = PeftModel.from_pretrained(base, tmp_path / "saved")
    inputs = own_inputs(trained, records[1])
    with torch.no_grad():
        difference = model(**inputs).logits - trained.model(**inputs).logits
    assert difference.abs().max() < TOLERANCE


def test_an_adapter_of_another_model_knows_the_weights_it_was_trained_on(folder, tmp_path):
    save_policy(perturbed(folder, train_type="lora"), tmp_path / "adapter")
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert load_policy(tmp_path / "adapter", base=copy).base == copy
    tensors = load_file(copy / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layers.1.mlp.down_proj.weight"))
    tensors[name] += 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"adapter was trained on another base than .*copy, whose weights"):
        load_policy(tmp_path / "adapter", base=copy)


def test_a_card_names_its_own_model(folder, tmp_path):
    policy = perturbed(folder, train_type="lora")
    save_policy(policy, tmp_path / "adapter", card={"steps": 3})
    text = (tmp_path / "adapter" / "README.md").read_text()
    assert f"A vision adapter of {type(policy.model).__name__}, trained" in text
    assert "base = AutoModelForImageTextToText.from_pretrained(BASE)" in text
    assert "Phi" not in text.replace("CheX-Phi4MM", "")
