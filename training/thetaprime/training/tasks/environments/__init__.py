"""The environments of the shipped tasks. Importing ``thetaprime.training`` registers them with Gymnasium.

import gymnasium
import thetaprime.training

gymnasium.register_envs(thetaprime.training)  # tells linters that the import is used
env = gymnasium.make("thetaprime/PointNavigation-v0", goal=(0.3, -0.2))
env = gymnasium.make("thetaprime/HalfCheetahVelocity-v0", goal=1.3)
"""
