"""python -m swift.cli.rlhf from its flags to its files, and its message for every kind of bad input."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from swift.cli.rlhf import main
from swift.llm.checkpoint.adapters import HEAD_WEIGHT
from swift.llm.checkpoint.load import load_policy
from swift.utils.files import write_json
from tests.support.builders import PUBLISHED_FLAGS, ROOT, rlhf_command, run_python

STEPS = 2


@pytest.fixture(scope="module")
def frozen(world, tmp_path_factory) -> tuple[Path, str]:
    """The folder and the log of a run under the freezing hook."""
    output = tmp_path_factory.mktemp("frozen") / "run"
    command = rlhf_command(world, output, max_steps=STEPS, weight_decay=0.1)
    process = run_python("swift.cli.rlhf", *command, FREEZE_NON_VISION_PARAMS="1")
    assert process.returncode == 0, process.stderr
    return output, process.stderr


def test_log_groups_what_trains_with_counts_and_share(frozen):
    _, log = frozen
    # Rank 4 on a hidden size of 32: A is 4 x 32 in each of 3 layers; the untied head is 512 x 32 = 16,384.
    assert "model.layers.*.self_attn.qkv_proj.lora_A.vision.weight x 3: 384\n" in log
    assert "lm_head.weight x 1: 16,384\n" in log
    # Adapters: 3 layers x 4 x (in + out) of qkv 32 + 64, o 32 + 32, gate_up 32 + 96, down 48 + 32 = 4,416.
    assert "trainable 20,800 of 85,288 parameters (24.39%)" in log


def test_log_shows_the_parallel_settings(frozen):
    assert "rank -1, world size 1, backend none" in frozen[1]
    assert "batch per device 8, global 8" in frozen[1]


def test_hook_changes_the_vision_lora_and_the_head_only(frozen, world):
    before, after = (load_policy(path).model.state_dict() for path in (world / "policy", frozen[0]))
    assert before.keys() == after.keys()
    changed = {name for name, value in after.items() if value.numpy().tobytes() != before[name].numpy().tobytes()}
    assert changed == {name for name in after if ".lora_" in name or name == HEAD_WEIGHT}


def test_run_folder_holds_the_documented_files(frozen):
    assert {path.name for path in frozen[0].iterdir()} == {
        ".lock",
        "args.json",
        "completions.jsonl",
        "curves.png",
        f"checkpoint-{STEPS}",
    }


def test_args_json_tells_what_the_run_was_told_and_ran_on(frozen, world):
    info = json.loads((frozen[0] / "args.json").read_text(encoding="utf-8"))
    expected = {"model": str(world / "policy"), "num_generations": 4, "beta": 0.5, "max_steps": STEPS}
    assert {name: info["arguments"][name] for name in expected} == expected
    assert (info["seed"], info["world_size"], info["image_separator"]) == (42, 1, "")
    assert {"torch", "transformers", "peft", "python"} <= info["versions"].keys()
    assert info["extractor"].startswith("lexicon-")
    assert info["environment"] == {"FREEZE_NON_VISION_PARAMS": "1", "OMP_NUM_THREADS": "1"}
    assert info["git"] is None or len(info["git"]["commit"]) == 40


def test_curves_are_a_picture(frozen):
    with Image.open(frozen[0] / "curves.png") as picture:
        picture.load()
        assert picture.format == "PNG"
        assert min(picture.size) > 300


@pytest.mark.usefixtures("unhooked_trainer")
def test_hook_refuses_a_checkpoint_without_vision_adapter(world, tmp_path, monkeypatch, capsys):
    policy = shutil.copytree(world / "policy", tmp_path / "policy")
    (policy / "vision-lora").rename(policy / "speech-lora")
    monkeypatch.setenv("FREEZE_NON_VISION_PARAMS", "1")
    plugin = shutil.copy(ROOT / "plugin.py", tmp_path)  # a plugin that was loaded before is not loaded again
    flags = {"model": policy, "external_plugins": plugin, "reward_funcs": "external_format"}
    assert main(rlhf_command(world, tmp_path / "run", **flags)) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    (line,) = [line for line in error.splitlines() if line.startswith("error:")]
    assert "no vision LoRA in the model (its adapters are speech)" in line
    assert "load a checkpoint with its adapter named 'vision'" in line


def test_the_published_flags_train(world, tmp_path):
    """All flags of the published sweep, in a shorter run and on a CPU, so flash attention becomes sdpa."""
    flags = shlex.split(PUBLISHED_FLAGS.replace("DIR", str(world / "policy")))
    flags[flags.index("one.json") : flags.index("two.json") + 1] = [str(world / "data" / "train.json")] * 2
    shorter = ["--max_completion_length", "12", "--max_steps", "2", "--use_cpu", "--output_dir", str(tmp_path / "run")]
    assert main([*flags, *shorter]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "completions.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 8
    saved = load_file(tmp_path / "run" / "checkpoint-2" / "adapter_model.safetensors")
    assert {str(value.dtype) for value in saved.values()} == {"torch.float32"}


GOOD = {
    "images": ["good.png"],
    "messages": [{"role": "user", "content": "Is there a nodule?"}],
    "solution": "<answer>no</answer>",
}


@pytest.fixture
def refused(world, tmp_path, capsys):
    """Run the command on bad input and return its one line; {root} in a flag stands for the test's folder.

    The model's folder does not exist and is looked for last, so that a line about anything else shows that no model
    was loaded.
    """
    (tmp_path / "images").mkdir()
    whole = Image.effect_noise((56, 56), 9)
    whole.save(tmp_path / "images" / "good.png")
    whole.save(tmp_path / "secret.png")
    data = (tmp_path / "secret.png").read_bytes()
    (tmp_path / "images" / "cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "images" / "notes.png").write_text("Findings: none.")
    (tmp_path / "broken.py").write_text("from swift.plugin import ORM\n\nclass Mine(ORM)\n    pass\n")
    (tmp_path / "occupied" / "checkpoint-3").mkdir(parents=True)

    def run(content: str | list, **flags: str) -> str:
        if isinstance(content, list):
            write_json(tmp_path / "train.json", content)
        else:
            (tmp_path / "train.json").write_text(content)
        flags = {name: value.format(root=tmp_path) for name, value in flags.items()}
        settings = {"model": tmp_path / "nowhere", "dataset": tmp_path / "train.json", **flags}
        assert main(rlhf_command(world, tmp_path / "run", **settings)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert not (tmp_path / "run").exists()
        return line

    return run


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": ["gone.png"]}, ["field 'images'[0]", "gone.png is missing", "put the file there"]),
        (
            {"images": ["good.png", "cut.png"]},
            ["field 'images'[1]", "cut.png is truncated", "copy or convert it again"],
        ),
        ({"images": ["notes.png"]}, ["field 'images'[0]", "notes.png is not a PNG", "convert it to PNG"]),
        ({"images": ["../secret.png"]}, ["field 'images'[0]", "outside the image root", "pass --image_root"]),
        ({"images": None, "image": "data:image/png;base64,A?"}, ["field 'image'", "not valid base64", "encode"]),
        ({"solution": None}, ["field 'solution' is missing", "add it"]),
        ({"messages": []}, ["field 'messages' has no user turn", "add {"]),
    ],
    ids=["missing", "truncated", "not an image", "outside", "base64", "no solution", "no question"],
)
def test_a_bad_record_is_named_with_field_and_remedy(refused, change, words):
    line = refused([GOOD, GOOD | change, GOOD])
    assert all(word in line for word in ["train.json record 1", *words]), line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[{"images": []},\n{"images" []}]', ["malformed JSON at line 2, column 11", "must be a JSON list"]),
        ('{"images": []}\n\n{"images" []}', ["malformed JSON at line 3, column 11", "one JSON object per line"]),
        ("[]", ["holds no records", "pass another file"]),
        ("\n", ["holds no records", "pass another file"]),
    ],
    ids=["list", "lines", "empty list", "empty file"],
)
def test_a_bad_file_is_named_with_line_and_remedy(refused, content, words):
    line = refused(content)
    assert all(word in line for word in ["train.json", *words]), line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"reward_funcs": "external_kg_jack"}, ["unknown reward 'external_kg_jack'", "mean 'external_kg_jac'?"]),
        ({"external_plugins": "{root}/broken.py"}, ["broken.py: line 3: SyntaxError: expected ':'", "fix the plugin"]),
        ({"external_plugins": "{root}/gone.py"}, ["gone.py: no such file", "give the path"]),
        (
            {"reward_funcs": "external_countdown"},
            ["record 0", "field 'target': missing", "external_countdown", "add it"],
        ),
        ({"learning_rat": "1"}, ["unknown flag --learning_rat", "nearest known one is --learning_rate"]),
        ({"output_dir": "{root}/occupied"}, ["occupied holds another run", "--resume_from_checkpoint true", "another"]),
        ({"dataset": "{root}/gone.json"}, ["gone.json does not exist", "correct the path"]),
        ({"model": "{root}/nowhere"}, ["model folder", "nowhere does not exist", "give the folder"]),
        ({"model": "{root}/images"}, ["images has neither config.json nor a finished checkpoint", "give the folder"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_bad_flag_is_named_with_what_would_be_right(refused, flags, words):
    line = refused([GOOD], **flags)
    assert all(word in line for word in words), line


def test_a_missing_reference_is_found_before_the_policy_is_loaded(refused, world):
    assert "gone does not exist" in refused([GOOD], model=str(world / "policy"), ref_model="{root}/gone")


def test_a_reward_that_fails_in_a_run_is_one_line(world, tmp_path, capsys):
    (tmp_path / "fails.py").write_text(
        "from swift.plugin import orms\norms['fails'] = lambda texts, **columns: 1 / 0\n"
    )
    command = rlhf_command(world, tmp_path / "run", external_plugins=tmp_path / "fails.py", reward_funcs="fails")
    assert main(command) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "reward 'fails' failed" in line
    assert "fails.py line 2: ZeroDivisionError" in line
