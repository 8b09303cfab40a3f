"""``--profile``: policies in other engines' forms, from a file, an artifact, the zoo and a server."""

from pathlib import Path

import pytest

import thetaprime.client as tp
from tests.support.command import Command, last_json
from thetaprime import models

ROBOT = """
joint_names = ["x", "y"]
joint_stiffness = [20, 30.1]
joint_damping = [0.5, 0.1]
default_joint_pos = [0.0, -0.1]
action_scale = [0.25, 0.3333333333333333]
observation_names = ["position"]
"""
ENV = ["--env", "thetaprime/PointNavigation-v0", "--env-args", "goal=[0.3,0.2]", "--trajectories", 3, "--rounds", 1]


@pytest.fixture
def robot(tmp_path: Path) -> Path:
    path = tmp_path / "robot.toml"
    path.write_text(ROBOT)
    return path


@pytest.mark.parametrize("profile", models.PROFILES)
def test_export_takes_a_file_an_artifact_and_a_name(
    profile: str, zoo: Path, robot: Path, tmp_path: Path, thetaprime: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    more = ["--robot", robot] if profile == "robot" else []
    artifact = zoo / "point-navigation" / "1"
    facts = last_json(thetaprime("export", artifact, "--profile", profile, *more, "--json"))
    assert facts["onnx"] == f"{profile}.onnx"
    file = tp.PolicyFile.load(facts["onnx"], facts["sha256"])
    assert (file.profile, file.policy_id) == (profile, facts["policy_id"])
    of_file = thetaprime("export", artifact / "policy.onnx", "--profile", profile, *more, "--output", "other.onnx")
    assert of_file.exit_code == 0, of_file.stderr
    assert f"wrote other.onnx (point-navigation@1 as {profile}, policy {file.policy_id[:12]})" in of_file.stdout
    assert Path("other.onnx").read_bytes() == file.onnx
    again = ("export", "point-navigation", "--profile", profile, *more, "--json")
    refused = thetaprime(*again)
    assert refused.exit_code == 2 and f"{profile}.onnx exists" in refused.stderr
    assert Path(f"{profile}.onnx").read_bytes() == file.onnx
    shipped = last_json(thetaprime(*again, "--force"))
    assert tp.PolicyFile.load(shipped["onnx"]).meta_policy == "point-navigation@1"
    assert shipped["policy_id"] != facts["policy_id"]


def test_adapt_writes_the_policy_in_a_form(address: str, robot: Path, tmp_path: Path, thetaprime: Command) -> None:
    adapt = ["adapt", "point-navigation", *ENV, "--address", address, "--seed", 1, "--verify", 0, "--json"]
    facts = last_json(thetaprime(*adapt, "--profile", "robot", "--robot", robot, "--output", tmp_path / "robot.onnx"))
    file = tp.PolicyFile.load(tmp_path / "robot.onnx", facts["sha256"])
    assert (file.profile, file.policy_id, facts["profile"]) == ("robot", facts["policy_id"], "robot")
    assert file.metadata["action_scale"] == "0.25,0.3333333333333333"
    again = ["--resume", facts["session"], *ENV, "--address", address, "--verify", 0, "--json"]
    resumed = last_json(thetaprime("adapt", *again, "--profile", "epsilon", "--output", tmp_path / "epsilon.onnx"))
    assert resumed["policy_id"] == tp.PolicyFile.load(tmp_path / "epsilon.onnx").policy_id == file.policy_id


def test_inspect_prints_the_form_and_its_tensors(zoo: Path, tmp_path: Path, thetaprime: Command) -> None:
    output = tmp_path / "unity.onnx"
    thetaprime("export", zoo / "cart-pole" / "1", "--profile", "unity-mlagents", "--output", output)
    facts = last_json(thetaprime("inspect", output, "--json"))
    assert (facts["profile"], facts["environment"]["environment_id"]) == ("unity-mlagents", "CartPole-v1")
    assert facts["tensors"]["action_masks"] == "in [batch, 2] float32: 1 where an action is allowed (1 or 0)"
    shown = thetaprime("inspect", output).stdout
    assert "tensors.discrete_actions" in shown and "out [batch, 1] int64" in shown and "verified" in shown
    default = last_json(thetaprime("inspect", zoo / "cart-pole" / "1" / "policy.onnx", "--json"))
    assert (default["profile"], list(default["tensors"])) == ("default", ["obs", "actions", "logits"])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["export", "{point}", "--profile", "unreal"], "profile: 'unreal'; expected one of default, epsilon"),
        (["export", "no-such", "--profile", "epsilon"], "no-such: no such artifact"),
        (["export", "{robot}", "--profile", "epsilon"], "robot.toml: the file does not follow the ONNX contract"),
        (["export", "{point}", "--profile", "robot"], "robot: nothing; the profile 'robot' expects a description"),
        (["export", "{point}", "--profile", "epsilon", "--robot", "{robot}"], "the profile 'epsilon' takes none"),
        (["export", "{cart}", "--profile", "robot", "--robot", "{robot}"], "its actions are discrete"),
        (["export", "{point}", "--profile", "epsilon", "--name", "a"], "--name is for writing an artifact of a run"),
        (["export", "{point}", "--profile", "epsilon", "--output", "{tmp}/no/p.onnx"], "the folder {tmp}/no does not"),
        (["export", "{point}", "--robot", "{robot}"], "--robot describes the robot for --profile robot"),
        (["export", "{tmp}"], "Missing option '--name'"),
        (
            ["export", "nowhere", "--pretrained={tmp}", "--oracle={tmp}", "--name=a", "--description=b"],
            "nowhere: expected the folder of a run (or --profile)",
        ),
        (["adapt", "point-navigation", "--env", "{env}", "--robot", "{robot}"], "--robot describes the robot"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], problem: str, zoo: Path, robot: Path, tmp_path: Path, thetaprime: Command
) -> None:
    words = {
        "point": zoo / "point-navigation" / "1",
        "cart": zoo / "cart-pole" / "1",
        "robot": robot,
        "tmp": tmp_path,
        "env": "thetaprime/PointNavigation-v0",
    }
    result = thetaprime(*(each.format(**words) for each in arguments))
    assert result.exit_code != 0
    assert problem.format(**words) in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("joint_names = ", "not TOML"),
        (ROBOT + "mass = 3", "mass; expected no keys but joint_names"),
        ('joint_names = ["x", "y"]', "lacks action_scale, default_joint_pos"),
        (ROBOT.replace("[20, 30.1]", "20"), "joint_stiffness = 20; expected a list of numbers"),
        (ROBOT.replace("[20, 30.1]", "[true, 1]"), "joint_stiffness = [True, 1]; expected a list of numbers"),
        (ROBOT.replace('["position"]', "[1]"), "observation_names = [1]; expected a list of texts"),
        (ROBOT.replace("0.25", "-0.25"), "action_scale.0: Input should be greater than 0 (got -0.25)"),
        (None, "No such file"),
    ],
)
def test_an_invalid_file_of_a_robot_is_refused_by_field(
    text: str | None, problem: str, zoo: Path, tmp_path: Path, thetaprime: Command
) -> None:
    path = tmp_path / "bad.toml"
    if text is not None:
        path.write_text(text)
    result = thetaprime("export", zoo / "point-navigation" / "1", "--profile", "robot", "--robot", path)
    assert result.exit_code != 0
    assert problem in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_adapt_refuses_an_impossible_form_before_it_collects(address: str, tmp_path: Path, thetaprime: Command) -> None:
    with tp.Client(address) as client:
        before = len(list(client.sessions()))
        result = thetaprime("adapt", "point-navigation", *ENV, "--address", address, "--profile", "robot")
        assert result.exit_code == 1
        assert "robot: nothing; the profile 'robot' expects a description" in result.stderr
        assert len(list(client.sessions())) == before
