"""A server adapts a policy whose network is a module of the user's, without the module."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import thetaprime.client as tp
import thetaprime.training
from tests.support.artifacts import POINT_NAVIGATION
from tests.support.models import modules
from tests.support.server.process import ServerProcess
from thetaprime.models import AdaptationSpec, PolicySpec, Provenance, TrajectoryBatch, write_meta_policy
from thetaprime.models.module.capture import capture_module
from thetaprime.models.module.policy import ModulePolicy
from thetaprime.models.verdict import RoundMemory, StepOptions, next_step

gymnasium.register_envs(thetaprime.training)


@pytest.mark.slow
@pytest.mark.parametrize("context_size", [0, 3], ids=["all parameters", "context"])
def test_the_server_takes_the_step_of_the_module_to_the_bit(tmp_path: Path, context_size: int) -> None:
    made: Any = modules.Film if context_size else modules.Mlp
    arguments: Any = ((2,), 2, *([context_size] if context_size else []))
    # The server could not import it.
    spec = PolicySpec(module="no.such.package:Network", context_size=context_size, init_log_std=-1.0)
    program = capture_module(made(*arguments), *arguments)
    policy = ModulePolicy(POINT_NAVIGATION, spec, program, lambda: made(*arguments))
    meta_policy = write_meta_policy(
        tmp_path / "zoo" / "mine" / "1",
        name="mine",
        version=1,
        description="mine",
        environment=POINT_NAVIGATION,
        policy_spec=spec,
        adaptation=AdaptationSpec(inner_lr=0.0 if context_size else 0.05, context_lr=0.5),
        parameters=policy.init(0),
        provenance=Provenance.untrained("mine"),
        golden_observations=np.random.default_rng(1).normal(size=(3, 2)),
        program=program,
    )
    env = gymnasium.make("thetaprime/PointNavigation-v0", goal=(0.3, 0.2))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ServerProcess(tmp_path, tmp_path / "zoo") as server, tp.Client(server.start()) as client:
            session = client.create_session("mine")
            path, history = [meta_policy.parameters], list[RoundMemory]()
            for step in range(2):
                trajectories = tp.collect(session.policy, env, 8, seed=step)
                session.upload(trajectories)
                served = session.adapt()
                batch = TrajectoryBatch.concatenate(
                    [each.observations for each in trajectories],
                    [each.actions for each in trajectories],
                    [each.rewards for each in trajectories],
                    [each.terminated for each in trajectories],
                    [each.final_observation for each in trajectories],
                )
                ours = next_step(meta_policy, history, batch, path[-1], path.__getitem__, StepOptions())
                history.append(ours.memory)
                path.append(ours.parameters)
                assert served.policy_id == meta_policy.export(ours.parameters).policy_id
            assert served.policy_id != meta_policy.policy_id
            assert len(ours.verdict.influences) == 8
    finally:
        torch.set_num_threads(before)
