"""Nothing in a checkpoint, a data set or an image runs, wherever a pickle or a module is put. Refusals are one line."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet

from swift.cli.rlhf import main as rlhf
from swift.llm.checkpoint.load import load_policy
from swift.llm.dataset import load_records
from swift.utils.errors import UserError
from swift.utils.plain_pickles import read_plain_pickle
from tests.support.builders import rlhf_command
from tests.support.hostile.pickles import Payload, write_code, write_pickle
from tests.support.tiny_models import WRITERS
from tools.convert_checkpoint import main as convert
from tools.reward_audit import main as audit

WAYS = ("torch", "old", "pickle")


@pytest.fixture
def mark(tmp_path) -> Path:
    """A file that exists once something has run."""
    return tmp_path / "it ran"


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory) -> Path:
    """A run of two checkpoints whose reference moves."""
    output = tmp_path_factory.mktemp("finished") / "run"
    assert rlhf(rlhf_command(world, output, max_steps=2, save_steps=1, **MOVING)) == 0
    return output


MOVING = {"sync_ref_model": True, "ref_model_sync_steps": 1, "beta": 0.1}


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of the run. A stranger would write checksums.json anew, so there is none."""
    folder = shutil.copytree(finished, tmp_path / "run")
    for sums in folder.glob("checkpoint-*/checksums.json"):
        sums.unlink()
    return folder


def refusal(capsys) -> str:
    """The one line of an error."""
    err = capsys.readouterr().err
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    return line


STATE = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt", "reference.pt")


@pytest.mark.parametrize("by", WAYS)
@pytest.mark.parametrize("name", STATE)
def test_a_state_of_training_that_would_run_is_refused(world, run, mark, capsys, name, by):
    write_pickle(run / "checkpoint-2" / name, mark, by=by)
    flags = rlhf_command(world, run, resume_from_checkpoint=run / "checkpoint-2", max_steps=3, **MOVING)
    assert rlhf(flags) == 2
    assert not mark.exists()
    assert f"{name} is not a pickle of plain tensors and could run code, so it is not read; name an older" in (
        refusal(capsys)
    )


@pytest.mark.parametrize(
    "content", [b"", b"x", b"PK\x03\x04", b"\x80\x02]q\x00."], ids=["empty", "text", "zip", "a list"]
)
@pytest.mark.parametrize("name", STATE)
def test_a_damaged_state_of_training_is_refused_in_one_line(world, run, capsys, name, content):
    (run / "checkpoint-2" / name).write_bytes(content)
    assert rlhf(rlhf_command(world, run, resume_from_checkpoint=run / "checkpoint-2", max_steps=3, **MOVING)) == 2
    assert name in refusal(capsys)


def test_resuming_goes_back_to_the_checkpoint_before(world, run, mark, caplog):
    write_pickle(run / "checkpoint-2" / "optimizer.pt", mark)
    flags = rlhf_command(world, run, resume_from_checkpoint=True, max_steps=2, save_steps=1, **MOVING)
    assert rlhf(flags) == 0
    assert not mark.exists()
    assert any("checkpoint-2/optimizer.pt is not a pickle of plain tensors" in text for text in caplog.messages)


def test_pickles_that_nobody_reads_do_not_run(world, run, mark):
    """transformers itself writes training_args.bin; weights are read from safetensors if there are any."""
    for name in ("training_args.bin", "pytorch_model.bin", "adapter_model.bin", "optimizer.bin", "custom.pkl"):
        write_pickle(run / "checkpoint-1" / name, mark)
    flags = {"resume_from_checkpoint": run / "checkpoint-1", "max_steps": 2, "save_steps": 1}
    assert rlhf(rlhf_command(world, run, **flags, **MOVING)) == 0
    assert not mark.exists()


@pytest.mark.parametrize("by", WAYS)
@pytest.mark.parametrize("flag", ["model", "ref_model", "base_model"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin"])
def test_weights_that_would_run_are_refused(world, tmp_path, mark, capsys, name, flag, by):
    model = shutil.copytree(world / "policy", tmp_path / "model")
    folder = model / "vision-lora" if name == "adapter_model.bin" else model
    for weights in folder.glob("*.safetensors*"):
        weights.unlink()
    write_pickle(folder / name, mark, by=by)
    given = {"model": world / "policy", flag: model}
    if flag == "base_model":  # of a folder that holds an adapter alone
        given["model"] = shutil.copytree(world / "policy" / "vision-lora", tmp_path / "adapter")
    assert rlhf(rlhf_command(world, tmp_path / "run", **given)) == 2
    assert not mark.exists()
    assert f"{name} is not a pickle of plain tensors and could run code" in refusal(capsys)


def test_a_source_of_conversion_that_would_run_is_refused(world, tmp_path, mark, capsys):
    model = shutil.copytree(world / "policy", tmp_path / "model")
    for weights in model.glob("*.safetensors*"):
        weights.unlink()
    write_pickle(model / "pytorch_model.bin", mark)
    assert convert([str(model), str(tmp_path / "out"), "--to", "remote"]) == 2
    assert not mark.exists()
    assert "could run code" in refusal(capsys)


CODE_FILES = ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
CLASSES = (
    "AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoProcessor",
    "AutoImageProcessor", "AutoFeatureExtractor",
)  # fmt: skip


@pytest.mark.parametrize("kind", [None, "bogus"], ids=["known", "unknown"])
@pytest.mark.parametrize("model", ["policy", "llava"])
def test_modules_that_a_folder_names_are_not_imported(world, tmp_path, mark, capsys, monkeypatch, model, kind):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asks whether to run the code"))
    folder = tmp_path / "model"
    shutil.copytree(world / "policy", folder) if model == "policy" else WRITERS[model](folder)
    module = write_code(folder, mark)
    for name in CODE_FILES:
        path = folder / name
        values = json.loads(path.read_text()) if path.exists() else {}
        named = {name: f"{module}.{name}" for name in CLASSES} | {"AutoTokenizer": [f"{module}.A", f"{module}.B"]}
        values |= {"auto_map": named, "custom_generate": module, "parent_library": module}
        if kind and name == "config.json":
            values["model_type"] = kind
        path.write_text(json.dumps(values))
    if kind:
        assert rlhf(rlhf_command(world, tmp_path / "run", model=folder)) == 2
        assert "model_type" in refusal(capsys)
    else:
        load_policy(folder, dtype=torch.float32)
    assert not mark.exists()


def test_an_adapter_does_not_import_what_it_names(world, tmp_path, mark):
    model = shutil.copytree(world / "policy", tmp_path / "model")
    path = model / "vision-lora" / "adapter_config.json"
    module = write_code(tmp_path, mark)
    values = json.loads(path.read_text())
    values |= {"auto_mapping": {"base_model_class": "A", "parent_library": module}, "lora_bias": False}
    path.write_text(json.dumps(values))
    load_policy(model, dtype=torch.float32)
    assert not mark.exists()


TEMPLATES = {
    "attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "functions": "{{ cycler.__init__.__globals__.os.system('touch MARK') }}",
    "files": "{% include '/etc/passwd' %}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_chat_template_does_not_run_code(world, tmp_path, mark, capsys, template):
    folder = tmp_path / "model"
    WRITERS["llava"](folder)
    text = template.replace("MARK", str(mark).replace(" ", "\\\\ "))
    for path in folder.glob("chat_template*"):
        path.unlink()
    (folder / "chat_template.jinja").write_text(text)
    for name in ("tokenizer_config.json", "processor_config.json"):
        if (folder / name).exists():
            values = json.loads((folder / name).read_text()) | {"chat_template": text}
            (folder / name).write_text(json.dumps(values))
    assert rlhf(rlhf_command(world, tmp_path / "run", model=folder, train_type="lora")) == 2
    assert not mark.exists()
    assert "template" in refusal(capsys)


@pytest.mark.parametrize("suffix", [".pkl", ".json", ".jsonl", ".csv", ".parquet", ".npz", ".pt"])
def test_a_dataset_that_is_a_pickle_is_refused(world, tmp_path, mark, capsys, suffix):
    path = write_pickle(tmp_path / f"train{suffix}", mark, by="pickle")
    assert rlhf(rlhf_command(world, tmp_path / "run", dataset=path)) == 2
    assert not mark.exists()
    assert path.name in refusal(capsys)


def test_the_metadata_of_a_table_is_not_unpickled(world, tmp_path, mark):
    pickled = write_pickle(tmp_path / "a", mark, by="pickle")
    extension = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickled.read_bytes()}
    names = ("question", "solution", "images")
    fields = [pyarrow.field(name, pyarrow.string(), metadata=extension) for name in names]
    schema = pyarrow.schema(fields, metadata={b"pandas": pickled.read_bytes(), b"pickle": pickled.read_bytes()})
    columns = [["Is it?"] * 4, ["<answer>yes</answer>"] * 4, ["000.png"] * 4]
    parquet.write_table(pyarrow.table(columns, schema=schema), tmp_path / "a.parquet")
    assert len(load_records([tmp_path / "a.parquet"], image_root=world / "data" / "images")) == 4
    assert not mark.exists()


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.png", "a.dcm", "a.tif", "a.pt"])
def test_an_image_that_is_a_pickle_is_refused(world, tmp_path, mark, capsys, name):
    path = tmp_path / name
    if path.suffix in (".npy", ".npz"):
        objects = np.array([Payload(mark)], dtype=object)
        (np.save if path.suffix == ".npy" else np.savez)(path, objects, allow_pickle=True)
    else:
        write_pickle(path, mark, by="pickle")
    row = {"images": [str(path)], "question": "Is it?", "solution": "<answer>yes</answer>"}
    (tmp_path / "train.json").write_text(json.dumps([row] * 4))
    assert rlhf(rlhf_command(world, tmp_path / "run", dataset=tmp_path / "train.json", image_root=tmp_path)) == 2
    assert not mark.exists()
    assert name in refusal(capsys)


def test_completions_that_are_a_pickle_are_refused(tmp_path, mark, capsys):
    path = write_pickle(tmp_path / "completions.jsonl", mark, by="pickle")
    assert audit(["--completions", str(path), "--output", str(tmp_path / "out")]) == 2
    assert not mark.exists()
    assert refusal(capsys)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_a_pickle_with_flipped_bytes_is_read_or_refused_in_one_line(tmp_path, zipped):
    value = {"state": {0: {"step": torch.tensor(1.0)}}, "numpy": np.random.get_state()}
    torch.save(value, tmp_path / "whole.pt", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "whole.pt").read_bytes()
    generator, path = np.random.default_rng(0), tmp_path / "flipped.pt"
    refused = []
    for _ in range(150):
        content = bytearray(whole)
        content[generator.integers(len(whole))] = generator.integers(256)
        content[generator.integers(200)] = generator.integers(256)
        path.write_bytes(content)
        try:
            read_plain_pickle(path, "remedy", mapped=zipped and zipfile.is_zipfile(path))
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert [text for text in refused if "\n" in text] == []
