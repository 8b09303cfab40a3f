"""The Node example's program with a real server: adaptation, resuming, errors."""

import dataclasses
import json
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import pytest

import thetaprime.client as tp
import thetaprime.training
from tests.support.faults.proxy import FAULTS, faulty_proxy
from tests.support.node import NODE_EXAMPLE
from tests.support.server.certificates import Authority
from tests.support.server.tokens import write_tokens
from thetaprime.server import ServerConfig, running_server

if TYPE_CHECKING:
    from tests.support.node import Node, Talk

gymnasium.register_envs(thetaprime.training)

GOAL = (0.4, -0.3)
ROOT = Path(__file__).resolve().parents[2]


def _environment(goal: tuple[float, float]) -> gymnasium.Env[Any, Any]:
    return gymnasium.make("thetaprime/PointNavigation-v0", goal=goal)


def _run(node: "Node", *arguments: object, **environment: str) -> dict[str, Any]:
    run = node.run("main.mjs", "--json", *map(str, arguments), **environment)
    assert run.returncode == 0, run.stderr
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


@pytest.mark.parametrize("goal", [GOAL, (-0.45, 0.1)])
def test_it_adapts_as_the_python_client_does(
    goal: tuple[float, float], node: "Node", address: str, tmp_path: Path
) -> None:
    output = tmp_path / "policy.onnx"
    answer = _run(
        node, "--address", address, "--goal", f"{goal[0]},{goal[1]}", "--output", output, "--rounds", 3, "--seed", 2
    )
    with tp.Client(address) as client:
        ours = client.adapt("point-navigation", _environment(goal), rounds=3, trajectories=20, seed=2, progress=False)
        theirs = tp.AdaptedPolicy.load(output, sha256=answer["sha256"], seed=2)
        assert theirs.policy_id == answer["policy_id"]
        assert theirs.onnx == client.resume(answer["session"]).policy.onnx
    returns = {
        policy: np.mean([each.total_reward for each in tp.collect(policy, _environment(goal), 20, seed=3)])
        for policy in (ours, theirs)
    }
    # Three rounds raise the return from about -50 to about -1.
    before = answer["returns"][0]
    assert returns[ours] > 0.1 * before
    assert abs(returns[theirs] - returns[ours]) < 0.02 * abs(before), returns
    # The program's measured return equals the return of its policy here.
    assert abs(answer["returns"][-1] - returns[theirs]) < 0.02 * abs(before)
    assert len(answer["returns"]) == 4 and answer["returns"][1] > 0.5 * before
    assert answer["distance"] < 0.05


def test_equal_seeds_give_equal_runs(node: "Node", address: str, tmp_path: Path) -> None:
    def run(seed: int) -> str:
        common = ("--address", address, "--rounds", 2, "--trajectories", 5, "--output", tmp_path / "policy.onnx")
        return str(_run(node, *common, "--seed", seed)["policy_id"])

    assert run(1) == run(1) != run(2)


def test_it_continues_a_session_of_the_python_client(node: "Node", address: str, tmp_path: Path) -> None:
    with tp.Client(address) as client:
        session = client.create_session("point-navigation")
        session.upload(tp.collect(session.policy, _environment(GOAL), 20, seed=1))
        session.adapt()
        session.upload(tp.collect(session.policy, _environment(GOAL), 5, seed=2))
        answer = _run(node, "--address", address, "--resume", session.id, "--output", tmp_path / "policy.onnx")
        assert answer["session"] == session.id
        found = client.resume(session.id)
        assert [report.trajectories for report in found.reports] == [20, 20, 20]
        assert answer["returns"][:-1] == [report.mean_return for report in found.reports]
        assert found.policy.policy_id == answer["policy_id"]


@pytest.mark.slow
def test_lost_cut_delayed_and_repeated_calls_count_once(node: "Node", address: str, tmp_path: Path) -> None:
    common = ("--rounds", 5, "--trajectories", 5, "--output", tmp_path / "policy.onnx")
    expected = _run(node, "--address", address, *common)
    suffered: set[str] = set()
    for seed in range(3):
        with faulty_proxy(address, seed, share=0.6) as (faulty, proxy):
            found = _run(node, "--address", faulty, *common)
            suffered |= proxy.suffered.keys()
        assert found["policy_id"] == expected["policy_id"]
        assert found["returns"] == expected["returns"]
        with tp.Client(address) as client:
            session = client.resume(found["session"])
            assert [report.trajectories for report in session.reports] == [5] * 5
    assert suffered.issuperset(FAULTS), suffered


def test_an_upload_that_is_refused_at_its_first_message_ends_at_once(talk: "Talk", tmp_path: Path) -> None:
    config = ServerConfig(address="127.0.0.1:0", store=tmp_path / "store", max_upload_bytes=1 << 20)
    with running_server(config) as small:
        answer = talk.ask("upload", address=small, trajectories=5000)  # twelve chunks
    assert (answer["code"], answer["reason"]) == ("RESOURCE_EXHAUSTED", "UPLOAD_TOO_LARGE")
    assert answer["error"].startswith("CallError: header.payload_bytes: 1")


def test_off_policy_actions_are_refused_with_the_reason(talk: "Talk", address: str) -> None:
    answer = talk.ask("upload", address=address, trajectories=1000)
    assert (answer["code"], answer["reason"]) == ("FAILED_PRECONDITION", "UNSCALED_ACTIONS")
    assert "trajectories[0]: standardized actions spread by" in answer["error"]


def test_a_copy_of_the_example_works_with_a_copy_of_the_contract(node: "Node", tmp_path: Path) -> None:
    alone = tmp_path / "deep" / "alone"
    shutil.copytree(NODE_EXAMPLE, alone, ignore=shutil.ignore_patterns("node_modules"))
    (alone / "node_modules").symlink_to(NODE_EXAMPLE / "node_modules")
    run = node.run(str(alone / "main.mjs"))
    assert run.returncode == 1
    assert "thetaprime/v1/adaptation_service.proto is in none of" in run.stderr
    contract = alone / "protos" / "thetaprime" / "v1"
    contract.mkdir(parents=True)
    for path in (ROOT / "proto" / "thetaprime" / "v1").glob("*.proto"):
        shutil.copy(path, contract)
    run = node.run(str(alone / "main.mjs"), "--address", f"127.0.0.1:{_free_port()}")
    assert "is `thetaprime serve` running there?" in run.stderr


def test_reading_calls_return_what_the_python_client_returns(talk: "Talk", address: str) -> None:
    with tp.Client(address) as client:
        session = client.create_session("point-navigation")
        session.upload(tp.collect(session.policy, _environment(GOAL), 4, seed=1))
        session.adapt()
        session.upload(tp.collect(session.policy, _environment(GOAL), 2, seed=2))
        sessions = [each.session_id for each in client.sessions()]
        answer = talk.ask("read", address=address, sessionId=session.id)
        assert answer == {
            "metaPolicies": [each.label for each in client.meta_policies()],
            "listed": sessions,
            "batch": dataclasses.asdict(session.batch),
            "returns": [each.mean_return for each in session.reports],
            "policies": [session.policy_at(0).policy_id, session.policy.policy_id],
            "states": ["SESSION_STATE_OPEN", "SESSION_STATE_CLOSED"],
        }


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--goal", "0.4,2"], 2, 'error: --goal: "0.4,2"; expected X,Y, each within ±0.5, such as 0.4,-0.3'),
        (["--address", "nowhere"], 2, 'error: address: "nowhere"; expected host:port, such as localhost:50051'),
        (["--meta-policy", "no-such"], 1, "error: there is no meta-policy 'no-such'"),
        (["--meta-policy", "point-navigation@7"], 1, "error: there is no meta-policy 'point-navigation@7'"),
        (
            ["--meta-policy", "half-cheetah-velocity"],
            1,
            "error: meta-policy: half-cheetah-velocity observes [17] and its action has 6 dimensions; this simulator "
            "sends [2] and takes 2 dimensions",
        ),
        (["--resume", "nothing"], 1, "error: there is no session 'nothing'"),
        (["--output", "/no/such/folder/policy.onnx"], 2, "error: --output: the folder /no/such/folder does not exist"),
        (["--round", "3"], 2, "error: arguments: Unknown option '--round'; --help lists the options"),
    ],
)
def test_an_error_is_one_line(
    arguments: list[str], status: int, said: str, node: "Node", address: str, tmp_path: Path
) -> None:
    given = arguments if "--address" in arguments else ["--address", address, *arguments]
    output = [] if "--output" in arguments else ["--output", str(tmp_path / "policy.onnx")]
    run = node.run("main.mjs", *given, *output)
    assert (run.returncode, run.stderr.strip()) == (status, said)
    assert not list(tmp_path.iterdir())


def test_an_unreachable_server_is_named(node: "Node") -> None:
    address = f"127.0.0.1:{_free_port()}"
    run = node.run("main.mjs", "--address", address)
    assert run.returncode == 1
    assert run.stderr.startswith(f"error: the server at {address} cannot be reached (")
    assert run.stderr.strip().endswith("; is `thetaprime serve` running there?")


def test_help_names_every_option(node: "Node") -> None:
    run = node.run("main.mjs", "--help")
    assert run.returncode == 0
    source = node.run("--input-type=module", "--eval", "process.stdout.write((await import('./arguments.mjs')).HELP)")
    assert run.stdout == source.stdout
    for option in ("address", "goal", "rounds", "trajectories", "seed", "json", "tls-key", "token-file", "resume"):
        assert f"--{option}" in run.stdout


def test_mutual_tls_and_a_token(node: "Node", tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    ours, client = authority.issue("server"), authority.issue("client")
    config = ServerConfig(
        address="localhost:0",
        store=tmp_path / "store",
        tls_certificate=ours.certificate,
        tls_key=ours.key,
        tls_client_authority=authority.certificate,
        tokens=write_tokens(tmp_path / "tokens.toml", {"secret": "alice"}),
    )
    with running_server(config) as address:
        trusting = ["--tls-authority", authority.certificate]
        secured = [*trusting, "--tls-certificate", client.certificate, "--tls-key", client.key]
        common = ["--address", address, "--rounds", 1, "--trajectories", 3, "--output", tmp_path / "policy.onnx"]
        answer = _run(node, *common, *secured, THETAPRIME_TOKEN="secret")
        assert answer["returns"][0] < 0

        refused = node.run("main.mjs", *map(str, [*common, *secured]), THETAPRIME_TOKEN="wrong")
        assert refused.returncode == 1
        assert f"the server at {address} refuses this client: the call's authorization" in refused.stderr
        unknown = node.run("main.mjs", *map(str, [*common, *trusting]), THETAPRIME_TOKEN="secret")
        assert unknown.returncode == 1
        assert f"the server at {address} cannot be reached" in unknown.stderr
