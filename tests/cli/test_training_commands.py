"""``thetaprime train``, ``evaluate`` and ``export``, from flags to files."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import Command, last_json
from thetaprime.models import load_meta_policy
from thetaprime.training.checkpoint import load_checkpoint

TINY = [
    "--meta-batch-size=2",
    "--policy-hidden-sizes=8",
    "--adaptation-trajectories-per-round=3",
    "--fisher-fraction=1",
    "--checkpoint-every=1",
]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_evaluation")
def test_from_training_to_a_measured_artifact(tmp_path: Path, thetaprime: Command) -> None:
    for method in ("maml", "pretrained", "oracle"):
        run = ["train", "point-navigation", "--method", method, "--output", tmp_path / method, *TINY, "--json"]
        first = thetaprime(*run, "--iterations", 1)
        assert first.exit_code == 0, first.stderr
        resumed = last_json(thetaprime(*run, "--iterations", 2, "--resume"))
        assert (resumed["iterations"], resumed["method"]) == (2, method)
        assert resumed["environment_steps"] > last_json(first)["environment_steps"]

    export = (
        *("export", tmp_path / "maml", "--pretrained", tmp_path / "pretrained", "--oracle", tmp_path / "oracle"),
        *("--name", "tiny", "--description", "Tiny.", "--output", tmp_path / "zoo", "--tasks", 3, "--json"),
    )
    measured = thetaprime(*export)
    exported = last_json(measured)
    begun, *_, ended = [line for line in measured.stderr.splitlines() if line.startswith("measuring tiny@1: ")]
    assert re.fullmatch(r".*: 1 of \d+", begun) and re.fullmatch(r".*: (\d+) of \1", ended)
    again = thetaprime(*export)
    assert again.exit_code == 2
    assert f"{tmp_path / 'zoo' / 'tiny' / '1' / 'manifest.json'} exists" in again.stderr
    artifact = load_meta_policy(tmp_path / "zoo" / "tiny" / "1")
    assert (exported["meta_policy"], exported["policy_id"]) == ("tiny@1", artifact.policy_id)

    evaluate = (
        *("evaluate", "tiny", "--zoo", tmp_path / "zoo", "--tasks", 3, "--seed", 7, "--gradient-steps", 2),
        *("--output", tmp_path / "evaluation", "--json"),
    )
    result = thetaprime(*evaluate)
    found = last_json(result)
    refused = thetaprime(*evaluate)
    assert refused.exit_code == 2 and "evaluation.json exists" in refused.stderr
    assert (found["meta_policy"], found["tasks"], found["seeds"]) == ("tiny@1", 3, [7])
    assert {method: len(found["returns"][method]) for method in ("maml", "pretrained", "random")} == {
        "maml": 3,
        "pretrained": 3,
        "random": 3,
    }
    assert isinstance(found["returns"]["oracle"], float)
    assert len(found["scores"]) == 3 and len(found["negative_adaptation"]) == 2
    written = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert written["scores"] == found["scores"]
    assert (tmp_path / "evaluation" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "R_k < R_0" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_saved_and_says_how_to_resume(stop: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "thetaprime.cli", "train", "point-navigation", *TINY, "--output", str(tmp_path)]
    endless = [*command, "--iterations=100000", "--checkpoint-every=3"]
    shown = []
    with subprocess.Popen(endless, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            shown.append(line)
            if line.startswith("iteration 1 of"):
                process.send_signal(stop)
        errors = process.stderr.read()
    assert process.returncode == 130, (shown, errors)
    said = re.search(r"saved after iteration (\d+): go on with the same command and --resume", errors)
    assert said is not None, errors
    saved = int(said[1])
    assert load_checkpoint(tmp_path).iteration == saved >= 1
    again = [*command, "--resume", "--json", f"--iterations={saved + 1}"]
    resumed = subprocess.run(again, capture_output=True, text=True, check=True)
    assert json.loads(resumed.stdout.splitlines()[-1])["iterations"] == saved + 1


def test_a_run_without_a_terminal_writes_its_first_and_last_iteration(tmp_path: Path, thetaprime: Command) -> None:
    result = thetaprime("train", "point-navigation", *TINY, "--output", tmp_path / "run", "--iterations", 3)
    lines = [line.partition(":")[0] for line in result.stdout.splitlines() if line.startswith("iteration ")]
    assert lines == ["iteration 1 of 3", "iteration 3 of 3"]


def test_an_amended_run_records_the_old_setting(tmp_path: Path, thetaprime: Command) -> None:
    run = ["train", "point-navigation", *TINY, "--output", tmp_path / "run", "--iterations"]
    assert thetaprime(*run, 1).exit_code == 0
    refused = thetaprime(*run, 2, "--resume", "--max-kl", 0.5)
    assert refused.exit_code == 1 and "the run began with 0.01 (amend the run" in refused.stderr
    assert thetaprime(*run, 2, "--amend", "--max-kl", 0.5).exit_code == 0
    assert load_checkpoint(tmp_path / "run").amendments[0].before == {"max_kl": 0.01}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["train", "navigation"], "tasks: 'navigation' is unknown; expected one of point-navigation"),
        (["train", "half-cheeta-velocity"], "did you mean 'half-cheetah-velocity'?"),
        (["train"], "tasks: Field required"),
        (["train", "point-navigation", "--max-kl=-1"], "max_kl: Input should be greater than 0 (got -1.0)"),
        (["train", "point-navigation", "--output", "{tmp}", "--resume"], "no checkpoint there"),
        (["train", "point-navigation", "--config", "{tmp}/bad.toml"], "bad.toml"),
        (["train", "point-navigation", "--policy-observation-std=1"], "policy.observation_std has 1 numbers"),
        (["evaluate", "no-such-policy"], "no-such-policy: no such artifact"),
        (["evaluate", "point-navigaton"], "did you mean 'point-navigation'?"),
        (["evaluate", "cart-pol@1", "--zoo", "{zoo}"], "did you mean 'cart-pole@1'?"),
        (["evaluate", "point-navigation", "--tasks=1"], "1 is not in the range x>=2"),
        (["evaluate", "cart-pole", "--zoo", "{zoo}"], "tasks"),
        (
            ["export", "{tmp}", "--pretrained", "{tmp}", "--oracle", "{tmp}", "--name=a", "--description=b"],
            "checkpoint",
        ),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], problem: str, tmp_path: Path, zoo: Path, thetaprime: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.toml").write_text("seed = ")
    result = thetaprime(*(each.format(tmp=tmp_path, zoo=zoo) for each in arguments))
    assert result.exit_code != 0
    assert problem in result.stderr
    assert "Traceback" not in result.output
    said = [line for line in result.stderr.splitlines() if line.startswith("thetaprime ")]
    assert len(said) == 1, result.stderr
