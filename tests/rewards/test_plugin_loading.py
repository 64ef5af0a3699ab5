"""Plugins written for ms-swift 3.3 load here, and this project's plugin.py loads under ms-swift 3.3."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from swift.plugin import ORM, orms
from swift.plugin.loader import load_external_plugins
from swift.plugin.rewards import build_rewards, reward_matrix
from swift.trainers.rlhf_trainer.grpo_trainer import GRPOTrainer
from swift.utils import distributed
from swift.utils.errors import UserError
from tests.support.builders import ROOT


@pytest.fixture(autouse=True)
def clean_registry(monkeypatch):
    """Remove after each test the rewards that its plugins registered."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = dict(orms)
    yield
    orms.clear()
    orms.update(before)


def written(folder: Path, text: str, name: str = "my_plugin.py") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


MS_SWIFT_PLUGIN = """
import functools
from typing import List

from swift.plugin import ORM, orms
from swift.utils import get_device_count, get_dist_setting, get_logger, is_dist, is_mp, is_mp_ddp

logger = get_logger()


class Shortness(ORM):

    def __call__(self, completions, solution, **kwargs) -> List[float]:
        return [1.0 if len(c) < len(s) else 0.0 for c, s in zip(completions, solution)]


class WithTokenizer(ORM):

    def __init__(self, tokenizer, max_completion_length=16):
        self.limit = max_completion_length

    def __call__(self, completions, **kwargs) -> List[float]:
        return [float(len(c) <= self.limit) for c in completions]


orms['shortness'] = Shortness
orms['with_tokenizer'] = WithTokenizer
logger.info(f'{get_dist_setting()} {get_device_count()} {is_dist()} {is_mp()} {is_mp_ddp()}')
"""

MS_SWIFT_HOOK = """
import functools
from swift.trainers.rlhf_trainer.grpo_trainer import GRPOTrainer

original = GRPOTrainer.__init__


@functools.wraps(original)
def patched(self, *args, **kwargs):
    original(self, *args, **kwargs)
    for name, parameter in self.model.named_parameters():
        parameter.requires_grad = 'lora' in name


GRPOTrainer.__init__ = patched
"""


def test_a_plugin_in_ms_swift_style_registers_its_rewards(tmp_path):
    load_external_plugins([written(tmp_path, MS_SWIFT_PLUGIN)])
    rewards = build_rewards(["shortness", "with_tokenizer"])
    assert isinstance(rewards[0][1], ORM)
    scores = reward_matrix(rewards, ["a", "b" * 17], {"solution": ["aa", "aa"], "messages": [[], []]})
    assert scores.tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_a_hook_in_ms_swift_style_wraps_the_trainer(tmp_path, monkeypatch):
    before = GRPOTrainer.__init__
    monkeypatch.setattr(GRPOTrainer, "__init__", before)  # put back afterwards
    load_external_plugins([written(tmp_path, MS_SWIFT_HOOK)])
    assert GRPOTrainer.__init__.__wrapped__ is before


def test_a_plugin_may_import_a_file_beside_it(tmp_path):
    written(tmp_path, "BONUS = 0.25\n", "beside_it.py")
    text = "from beside_it import BONUS\nfrom swift.plugin import orms\norms['b'] = lambda c, **k: [BONUS] * len(c)\n"
    load_external_plugins([written(tmp_path, text)])
    assert reward_matrix(build_rewards(["b"]), ["x"], {}).tolist() == [[0.25]]


def test_a_plugin_is_imported_once_however_often_it_is_named(tmp_path):
    text = "from swift.plugin import orms\norms['count'] = orms.get('count', 0) + 1\n"
    path = written(tmp_path, text)
    load_external_plugins([path, str(path)])
    load_external_plugins([tmp_path / "." / path.name])
    assert orms["count"] == 1


def test_a_plugin_named_like_a_module_shadows_nothing(tmp_path):
    (tmp_path / "other").mkdir()
    first = written(tmp_path, "from swift.plugin import orms\norms['one'] = print\n", "json.py")
    second = written(tmp_path / "other", "from swift.plugin import orms\norms['two'] = print\n", "json.py")
    load_external_plugins([first, second])
    assert {"one", "two"} <= set(orms)
    assert hasattr(__import__("json"), "loads")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ndef f(:\n", r"my_plugin\.py: line 2: SyntaxError: .*; fix the plugin"),
        ("x = 1\n\nraise RuntimeError('no\\nGPU')\n", r"my_plugin\.py: line 3: RuntimeError: no GPU; fix"),
        ("import no_such_module\n", r"my_plugin\.py: line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("from swift.plugin import nothing\n", r"line 1: ImportError: cannot import name 'nothing'"),
        ("import json\n\njson.loads('{')\n", r"my_plugin\.py: line 3: JSONDecodeError"),
    ],
)
def test_a_broken_plugin_is_one_line_with_file_line_and_remedy(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        load_external_plugins([written(tmp_path, text)])
    assert "\n" not in str(caught.value)


def test_a_broken_plugin_can_be_fixed_and_loaded_again(tmp_path):
    path = written(tmp_path, "1 / 0\n")
    with pytest.raises(UserError):
        load_external_plugins([path])
    written(tmp_path, "from swift.plugin import orms\norms['fixed'] = print\n")
    load_external_plugins([path])
    assert "fixed" in orms


@pytest.mark.parametrize(("name", "message"), [("absent.py", "no such file"), ("plugin.txt", "must end in .py")])
def test_a_plugin_that_is_no_python_file_is_refused(tmp_path, name, message):
    written(tmp_path, "", "plugin.txt")
    with pytest.raises(UserError, match=message):
        load_external_plugins([tmp_path / name])


DISTRIBUTED = [
    ({}, (-1, -1, 1, 1), False, True),
    ({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, (3, 1, 4, 2), True, False),
    ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_SIZE": "2"}, (0, 0, 2, 2), True, True),
]


@pytest.mark.parametrize(("environment", "setting", "distributed_run", "master"), DISTRIBUTED)
def test_distributed_settings_come_from_the_launcher(monkeypatch, environment, setting, distributed_run, master):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert distributed.get_dist_setting() == setting
    assert distributed.is_dist() is distributed_run
    assert distributed.is_master() is master


@pytest.mark.skipif(torch.accelerator.is_available(), reason="checks the answer on a CPU")
def test_without_accelerators_nothing_is_model_parallel():
    assert distributed.get_device_count() == 0
    assert not distributed.is_mp()
    assert not distributed.is_mp_ddp()


def test_swift_utils_and_the_plugin_contract_import_without_torch():
    code = "import sys, swift.utils, swift.plugin; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("switch", ["0", "1"])
def test_plugin_py_wraps_the_trainer_only_when_asked(tmp_path, monkeypatch, unhooked_trainer, switch):
    monkeypatch.setenv("FREEZE_NON_VISION_PARAMS", switch)
    load_external_plugins([shutil.copy(ROOT / "plugin.py", tmp_path)])
    assert hasattr(unhooked_trainer.__init__, "__wrapped__") is (switch == "1")


# The part of ms-swift 3.3 that plugin.py may rely on, and no more.
FAKE_MS_SWIFT = {
    "swift/__init__.py": "",
    "swift/plugin/__init__.py": """
class ORM:
    def __call__(self, **kwargs):
        raise NotImplementedError

orms = {}
""",
    "swift/utils/__init__.py": """
import logging

def get_logger():
    logger = logging.getLogger("swift")
    logging.basicConfig(level="INFO")
    return logger

def get_dist_setting(): return -1, -1, 1, 1
def get_device_count(): return 0
def is_dist(): return False
def is_mp(): return False
def is_mp_ddp(): return False
""",
    "swift/trainers/__init__.py": "",
    "swift/trainers/rlhf_trainer/__init__.py": "",
    "swift/trainers/rlhf_trainer/grpo_trainer.py": """
import inspect
import torch
from swift.plugin import orms

class Words:
    def encode(self, text, add_special_tokens):
        return text.split()

class GRPOTrainer:
    def __init__(self, model=None, ref_model=None, reward_model=None, reward_funcs=None, *_args, **kwargs):
        self.model, self.args = model, kwargs["args"]
        self.reward_funcs = []
        for name in reward_funcs:
            parameters = inspect.signature(orms[name].__init__).parameters
            settings = {key: getattr(self.args, key) for key in parameters if hasattr(self.args, key)}
            if "tokenizer" in parameters:
                settings["tokenizer"] = Words()
            self.reward_funcs.append(orms[name](**settings))

    def rewards(self, completions, **columns):
        return [torch.tensor(reward(completions, **columns), dtype=torch.float32) for reward in self.reward_funcs]
""",
}

USE_PLUGIN_THERE = """
import importlib
import sys
from types import SimpleNamespace

import torch
import swift.plugin

importlib.import_module("plugin")

class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        names = ("vision", "speech")
        self.lora_A = torch.nn.ModuleDict({name: torch.nn.Linear(4, 2, bias=False) for name in names})
        self.lora_B = torch.nn.ModuleDict({name: torch.nn.Linear(2, 4, bias=False) for name in names})

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(6, 4)
        self.layers = torch.nn.ModuleList([Layer(), Layer()])
        self.lm_head = torch.nn.Linear(4, 6, bias=False)
        self.lm_head.weight = self.embed_tokens.weight
        self.config = SimpleNamespace(tie_word_embeddings=True)

    def get_input_embeddings(self): return self.embed_tokens
    def get_output_embeddings(self): return self.lm_head

from swift.trainers.rlhf_trainer.grpo_trainer import GRPOTrainer

names = [name for name in swift.plugin.orms if name not in ("external_math_acc", "external_radeval")]
args = SimpleNamespace(per_device_train_batch_size=8, gradient_accumulation_steps=2, max_completion_length=4,
                       soft_cache_length=2)
trainer = GRPOTrainer(Model(), None, None, names, args=args)
texts = ["<think>Small right pleural effusion.</think><answer>yes</answer>"] * 2
question = {"role": "user", "content": "Is there an effusion?"}
columns = {"solution": texts, "messages": [[question]] * 2, "nums": [[1], [1]], "target": [1, 1],
           "report": ["Right effusion."] * 2}
print(sorted(swift.plugin.orms))
print({name: values.tolist() for name, values in zip(names, trainer.rewards(texts, **columns))})
print([name for name, tensor in trainer.model.named_parameters() if tensor.requires_grad])
print(trainer.model.config.tie_word_embeddings)
"""


def test_plugin_py_registers_rewards_and_freezing_under_ms_swift(tmp_path):
    for name, text in FAKE_MS_SWIFT.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    here = tmp_path / "plugin_folder"
    here.mkdir()
    shutil.copy(ROOT / "plugin.py", here)
    for package in ("utils", "ReXKG"):
        shutil.copytree(ROOT / package, here / package, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}:{here}", "FREEZE_NON_VISION_PARAMS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", USE_PLUGIN_THERE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    registered, rewards, trainable, tied = process.stdout.splitlines()
    names = (
        "r1v_acc", "acc_strict", "kg_jac", "kg_f1", "format", "length", "math_acc", "math_format", "countdown",
        "code_reward", "code_format", "findings", "consistency", "kg_report", "radeval",
    )  # fmt: skip
    assert registered == str(sorted(f"external_{name}" for name in names))
    # The completions repeat their solutions: right, the same graph, well formed, four words; no sum and no code. The
    # report supports one fact: 1 / (1 + 1).
    assert rewards == str(
        {
            "external_r1v_acc": [1.0, 1.0],
            "external_acc_strict": [1.0, 1.0],
            "external_kg_jac": [1.0, 1.0],
            "external_kg_f1": [1.0, 1.0],
            "external_findings": [1.0, 1.0],
            "external_consistency": [1.0, 1.0],
            "external_kg_report": [0.5, 0.5],
            "external_format": [1.0, 1.0],
            "external_length": [-1.0, -1.0],
            "external_math_format": [1.0, 1.0],
            "external_countdown": [0.0, 0.0],
            "external_code_reward": [0.0, 0.0],
            "external_code_format": [0.0, 0.0],
        }
    )
    lora = [f"layers.{layer}.lora_{half}.vision.weight" for layer in (0, 1) for half in "AB"]
    assert trainable == str([*lora, "lm_head.weight"])
    assert tied == "False"
    assert "layers.*.lora_A.vision.weight x 2: 16" in process.stderr
    assert "batch per device 8, global 16" in process.stderr
