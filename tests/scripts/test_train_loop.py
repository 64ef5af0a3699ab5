"""train_loop.sh, mostly with a stand-in for the trainer (tests/support/sweep_stand_in.py), once with the real one."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from swift.utils.errors import UserError
from tests.support.builders import ROOT
from tests.support.sweep_loop import Loop
from tools.sweeps import jobs as sweep_jobs
from tools.sweeps.grid import plan_sweep
from tools.sweeps.runs import flags_of
from tools.sweeps.settings import EvaluationSettings, RunSettings, SweepSettings

SHELLCHECK = shutil.which("shellcheck")
SCRIPTS = ("train.sh", "train_loop.sh", "tools/launch.sh", "tools/demo.sh", "evaluate.sh", "get_kg_metric.sh")


@pytest.fixture
def loop(tmp_path):
    return Loop(tmp_path)


def test_every_combination_is_trained_once(loop):
    status, said = loop.run(LRS="6e-5 1e-5", REWARD_SETS="external_r1v_acc, external_r1v_acc external_kg_jac")
    assert status == 0, said
    assert "16 of 16 runs finished" in said
    calls = [call["flags"] for call in loop.calls()]
    settings = {
        (*flags["learning_rate"], *flags["seed"], *flags["dataset"], len(flags["reward_funcs"])) for flags in calls
    }
    assert len(calls) == len(settings) == 16
    assert len(list(loop.folder.glob("logs/20*_uniform_4_lr1e-5_g8_beta0.5_r1v_acc_seed0.log"))) == 1


def test_finished_runs_are_skipped(loop):
    assert loop.run()[0] == 0
    status, said = loop.run(SEEDS="0 1 2")
    assert status == 0, said
    seeds = [call["flags"]["seed"] for call in loop.calls()]
    assert sorted(seeds) == [["0"], ["0"], ["1"], ["1"], ["2"], ["2"]]
    assert "6 of 6 runs finished" in said


def test_a_dry_run_prints_the_plan_and_does_nothing(loop):
    assert loop.run(SIZES="4")[0] == 0
    before = sorted(loop.folder.rglob("*"))
    status, said = loop.run("--dry-run", SIZES="4 8 9")
    assert status == 1, said
    rows = {line.split()[0]: line.split()[1] for line in said.splitlines() if line.startswith("uniform_")}
    expected = {4: "finished", 8: "start", 9: "fails"}
    assert rows == {loop.tag(size, seed): word for size, word in expected.items() for seed in (0, 1)}
    assert f"fails: {loop.tag(9, 0)}: data {loop.data('uniform/9.json')} is missing" in said
    assert "--learning_rate 6e-5" in said
    assert sorted(loop.folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "type"),
    [
        ("uniform/valid_sample_vqa_5.json", "uniform"),
        ("hard_uniform/5.json", "hard_sample"),
        ("uniform/5.json", "uniform_sample"),
        ("hard_sample/5.json", "hard_sample"),
    ],
)
def test_data_are_found_under_the_names_that_were_published(loop, name, type):
    loop.data(name).parent.mkdir(exist_ok=True)
    loop.data(name).write_text("[5]")
    status, said = loop.run(SIZES="5", TYPES=type, SEEDS="0")
    assert status == 0, said
    assert loop.calls()[0]["flags"]["dataset"] == [str(loop.data(name))]


def test_a_failing_run_and_missing_data_are_listed_and_the_others_go_on(loop):
    status, said = loop.run(FAIL=loop.tag(4, 1), SIZES="4 8 9", SEEDS="1 0")
    assert status == 1
    assert "3 of 6 runs finished" in said
    assert f"failed: {loop.tag(4, 1)}: exit status 3: error: out of luck (log {loop.folder}/logs/" in said
    assert f"failed: {loop.tag(9, 0)}: data {loop.data('uniform/9.json')} is missing" in said
    assert len([call for call in loop.calls() if call["flags"]["seed"] == ["0"]]) == 2


def test_a_killed_run_is_resumed(loop):
    status, said = loop.run(DIE=loop.tag(8, 0), SEEDS="0")
    assert status == 1
    assert f"failed: {loop.tag(8, 0)}: signal 9" in said
    status, said = loop.run("--dry-run", SEEDS="0")
    assert f"{loop.tag(8, 0)}   resume" in said
    status, said = loop.run(SEEDS="0")
    assert status == 0, said
    assert loop.steps(loop.tag(8, 0)) == [1, 2, 3, 4]
    died, resumed = (call["flags"] for call in loop.calls() if "_8_" in call["flags"]["output_dir"][0])
    assert "resume_from_checkpoint" not in died
    assert resumed["resume_from_checkpoint"] == ["true"]


@pytest.mark.parametrize(
    ("settings", "flags", "words"),
    [
        (
            {"TEMPERATURE": "0.7"},
            [],
            ["holds another run: temperature was '0.9' and is now '0.7'", "remove the folder"],
        ),
        ({}, ["--top_k", "5"], ["holds another run: top_k was not set and is now '5'"]),
        ({"KG_TEXT": "whole"}, [], ["holds another run: KG_TEXT was not set and is now 'whole'"]),
    ],
)
def test_a_finished_run_of_other_settings_is_refused(loop, settings, flags, words):
    assert loop.run(SIZES="4", SEEDS="0")[0] == 0
    status, said = loop.run(*flags, SIZES="4", SEEDS="0", **settings)
    assert status == 1
    assert all(word in said for word in words), said
    assert len(loop.calls()) == 1


def test_a_run_on_data_that_changed_since_is_refused(loop):
    assert loop.run(SIZES="4", SEEDS="0")[0] == 0
    loop.data("uniform/4.json").write_text("[5]")
    status, said = loop.run(SIZES="4", SEEDS="0")
    assert status == 1
    assert "4.json is not what" in said
    assert "sample it again, or remove the folder" in said


def test_a_folder_of_something_else_is_refused(loop):
    folder = loop.sweep / loop.tag(4, 0)
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    status, said = loop.run(SIZES="4", SEEDS="0")
    assert status == 1
    assert "holds something else, without a readable args.json" in said


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["TERM to the script", "Ctrl-C to all of its terminal"])
def test_an_interrupt_keeps_the_work_and_the_next_start_goes_on(loop, send):
    process = loop.start(STEP_SECONDS="0.3")
    first = loop.sweep / loop.tag(4, 0)
    loop.wait_for((first / "checkpoint-1" / "trainer_state.json").exists)
    send(process.pid, signal.SIGTERM if send is os.kill else signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert "start the same command again to resume" in err
    done = len(loop.steps(first.name))
    assert 1 <= done < 4
    assert len(loop.calls()) == 1  # it ended of itself, after its step
    assert (first / f"checkpoint-{done}" / "trainer_state.json").exists()
    assert sorted(loop.statuses().values()) == ["interrupted", "planned", "planned", "planned"]
    status, said = loop.run()
    assert status == 0, said
    assert loop.steps(first.name) == [1, 2, 3, 4]
    assert set(loop.statuses().values()) == {"finished"}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
def test_a_killed_sweep_takes_its_runs_along_and_the_next_start_goes_on(loop):
    process = loop.start(STEP_SECONDS="0.3")
    first = loop.sweep / loop.tag(4, 0)
    loop.wait_for((first / "checkpoint-1" / "trainer_state.json").exists)
    process.kill()
    process.communicate(timeout=20)
    status, said = loop.run()  # waits for the lock that the stopping run still holds
    assert status == 0, said
    assert loop.steps(first.name) == [1, 2, 3, 4]
    # Its own checkpoint after the step it was in, then what was left.
    stopped, resumed = (call for call in loop.calls() if call["flags"]["output_dir"] == [str(first)])
    assert stopped["ended"] < resumed["began"]


def test_runs_go_side_by_side_on_the_gpus_named(loop):
    status, said = loop.run(GPUS="3 1,2", STEP_SECONDS="0.1")
    assert status == 0, said
    calls = sorted(loop.calls(), key=lambda call: call["began"])
    assert {call["gpus"] for call in calls[:2]} == {"3", "1,2"}
    assert calls[1]["began"] < calls[0]["ended"]
    for gpus in ("3", "1,2"):
        own = [call for call in calls if call["gpus"] == gpus]
        assert all(later["began"] >= earlier["ended"] for earlier, later in itertools.pairwise(own))


def test_each_run_is_evaluated_when_asked_and_summarized(loop):
    status, said = loop.run(EVALUATE="true", FAIL=loop.tag(8, 1))
    assert status == 1
    summary = json.loads((loop.sweep / "summary.json").read_text())["rows"]
    assert [(row["size"], row["seeds"]) for row in summary] == [("4", ["0", "1"]), ("8", ["0"])]
    assert summary[1]["not_in_the_numbers"] == ["seed 1 failed: exit status 3: error: out of luck"]
    assert "seed 1 failed" in (loop.sweep / "summary.md").read_text()
    before = len(loop.calls())
    status, said = loop.run(EVALUATE="true")
    assert status == 0, said
    assert len(loop.calls()) == before + 2  # the failed run, trained and evaluated
    assert loop.run(EVALUATE="true", EVAL_SAMPLES="5")[0] == 0
    assert [set(call["flags"]) & {"max_samples"} for call in loop.calls()[before + 2 :]] == [{"max_samples"}] * 4


def test_changed_evaluation_settings_replace_the_evaluation(loop):
    settings = {"SIZES": "4", "EVALUATE": "true"}
    assert loop.run(**settings)[0] == 0
    assert loop.run(EVAL_BATCH="7", **settings)[0] == 0
    assert len(loop.calls()) == 4  # the batch decides no answer
    status, said = loop.run(EVAL_NEW_TOKENS="9", DIE_EVALUATING="seed1", **settings)
    assert status == 1, said
    rows = json.loads((loop.sweep / "summary.json").read_text())["rows"]
    assert [row["seeds"] for row in rows] == [["0"]]
    # Nobody knows which files the killed one left, so the first settings are evaluated again too.
    status, said = loop.run(**settings)
    assert status == 0, said
    assert [call["flags"].get("resume") for call in loop.calls()[4:]] == [["false"]] * 3
    assert [call["flags"]["max_new_tokens"] for call in loop.calls()[4:]] == [["9"], ["256"], ["256"]]
    assert loop.run(**settings)[0] == 0
    assert len(loop.calls()) == 7


def test_a_sweep_of_two_experiments_is_not_averaged(loop):
    settings = {"SIZES": "4", "EVALUATE": "true"}
    assert loop.run(SEEDS="0", **settings)[0] == 0
    status, said = loop.run("--top_k", "5", SEEDS="1", **settings)
    assert status == 1
    assert f"runs {loop.tag(4, 0)} and {loop.tag(4, 1)} would count as the same" in said
    assert "yet top_k of the training is not set in the first and '5' in the second" in said


def test_a_dry_run_of_the_demo_plans_the_sets_that_would_be_made(loop):
    settings = {name: loop.environment.pop(name) for name in ("ANNOTATIONS", "MODEL")}
    status, said = loop.run("--dry-run", DEMO="true", SIZES="7")
    assert status == 0, said
    rows = [line.split()[1] for line in said.splitlines() if line.startswith("uniform_7_")]
    assert rows == ["planned", "planned"]
    status, said = loop.run("--dry-run", SIZES="7", **settings)
    assert status == 1, said


def test_a_long_reason_keeps_its_beginning(loop):
    status, said = loop.run(SIZES="4", SEEDS="0", FAIL="seed0", LUCK=" and of memory" * 50)
    assert status == 1
    assert "exit status 3: error: out of luck and of memory" in said


def test_a_status_line_tells_how_far_it_is(loop):
    status, said = loop.run(SIZES="4", SEEDS="0", STATUS_SECONDS="0", STEP_SECONDS="0.2")
    assert status == 0
    assert f"0 of 1 finished, 0 failed, 0 waiting; {loop.tag(4, 0)} step 2" in said


def test_the_scripts_run_from_a_folder_with_a_blank_in_its_name(loop):
    (loop.folder / "a clone").symlink_to(ROOT)
    status, said = loop.run(script=loop.folder / "a clone" / "train_loop.sh", SIZES="4", SEEDS="0")
    assert status == 0, said
    output = str(loop.folder / "single run")
    script = loop.folder / "a clone" / "train.sh"
    status, said = loop.run("--top_k", "5", script=script, TYPE="uniform", SIZE="8", SEED="3", OUTPUT_DIR=output)
    assert status == 0, said
    flags = loop.calls()[-1]["flags"]
    assert flags["dataset"] == [str(loop.data("uniform/8.json"))]
    assert (flags["output_dir"], flags["seed"], flags["top_k"]) == ([output], ["3"], ["5"])


def test_a_missing_checkpoint_is_said_before_anything_else(loop):
    status, said = loop.run(MODEL="/nowhere")
    assert status == 2
    assert "error: the checkpoint /nowhere does not exist" in said


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": "1 2 1"}, "run a_4_lr6e-5_g8_beta0.5_r1v_acc-kg_jac_seed1 is in the plan twice"),
        ({"reward_sets": "external_kg_jac, external_kg_jac "}, "g8_beta0.5_kg_jac_seed42 is in the plan twice"),
        ({"sizes": " "}, "holds no runs"),
        ({"generations": "many"}, "GENERATIONS many must be a whole number, 1 or more"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(settings, message):
    sweep = SweepSettings(**{"sizes": "4", "types": "a", **settings})
    with pytest.raises(UserError, match=message):
        plan_sweep(sweep, RunSettings(), EvaluationSettings(), "python")


@pytest.mark.parametrize(("setting", "value"), [("JOBS", "-1"), ("JOBS", "two"), ("GENERATIONS", "0")])
def test_a_number_that_is_none_is_one_line_and_status_2(loop, setting, value):
    status, said = loop.run("--dry-run", **{setting: value})
    assert status == 2
    assert f"error: {setting} {value} must be a whole number, 1 or more" in said


def test_flags_are_read_as_the_trainer_reads_them():
    command = ["x", "--a", "1", "2", "--b", "--c-d=3", "--a", "4"]
    assert flags_of(command) == {"a": ("4",), "b": (), "c_d": ("3",)}


def test_two_sweeps_of_one_folder_do_not_meet(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_jobs, "LOCK_SECONDS", 0)
    with (
        sweep_jobs.locked(tmp_path),
        pytest.raises(UserError, match="another sweep, or a run that it started"),
        sweep_jobs.locked(tmp_path),
    ):
        pass


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed")
def test_the_scripts_are_shellcheck_clean():
    found = subprocess.run(
        [SHELLCHECK, "-x", *SCRIPTS, "configs/slurm.sh"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout


def test_two_real_runs_are_trained_and_skipped_the_second_time(world, tmp_path):
    settings = {
        "PYTHON": sys.executable,
        "ANNOTATIONS": str(world / "data"),
        "MODEL": str(world / "policy"),
        "SWEEP": str(tmp_path / "sweep"),
        "LOGS": str(tmp_path / "logs"),
        "SIZES": "train",
        "TYPES": ".",
        "SEEDS": "0 1",
        "GENERATIONS": "4",
        "MAX_STEPS": "2",
        "MAX_COMPLETION_LENGTH": "8",
        "DTYPE": "float32",
        "DYNAMIC_SAMPLE": "false",
        "OMP_NUM_THREADS": "1",
    }
    flags = [
        "--use_cpu",
        "true",
        "--external_plugins",
        "plugin.py",
        str(world / "vowels.py"),
        "--check_images",
        "false",
    ]
    command = [str(ROOT / "train_loop.sh"), *flags]
    environment = {**os.environ, **settings, "REWARDS": "vowels"}
    first = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert first.returncode == 0, first.stderr
    assert len(list((tmp_path / "sweep").glob("*/training.html"))) == 2
    dry = subprocess.run([*command, "--dry-run"], env=environment, capture_output=True, text=True, check=False)
    assert [line.split()[1] for line in dry.stdout.splitlines()[1:3]] == ["finished", "finished"], dry.stdout
