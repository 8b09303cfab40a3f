"""Verdicts, the options of caution and of the reward, and the policy that an adaptation hands out."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import gymnasium
import numpy as np
import pytest

import thetaprime.client as tp
from thetaprime import wire
from thetaprime.client import _history
from thetaprime.client._history import RoundResult, choose, gain, pooled
from thetaprime.v1 import adaptation_service_pb2 as pb
from thetaprime.v1 import adaptation_service_pb2_grpc

VERDICT = pb.Verdict(
    decision=pb.DECISION_SHORTENED,
    reasons=[
        pb.Reason(code=pb.REASON_CODE_UNFAMILIAR_TASK, value=0.01, limit=0.05, text="Unlike training: collect more."),
        pb.Reason(code=pb.REASON_CODE_KL_LIMIT, value=3.0, limit=2.0),
    ],
    task_p_value=0.01,
    predicted_gain=pb.Estimate(value=310.0, low=295.25, high=325.0),
    effective_sample_size=12.5,
    episodes_needed=40,
    realized_gain=pb.Estimate(value=-2.0, low=-math.inf, high=math.inf),
    best_round=1,
    weighty_steps=[pb.WeightyStep(sha256="ab", trajectory=3, step=17, share=0.25)],
)


class Proxy:
    """Answers as the real server does, with edited replies."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._real = adaptation_service_pb2_grpc.AdaptationServiceStub(channel)
        self.edit: Callable[[Any], None] = lambda reply: None

    def __getattr__(self, name: str) -> Any:
        def forward(request: Any, context: object) -> Any:
            reply = getattr(self._real, name)(request)
            self.edit(reply)
            return reply

        return forward


@pytest.fixture
def proxied(address: str) -> Iterator[tuple[Proxy, tp.Client]]:
    """A server in front of the real one, and a client of it."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    with grpc.insecure_channel(address) as channel:
        proxy = Proxy(channel)
        adaptation_service_pb2_grpc.add_AdaptationServiceServicer_to_server(proxy, server)  # type: ignore[arg-type]
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with tp.Client(f"127.0.0.1:{port}") as client:
            yield proxy, client
        server.stop(None).wait()


def old_server(reply: Any) -> None:
    """Removes from a reply the fields that a server without verdicts does not send."""
    if isinstance(reply, pb.AdaptResponse):
        reply.report.ClearField("verdict")
        reply.report.ClearField("discount")
    if hasattr(reply, "session"):
        for name in ("best_round", "best_policy_id"):
            reply.session.ClearField(name)
        for name in ("caution", "reward_scale", "reward_offset", "max_kl"):
            reply.session.options.ClearField(name)


class Paid:
    """A collector that pays the policy of round k about `levels[k]` for an episode of ten steps."""

    def __init__(self, *levels: float, noise: float = 0.1) -> None:
        self._levels = levels
        self._noise = noise
        self._ids: list[str] = []
        self._rng = np.random.default_rng(0)

    def __call__(self, policy: tp.AdaptedPolicy, count: int) -> list[wire.Trajectory]:
        if policy.policy_id not in self._ids:
            self._ids.append(policy.policy_id)
        level = self._levels[self._ids.index(policy.policy_id)]
        with gymnasium.make("Pendulum-v1", max_episode_steps=10) as env:
            episodes = tp.collect(policy, env, count)
        return [
            dataclasses.replace(
                each, rewards=(level / 10 + self._noise * self._rng.standard_normal(10)).astype(np.float32)
            )
            for each in episodes
        ]


def test_a_verdict_has_every_field_of_its_message() -> None:
    verdict = tp.Verdict.from_message(VERDICT)
    assert verdict.decision is tp.Decision.SHORTENED
    assert [each.code for each in verdict.reasons] == [tp.ReasonCode.UNFAMILIAR_TASK, tp.ReasonCode.KL_LIMIT]
    assert (verdict.reasons[0].value, verdict.reasons[0].limit) == (0.01, 0.05)
    assert verdict.predicted_gain == tp.Estimate(310.0, 295.25, 325.0)
    assert verdict.realized_gain == tp.Estimate(-2.0, -math.inf, math.inf)
    assert (verdict.task_p_value, verdict.effective_sample_size, verdict.episodes_needed) == (0.01, 12.5, 40)
    assert verdict.best_round == 1
    assert verdict.weighty_steps == (tp.WeightyStep("ab", 3, 17, 0.25),)
    assert str(verdict) == (
        "SHORTENED: the step before gained -2 (-inf to +inf), predicted gain +310 (+295.2 to +325), task p-value 0.01, "
        "40 episodes needed. UNFAMILIAR_TASK: Unlike training: collect more. KL_LIMIT (3, limit 2)"
    )
    assert verdict.line({tp.ReasonCode.UNFAMILIAR_TASK}).endswith(
        "40 episodes needed. KL_LIMIT (3, limit 2) Again: UNFAMILIAR_TASK (0.01)."
    )
    assert verdict.line(set(tp.ReasonCode)).endswith("needed. Again: UNFAMILIAR_TASK (0.01), KL_LIMIT (3).")
    assert json.loads(json.dumps(dataclasses.asdict(verdict)))["reasons"][0]["code"] == "UNFAMILIAR_TASK"


def test_a_verdict_that_says_nothing_has_none_for_what_cannot_be_said() -> None:
    verdict = tp.Verdict.from_message(pb.Verdict(decision=pb.DECISION_TAKEN))
    assert (verdict.task_p_value, verdict.predicted_gain, verdict.episodes_needed, verdict.realized_gain) == (None,) * 4
    assert str(verdict) == "TAKEN"


def test_what_a_newer_server_says_is_unknown() -> None:
    verdict = tp.Verdict.from_message(pb.Verdict(decision=77, reasons=[pb.Reason(code=78, text="New.")]))  # type: ignore[arg-type]
    assert verdict.decision is tp.Decision.UNKNOWN
    assert verdict.reasons[0].code is tp.ReasonCode.UNKNOWN
    assert str(verdict) == "UNKNOWN. UNKNOWN: New."


def test_every_decision_and_reason_of_the_wire_has_a_name() -> None:
    for enum, kind, prefix in (
        (pb.Decision, tp.Decision, "DECISION_"),
        (pb.ReasonCode, tp.ReasonCode, "REASON_CODE_"),
    ):
        names = {name.removeprefix(prefix) for name in enum.DESCRIPTOR.values_by_name} - {"UNSPECIFIED"}
        assert names | {"UNKNOWN"} == {each.value for each in kind}


def test_verdicts_and_the_best_policy_come_with_the_replies(proxied: tuple[Proxy, tp.Client]) -> None:
    proxy, client = proxied

    def edit(reply: Any) -> None:
        if isinstance(reply, pb.AdaptResponse):
            reply.report.verdict.CopyFrom(VERDICT)
            reply.report.uploads[0].influences[:] = [0.5, -0.25, 0.1, 0.0]
        if hasattr(reply, "session"):
            reply.session.best_round, reply.session.best_policy_id = 1, "f" * 64

    proxy.edit = edit
    session = client.create_session("pendulum")
    assert session.best == tp.BestPolicy(1, "f" * 64)
    session.upload(Paid(-1.0)(session.policy, 4))
    session.adapt()
    assert session.report is not None
    assert session.report.verdict == tp.Verdict.from_message(VERDICT)
    assert session.report.influences.tolist() == [0.5, -0.25, 0.1, 0.0]
    assert [(each.round, each.verdict) for each in session.history] == [(0, session.report.verdict)]


def test_the_options_of_a_session_are_sent_and_read(proxied: tuple[Proxy, tp.Client]) -> None:
    proxy, client = proxied
    wanted = pb.SessionOptions(caution=pb.CAUTION_WARN, reward_scale=10.0, reward_offset=0.0, max_kl=2.5)

    def edit(reply: Any) -> None:
        if hasattr(reply, "session"):
            reply.session.options.MergeFrom(wanted)

    proxy.edit = edit
    info = client.create_session("pendulum", caution="warn", reward_scale=10.0, reward_offset=0.0, max_kl=2.5).info
    assert (info.caution, info.reward_scale, info.reward_offset, info.max_kl) == ("warn", 10.0, 0.0, 2.5)
    with pytest.raises(tp.InvalidInputError, match="caution: 'brave'; expected 'off', 'warn', 'hold' or None"):
        client.create_session("pendulum", caution="brave")


@pytest.mark.parametrize(
    "option", [{"caution": "hold"}, {"caution": "warn"}, {"reward_scale": 1.0}, {"reward_offset": 0.0}, {"max_kl": 1.0}]
)
def test_an_old_server_that_would_ignore_an_option_is_named(
    option: dict[str, Any], proxied: tuple[Proxy, tp.Client]
) -> None:
    proxy, client = proxied
    proxy.edit = old_server
    with pytest.raises(tp.PreconditionError, match=f"{next(iter(option))}: the server at .* is older") as caught:
        client.create_session("pendulum", **option)
    assert caught.value.session_id is None
    assert next(client.sessions()).state == "closed"


def test_a_server_without_verdicts_still_adapts_and_the_best_policy_is_handed_out(
    proxied: tuple[Proxy, tp.Client],
) -> None:
    proxy, client = proxied
    proxy.edit = old_server
    adapted = client.adapt("pendulum", Paid(-9.0, -1.0, -5.0), 2, 4, progress=False)
    assert [each.verdict for each in adapted.history] == [None, None, None]
    assert [each.report.discount for each in adapted.history if each.report is not None] == [None, None]
    assert adapted.round == 1
    assert adapted.improved is True
    assert adapted.gain is not None
    assert adapted.gain.low < 8 < adapted.gain.high
    assert client.resume(adapted.session_id).policy_at(1).policy_id == adapted.policy_id
    assert adapted.summary.startswith("θ′₂ returned -")
    assert ", which is less than θ′₁; θ′₁ gained +" in adapted.summary
    # Without caution, the last policy is handed out, as ever.
    last = client.adapt("pendulum", Paid(-9.0, -1.0, -5.0), 2, 4, caution="off", verify=6, progress=False)
    assert (last.round, [each.trajectories for each in last.history]) == (2, [4, 4, 6])


def test_the_adaptation_is_the_policy(client: tp.Client, tmp_path: Path) -> None:
    adapted = client.adapt("pendulum", Paid(-9.0, -1.0), 1, 4, progress=False)
    assert isinstance(adapted, tp.AdaptedPolicy)
    observation = np.array([1.0, 0.0, 0.0], np.float32)
    adapted.save(tmp_path / "policy.onnx")
    loaded = tp.AdaptedPolicy.load(tmp_path / "policy.onnx", sha256=adapted.sha256)
    assert np.array_equal(adapted.act(observation), loaded.act(observation))
    assert adapted.predict(observation)[0].shape == (1,)
    assert tp.Adaptation.load(tmp_path / "policy.onnx").history == ()


def test_the_verification_is_durable_and_another_run_continues_with_it(client: tp.Client) -> None:
    session = client.create_session("pendulum")
    adapted = session.run(Paid(-9.0, -1.0), 1, 8, progress=False)
    assert [each.trajectories for each in adapted.history] == [8, 5]
    assert client.resume(session.id).batch.trajectories == 5
    more = session.run(Paid(-1.0, -0.5), 2, 8, verify=8, progress=False)
    assert [each.trajectories for each in more.history] == [8, 8, 8]


def test_another_process_hands_out_the_same_policy_of_a_closed_session(client: tp.Client) -> None:
    adapted = client.adapt("pendulum", Paid(-9.0, -1.0), 1, 4, progress=False)
    session = client.resume(adapted.session_id)
    assert session.info.state == "closed"
    again = session.run(Paid(), 1, 4, progress=False)  # collects nothing
    assert (again.round, again.policy_id, again.improved) == (1, adapted.policy_id, True)
    assert again.history[1].trajectories == 5
    assert again.history[1].mean_return == pytest.approx(adapted.history[1].mean_return)


def test_a_round_is_explained(client: tp.Client) -> None:
    session = client.create_session("pendulum")
    session.run(Paid(-9.0, -1.0), 1, 4, verify=0, progress=False)
    found = session.explain()
    assert found.report == session.report
    assert (found.total, len(found.trajectories)) == (4, 4)
    by_return = sorted((each.undiscounted_return, each.share) for each in found.trajectories)
    assert session.report is not None
    reported = sorted(zip(session.report.returns, session.report.shares, strict=True))
    np.testing.assert_allclose(by_return, reported, rtol=1e-5)
    assert found.trajectories[0].observations.shape == (11, 2)
    assert sum(float(each.pushes.sum()) for each in found.trajectories) == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(tp.PreconditionError, match="no uploads"):
        session.explain(1)
    with pytest.raises(tp.NotFoundError, match="round"):
        session.explain(2)
    with pytest.raises(tp.InvalidInputError, match="max_trajectories"):
        session.explain(trajectories=-1)


def test_a_policy_that_was_not_measured_says_so(client: tp.Client) -> None:
    adapted = client.adapt("pendulum", Paid(-1.0), 1, 4, verify=0, progress=False)
    assert (adapted.round, adapted.measured, adapted.gain, adapted.improved) == (1, None, None, None)
    assert "not measured" in adapted.summary
    with pytest.raises(tp.InvalidInputError, match="verify: -1; expected at least 0"):
        client.adapt("pendulum", Paid(-1.0), 1, 4, verify=-1, progress=False)


def test_theta_is_handed_out_where_every_step_made_it_worse(client: tp.Client) -> None:
    adapted = client.adapt("pendulum", Paid(-1.0, -50.0), 1, 4, progress=False)
    assert (adapted.round, adapted.improved) == (0, False)
    assert adapted.policy_id == client.theta("pendulum").policy_id
    assert adapted.summary.endswith(", which is less than θ; nothing was gained, and this policy is θ")


def test_a_discarded_verification_measures_nothing(client: tp.Client) -> None:
    session = client.create_session("pendulum")
    receipt = session.upload(Paid(-1.0)(session.policy, 3))
    session.upload(Paid(-2.0)(session.policy, 2))
    assert session.history[-1].trajectories == 5
    session.discard(receipt.upload_id)
    assert session.history[-1].trajectories == 2
    session.refresh()
    assert session.history[-1].mean_return == pytest.approx(-2.0, abs=1.0)
    session.discard()
    assert session.history == ()


def result(round_index: int, returns: list[float]) -> RoundResult:
    return RoundResult.of_returns(round_index, returns)


def test_a_gain_is_the_interval_of_welch() -> None:
    # Means 4 and 1.5, squared standard errors 2 / 2 and 0.5 / 2, and 1.25² / (1² / 1 + 0.25² / 1) degrees of freedom.
    found = gain(result(1, [3.0, 5.0]), result(0, [1.0, 2.0]))
    half = _history._student_quantile(1.5625 / 1.0625) * math.sqrt(1.25)
    assert (found.value, found.low, found.high) == pytest.approx((2.5, 2.5 - half, 2.5 + half))


@pytest.mark.parametrize(("after", "before"), [(5, 20), (20, 5), (3, 40)])
def test_a_gain_covers_the_truth_nine_times_in_ten(after: int, before: int) -> None:
    rng, covered, trials = np.random.default_rng(after), 0, 600
    for _ in range(trials):
        found = gain(result(1, rng.normal(3.0, 1.0, after).tolist()), result(0, rng.normal(1.0, 5.0, before).tolist()))
        covered += found.low < 2.0 < found.high
    assert 0.86 < covered / trials < 0.94


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1.0, 6.3138), (2.0, 2.9200), (3.0, 2.3534), (4.0, 2.1318), (10.0, 1.8125), (30.0, 1.6973), (100.0, 1.6602)],
)
def test_the_quantile_is_that_of_student(freedom: float, quantile: float) -> None:
    assert _history._student_quantile(freedom) == pytest.approx(quantile, rel=0.01)


@pytest.mark.parametrize("unit", [1e-160, 1.0, 1e150])
def test_a_gain_has_the_unit_of_the_returns(unit: float) -> None:
    found = gain(result(1, [3.0 * unit, 5.0 * unit]), result(0, [unit, 2.0 * unit]))
    plain = gain(result(1, [3.0, 5.0]), result(0, [1.0, 2.0]))
    assert (found.low / unit, found.high / unit) == pytest.approx((plain.low, plain.high))


def test_one_episode_and_equal_returns_have_their_intervals() -> None:
    assert gain(result(1, [5.0]), result(0, [1.0, 2.0])) == tp.Estimate(3.5, -math.inf, math.inf)
    assert gain(result(1, [5.0, 5.0]), result(0, [1.0, 1.0])) == tp.Estimate(4.0, 4.0, 4.0)


def test_the_episodes_of_one_policy_are_pooled() -> None:
    whole = pooled([result(1, [1.0, 4.0, 7.0]), result(3, [2.0, 8.0])])
    expected = result(3, [1.0, 4.0, 7.0, 2.0, 8.0])
    assert (whole.round, whole.trajectories) == (3, 5)
    assert (whole.mean_return, whole.std_return) == pytest.approx((expected.mean_return, expected.std_return))


def test_a_policy_that_the_session_returned_to_is_measured_by_all_its_rounds(proxied: tuple[Proxy, tp.Client]) -> None:
    proxy, client = proxied

    def best_is_current(reply: Any) -> None:
        if isinstance(reply, pb.AdaptResponse):
            reply.session.best_round, reply.session.best_policy_id = 0, reply.policy.policy_id

    proxy.edit = best_is_current
    session = client.create_session("pendulum")
    adapted = session.run(Paid(-3.0, -4.0), 1, 4, progress=False)
    assert (adapted.round, adapted.policy_id) == (1, session.policy.policy_id)
    assert adapted.measured is not None
    assert adapted.measured.trajectories == 4 + 5


def test_the_policy_with_the_higher_return_is_chosen() -> None:
    theta, first, last = result(0, [1.0]), result(1, [7.0]), result(2, [3.0])
    assert choose([theta, first, last], None) is first
    assert choose([theta, first, last], 0) is last  # the server knows which earlier one is the best
    assert choose([theta, first, last], 1) is first
    assert choose([last], None) is last
