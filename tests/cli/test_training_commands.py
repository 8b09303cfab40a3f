"""``thetaprime train``, ``evaluate`` and ``export``, from flags to files."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import Command, last_json
from thetaprime.cli import evaluate
from thetaprime.models import load_meta_policy
from thetaprime.training.checkpoint import load_checkpoint
from thetaprime.training.evaluation.scores import Evaluation

TINY = [
    "--recipe=paper",
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
        *(
            "--name",
            "tiny",
            "--description",
            "Tiny.",
            "--output",
            tmp_path / "zoo",
            "--tasks",
            3,
            "--calibration-tasks",
            20,
            "--json",
        ),
    )
    few = thetaprime(*(19 if each == 20 else each for each in export))
    assert few.exit_code == 2
    assert "--calibration-tasks" in few.stderr and "expected 0 for none, or at least 20" in few.stderr
    measured = thetaprime(*export)
    exported = last_json(measured)
    begun, *_, ended = [line for line in measured.stderr.splitlines() if line.startswith("measuring tiny@1: ")]
    assert re.fullmatch(r".*: \d %, about \d+ (s|min) left", begun) and ended.endswith(": 100 %")
    again = thetaprime(*export)
    assert again.exit_code == 2
    assert f"{tmp_path / 'zoo' / 'tiny' / '1' / 'manifest.json'} exists" in again.stderr
    artifact = load_meta_policy(tmp_path / "zoo" / "tiny" / "1")
    assert (exported["meta_policy"], exported["policy_id"]) == ("tiny@1", artifact.policy_id)

    measure = (
        *("evaluate", "tiny", "--zoo", tmp_path / "zoo", "--tasks", 3, "--seed", 7, "--gradient-steps", 2),
        *("--output", tmp_path / "evaluation", "--json"),
    )
    result = thetaprime(*measure)
    found = last_json(result)
    refused = thetaprime(*measure)
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
    lines = [line.partition(":")[0] for line in result.stderr.splitlines() if line.startswith("task ")]
    assert lines == ["task 1 of 3", "task 2 of 3", "task 3 of 3"]
    assert sorted(each.name for each in (tmp_path / "evaluation").iterdir()) == ["curves.png", "evaluation.json"]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_evaluation")
def test_a_meta_policy_is_exported_alone_and_compared_later(tmp_path: Path, thetaprime: Command) -> None:
    for method, units in (("maml", 8), ("oracle", 5), ("pretrained", 6)):
        run = ("train", "point-navigation", "--method", method, "--output", tmp_path / method, "--iterations", 1)
        # Beside the 8 units of TINY, another layer.
        assert thetaprime(*run, *TINY, f"--policy-hidden-sizes={units}").exit_code == 0
    (tmp_path / "notes.md").write_text("## Without it\n\nOne run without it: -12.")
    measured = ("--tasks", 2, "--json")
    export = ("export", tmp_path / "maml", "--name", "alone", "--description", "Alone.", "--output", tmp_path / "zoo")
    exported = last_json(thetaprime(*export, "--notes", tmp_path / "notes.md", *measured))
    assert exported["scores"] is None and len(exported["negative_adaptation"]) == 4
    folder = tmp_path / "zoo" / "alone" / "1"
    assert not {"pretrained.safetensors", "random.safetensors", "oracle.safetensors"} & exported["files"].keys()
    card = (folder / "README.md").read_text()
    assert "One run without it: -12." in card and "It was not compared" in card and "S_k" not in card
    assert "## MAML as published" in card and "The network is an MLP of (8, 8) relu units" in card

    evaluate_alone = ("evaluate", folder, "--gradient-steps", 1, "--trajectories", 2, "--output", tmp_path / "e")
    assert set(last_json(thetaprime(*evaluate_alone, *measured))["returns"]) == {"maml"}
    refused = thetaprime(*evaluate_alone, *measured, "--methods", "maml,oracle", "--force")
    assert "oracle.safetensors: alone@1 has no oracle policy to compare with (it has none)" in refused.stderr
    assert "thetaprime compare" in refused.stderr

    with_oracle = last_json(thetaprime("compare", folder, "--oracle", tmp_path / "oracle", *measured))
    assert with_oracle["scores"] is None and "oracle.safetensors" in with_oracle["files"]
    compared = last_json(thetaprime("compare", folder, "--pretrained", tmp_path / "pretrained", *measured))
    assert len(compared["scores"]) == 5
    assert (compared["meta_policy"], compared["policy_id"]) == ("alone@1", exported["policy_id"])
    assert all(compared["files"][name] == exported["files"][name] for name in ("theta.safetensors", "policy.onnx"))
    card = (folder / "README.md").read_text()
    assert "One run without it: -12." in card and "S_k, 95 % interval" in card
    assert "Another network than the meta-policy's: the oracle and the pretrained." in card
    again = last_json(thetaprime(*evaluate_alone, *measured, "--force"))
    assert set(again["returns"]) == {"maml", "pretrained", "random", "oracle"} and len(again["scores"]) == 2

    # Another artifact's comparisons serve as well.
    other = ("export", tmp_path / "maml", "--name", "other", "--description", "Other.", "--output", tmp_path / "zoo")
    borrowed = last_json(thetaprime(*other, "--pretrained", folder, "--oracle", folder, *measured))
    for name in ("pretrained.safetensors", "oracle.safetensors"):
        assert borrowed["files"][name] == compared["files"][name]
    assert borrowed["scores"] == compared["scores"] and "random.safetensors" not in borrowed["files"]


def test_an_evaluation_of_some_methods_is_quick_and_says_what_is_missing(tmp_path: Path, thetaprime: Command) -> None:
    """The shipped artifact stores how its comparisons are fine-tuned: only the methods' own episodes are played."""
    options = ("--tasks", 2, "--gradient-steps", 1, "--trajectories", 2, "--output", tmp_path, "--json")
    result = thetaprime("evaluate", "point-navigation", "--methods", "oracle, maml", *options)
    found = last_json(result)
    assert set(found["returns"]) == {"maml", "oracle"} and found["scores"] is None and found["fine_tuning"] == {}
    assert len(found["negative_adaptation"]) == 1
    assert "S_k needs the methods maml, pretrained and oracle" in " ".join(result.stderr.split())
    assert re.search(r"task 2 of 2: goal -?0\.\d+, -?0\.\d+: meta-policy -\d+\.\d+ -> -\d", result.stderr)
    refused = thetaprime("evaluate", "point-navigation", "--methods", "maml,ppo")
    assert refused.exit_code == 2
    assert "'ppo'; expected some of maml, pretrained, random, oracle" in " ".join(refused.stderr.split())


@pytest.mark.slow
def test_an_evaluation_that_is_terminated_keeps_the_finished_tasks(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "thetaprime.cli", "evaluate", "point-navigation", "--methods=maml", "--json"]
    options = ["--tasks=100000", "--gradient-steps=1", "--trajectories=2", "--output", str(tmp_path)]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        shown = []
        for line in process.stderr:
            shown.append(line)
            if line.startswith("task 9 of 100000"):
                process.send_signal(signal.SIGTERM)
        answer = json.loads(process.stdout.read().splitlines()[-1])
    assert process.returncode == 130, shown
    partial = json.loads((tmp_path / "evaluation-partial.json").read_text())
    finished = partial["tasks"]
    assert finished >= 16 and finished % 8 == 0 and partial["tasks_planned"] == 100000
    assert len(partial["returns"]["maml"]) == 2
    kept = f"interrupted after {finished} of 100000 tasks: their results are in {tmp_path / 'evaluation-partial.json'}"
    assert kept in shown[-1] and kept in answer["error"]["message"]
    assert answer["error"]["code"] == "CANCELLED" and answer["error"]["details"]["tasks"] == finished
    assert not (tmp_path / "evaluation.json").exists()


@pytest.mark.parametrize("interrupted", [1, 9])
def test_ctrl_c_keeps_what_was_shown(
    interrupted: int, tmp_path: Path, thetaprime: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def text_until(evaluation: Evaluation, task: int) -> str:
        if task + 1 == interrupted:
            raise KeyboardInterrupt
        return "shown"

    monkeypatch.setattr(evaluate, "task_text", text_until)
    options = ("--methods", "maml", "--tasks", 10, "--gradient-steps", 1, "--trajectories", 2, "--output", tmp_path)
    result = thetaprime("evaluate", "point-navigation", *options)
    assert result.exit_code == 130
    finished = 8 if interrupted == 1 else 10  # tasks are measured by eight, and written before they are shown
    assert f"interrupted after {finished} of 10 tasks: their results are in" in result.stderr
    assert json.loads((tmp_path / "evaluation-partial.json").read_text())["tasks"] == finished
    assert result.stdout.count("shown") == interrupted - 1

    # The whole evaluation leaves no partial one behind.
    monkeypatch.undo()
    assert thetaprime("evaluate", "point-navigation", *options).exit_code == 0
    assert sorted(each.name for each in tmp_path.iterdir()) == ["curves.png", "evaluation.json"]


def test_an_evaluation_that_is_interrupted_at_once_has_nothing_to_keep(
    tmp_path: Path, thetaprime: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("thetaprime.training.evaluation.evaluation.session_curve", interrupt)
    evaluation = ("evaluate", "point-navigation", "--methods", "maml", "--output", tmp_path)
    result = thetaprime(*evaluation)
    assert result.exit_code == 130 and "interrupted after 0 of 40 tasks: nothing to keep" in result.stderr
    assert list(tmp_path.iterdir()) == []
    # The results of an earlier interruption stay until there are others.
    earlier = tmp_path / "evaluation-partial.json"
    earlier.write_text("{}")
    assert thetaprime(*evaluation).exit_code == 130 and earlier.read_text() == "{}"


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


def test_without_settings_they_are_measured_shown_and_kept(tmp_path: Path, thetaprime: Command) -> None:
    tasks, run = "tests.support.training.signs:Signs", tmp_path / "run"
    sizes = ("--meta-batch-size=3", "--adaptation-trajectories-per-round=4", "--outer-epochs=1")
    begun = thetaprime("train", tasks, "--output", run, "--iterations", 2, *sizes, "--outer-discount", 0.6)
    assert begun.exit_code == 0, begun.stderr
    assert re.search(r"^  adaptation\.discount = 0\.\d+: gain of a step by discount, best ", begun.stdout, re.MULTILINE)
    assert "  policy.observation_std = [" in begun.stdout and "outer_discount =" not in begun.stdout
    state = load_checkpoint(run)
    settled = {each.setting: each for each in state.decisions}
    assert state.config.policy.observation_std == tuple(settled["policy.observation_std"].value)
    assert (state.config.outer_discount, state.config.meta_batch_size) == (0.6, 3)
    # The file repeats the run, without measuring again.
    again = thetaprime("train", "--config", run / "config.toml", "--output", tmp_path / "again")
    assert "measuring" not in again.stdout
    assert load_checkpoint(tmp_path / "again").config == state.config
    resumed = thetaprime("train", tasks, "--output", run, "--resume", "--iterations", 3)
    assert "measuring" not in resumed.stdout and load_checkpoint(run).iteration == 3
    assert load_checkpoint(run).decisions == state.decisions
    refused = thetaprime("train", tasks, "--output", run)
    assert "holds a run already" in refused.stderr and "measuring" not in refused.stdout


def test_an_amended_run_records_the_old_setting(tmp_path: Path, thetaprime: Command) -> None:
    run = ["train", "point-navigation", *TINY, "--output", tmp_path / "run", "--iterations"]
    assert thetaprime(*run, 1).exit_code == 0
    refused = thetaprime(*run, 2, "--resume", "--max-kl", 0.5)
    assert refused.exit_code == 1 and "the run began with 0.01 (amend the run" in refused.stderr
    assert thetaprime(*run, 2, "--amend", "--max-kl", 0.5).exit_code == 0
    assert load_checkpoint(tmp_path / "run").amendments[0].before == {"max_kl": 0.01}


@pytest.mark.parametrize("how", ["--resume", "--amend"])
def test_a_run_is_not_resumed_under_another_algorithm(how: str, tmp_path: Path, thetaprime: Command) -> None:
    run = ["train", "point-navigation", *TINY, "--output", tmp_path / "run", "--iterations"]
    assert thetaprime(*run, 1).exit_code == 0
    before = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
    refused = thetaprime(*run, 2, how, "--outer-loop", "promp")
    assert refused.exit_code == 1
    assert "outer_loop is 'promp'; the run began with 'maml_trpo'" in refused.stderr and "amend" not in refused.stderr
    assert (tmp_path / "run" / "checkpoint.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["train", "navigation"], "tasks: 'navigation' is unknown; expected one of point-navigation"),
        (["train", "half-cheeta-velocity"], "did you mean 'half-cheetah-velocity'?"),
        (["train"], "tasks: Field required"),
        (["train", "tests.support.training.signs:Unrewarded", "--output", "{tmp}/run"], "reward: always 0 in "),
        (["train", "point-navigation", "--minutes=0"], "minutes: Input should be greater than 0"),
        (["train", "point-navigation", "--max-kl=-1"], "max_kl: Input should be greater than 0 (got -1.0)"),
        (["train", "point-navigation", "--output", "{tmp}", "--resume"], "no checkpoint there"),
        (["train", "point-navigation", "--config", "{tmp}/bad.toml"], "bad.toml"),
        (
            ["train", "point-navigation", "--policy-observation-std=1", "--recipe=paper"],
            "policy.observation_std has 1 numbers",
        ),
        (["evaluate", "no-such-policy"], "no-such-policy: no such artifact"),
        (["evaluate", "point-navigaton"], "did you mean 'point-navigation'?"),
        (["evaluate", "cart-pol@1", "--zoo", "{zoo}"], "did you mean 'cart-pole@1'?"),
        (["evaluate", "point-navigation", "--tasks=1"], "1 is not in the range x>=2"),
        (["evaluate", "cart-pole", "--zoo", "{zoo}"], "tasks"),
        (
            ["export", "{tmp}", "--pretrained", "{tmp}", "--oracle", "{tmp}", "--name=a", "--description=b"],
            "checkpoint",
        ),
        (["compare", "{tmp}", "--oracle", "{tmp}"], "{tmp}: expected a folder with a manifest.json"),
        (["compare", "{zoo}/cart-pole/1"], "nothing to compare with; give --pretrained, --oracle, or both"),
        (
            ["compare", "{zoo}/point-navigation/1", "--oracle", "half-cheetah-direction"],
            "half-cheetah-direction: its tasks are half-cheetah-direction; the meta-policy's are point-navigation",
        ),
        (
            ["compare", "{zoo}/point-navigation/1", "--oracle", "{tmp}"],
            "expected the folder of a run of --method oracle",
        ),
        (["compare", "{zoo}/point-navigation/1", "--pretrained", "no-such"], "no-such: no such artifact"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], problem: str, tmp_path: Path, zoo: Path, thetaprime: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.toml").write_text("seed = ")
    result = thetaprime(*(each.format(tmp=tmp_path, zoo=zoo) for each in arguments))
    assert result.exit_code != 0
    assert problem.format(tmp=tmp_path, zoo=zoo) in result.stderr
    assert "Traceback" not in result.output
    said = [line for line in result.stderr.splitlines() if line.startswith("thetaprime ")]
    assert len(said) == 1, result.stderr


MODELS = Path(__file__).parents[1] / "data" / "stable_baselines3"


def test_import_writes_an_artifact_and_refuses_what_it_is_not(tmp_path: Path, thetaprime: Command) -> None:
    run = ["import", "sb3", MODELS / "pendulum-ppo.zip", "--name", "mine", "--trajectories", "2", "--output", tmp_path]
    wrong = thetaprime(*run, "--env", "CartPole-v1")
    assert wrong.exit_code == 1
    assert "observations of 4 numbers" in wrong.stderr
    unknown = thetaprime(*run, "--env", "NoSuch-v1")
    assert unknown.exit_code == 2
    assert "NoSuch" in unknown.stderr
    argument = thetaprime(*run, "--env", "Pendulum-v1", "--env-args", "no_such=1")
    assert argument.exit_code == 2
    assert "no_such" in argument.stderr
    done = thetaprime(*run, "--env", "Pendulum-v1", "--env-args", "g=9.81", "--json")
    facts = last_json(done)
    assert done.exit_code == 0
    assert facts["return"]["episodes"] == 6
    meta_policy = load_meta_policy(Path(facts["artifact"]))
    assert meta_policy.label == facts["meta_policy"] == "mine@1"
    assert "g = 9.81" in meta_policy.read_extra("README.md").decode()
    again = thetaprime(*run, "--env", "Pendulum-v1")
    assert again.exit_code == 2
    assert "--force" in again.stderr
