"""An evaluation whose numbers can be checked by hand."""

import numpy as np

from thetaprime.training.evaluation.scores import Evaluation


def evaluation_by_hand() -> Evaluation:
    """Returns an evaluation of two tasks and two gradient steps."""
    return Evaluation(
        meta_policy="hand@1",
        seeds=(0,),
        trajectories=20,
        tasks=[{"goal": [0.1, 0.1]}, {"goal": [0.2, 0.2]}],
        returns={
            "maml": np.array([[-8.0, -4.0], [-3.0, -5.0], [-1.0, -3.0]]),
            "pretrained": np.array([[-9.0, -3.0], [-8.0, -2.0], [-8.0, -2.0]]),
            "random": np.array([[-20.0, -10.0], [-19.0, -9.0], [-18.0, -8.0]]),
        },
        oracle=np.array([-1.0, -1.0]),
    )
