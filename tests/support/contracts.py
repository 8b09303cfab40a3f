"""Contracts of environments of every kind."""

from typing import Final

from tests.support.artifacts import POINT_NAVIGATION
from thetaprime.models import BoxAction, DiscreteAction, EnvironmentContract

CONTRACTS: Final = {
    "point-navigation": POINT_NAVIGATION,
    "pendulum": EnvironmentContract(
        environment_id="Pendulum-v1",
        observation_shape=(3,),
        action=BoxAction(low=(-2.0,), high=(2.0,)),
        horizon=40,
        control_timestep=0.05,
    ),
    "cart-pole": EnvironmentContract(
        environment_id="CartPole-v1",
        observation_shape=(4,),
        action=DiscreteAction(count=2),
        horizon=60,
    ),
    "grid": EnvironmentContract(
        environment_id="grid",
        observation_shape=(2, 3),
        action=DiscreteAction(count=4, start=5),
        horizon=10,
    ),
    "half-open": EnvironmentContract(
        environment_id="half-open",
        observation_shape=(2,),
        action=BoxAction(low=(-1.0, 0.0, -3.0), high=(1.0, 10.0, 5.0)),
        horizon=10,
    ),
}
