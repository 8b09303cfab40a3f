"""``thetaprime train``, ``evaluate`` and ``export``, from flags to files."""

import json
from pathlib import Path

import pytest

from thetaprime.models import load_meta_policy

from .conftest import Command
from .test_commands import last_json

TINY = [
    "--meta-batch-size=2",
    "--policy-hidden-sizes=8",
    "--adaptation-trajectories-per-round=3",
    "--fisher-fraction=1",
    "--checkpoint-every=1",
]


def test_from_training_to_a_measured_artifact(tmp_path: Path, thetaprime: Command) -> None:
    for method in ("maml", "pretrained", "oracle"):
        run = ["train", "point-navigation", "--method", method, "--output", tmp_path / method, *TINY, "--json"]
        first = thetaprime(*run, "--iterations", 1)
        assert first.exit_code == 0, first.stderr
        resumed = last_json(thetaprime(*run, "--iterations", 2, "--resume"))
        assert (resumed["iterations"], resumed["method"]) == (2, method)
        assert resumed["environment_steps"] > last_json(first)["environment_steps"]

    exported = last_json(
        thetaprime(
            *("export", tmp_path / "maml", "--pretrained", tmp_path / "pretrained", "--oracle", tmp_path / "oracle"),
            *("--name", "tiny", "--description", "Tiny.", "--output", tmp_path / "zoo", "--tasks", 3, "--json"),
        )
    )
    artifact = load_meta_policy(tmp_path / "zoo" / "tiny" / "1")
    assert (exported["meta_policy"], exported["policy_id"]) == ("tiny@1", artifact.policy_id)

    result = thetaprime(
        *("evaluate", "tiny", "--zoo", tmp_path / "zoo", "--tasks", 3, "--seed", 7, "--gradient-steps", 2),
        *("--output", tmp_path / "evaluation", "--json"),
    )
    found = last_json(result)
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


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["train", "navigation"], "tasks: 'navigation' is unknown; expected one of point-navigation"),
        (["train"], "tasks: Field required"),
        (["train", "point-navigation", "--max-kl=-1"], "max_kl: Input should be greater than 0 (got -1.0)"),
        (["train", "point-navigation", "--output", "{tmp}", "--resume"], "no checkpoint there"),
        (["train", "point-navigation", "--config", "{tmp}/bad.toml"], "bad.toml"),
        (["train", "point-navigation", "--policy-observation-std=1"], "policy.observation_std has 1 numbers"),
        (["evaluate", "no-such-policy"], "no-such-policy: no such artifact"),
        (["evaluate", "point-navigation", "--tasks=1"], "1 is not in the range x>=2"),
        (["evaluate", "cart-pole", "--zoo", "{zoo}"], "tasks"),
        (
            ["export", "{tmp}", "--pretrained", "{tmp}", "--oracle", "{tmp}", "--name=a", "--description=b"],
            "checkpoint",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(
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
