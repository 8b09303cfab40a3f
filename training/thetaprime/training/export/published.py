"""Whether a meta-policy is MAML as Finn et al. (2017) published it, and where its settings differ from theirs."""

from thetaprime.models import Manifest
from thetaprime.training.config import TrainConfig

_NETWORK = (100, 100)


def published_maml(manifest: Manifest) -> str:
    """The card's section on MAML as published; empty for a meta-policy that adapts in another way.

    MAML as published: every parameter adapts by REINFORCE, from a random initialization; TRPO improves θ to second
    order; the policy has no context and knows no best return.
    """
    try:
        config = TrainConfig.model_validate(manifest.provenance.config)
    except ValueError:  # of an earlier version, or no run at all
        return ""
    adaptation = manifest.adaptation
    published = (
        (config.method, config.outer_loop) == ("maml", "maml_trpo")
        and adaptation.inner_lr > 0.0
        and not manifest.policy.context_size
        and adaptation.target_return is None
        and not adaptation.first_order
        and not adaptation.normalize_gradient
        and manifest.provenance.warm_start is None
    )
    if not published:
        return ""
    deviations = "\n".join(f"- {each}" for each in _deviations(config, manifest))
    return f"""## MAML as published

Every parameter adapts by REINFORCE with a linear feature baseline, from a θ that was trained from a random
initialization by TRPO, to second order (Finn et al. 2017, Algorithm 3). No context adapts instead, no best return is
known, and no oracle's run came first. Settings that differ from the paper's:

{deviations or "- none"}

"""


def _deviations(config: TrainConfig, manifest: Manifest) -> list[str]:
    """Sentences on the settings that are not the paper's."""
    policy, adaptation = manifest.policy, manifest.adaptation
    schedule = ", ".join(f"{factor:g}" for factor in adaptation.inner_lr_schedule)
    judged = ", and the policy after each of them counts in the outer loss" if config.multi_step_loss else ""
    network = f"`{policy.module}`" if policy.module else f"an MLP of {policy.hidden_sizes} {policy.activation} units"
    named = {
        f"The network is {network} instead of two layers of 100 ReLU units.": bool(policy.module)
        or (policy.hidden_sizes, policy.activation) != (_NETWORK, "relu"),
        "Observations are scaled by constants to about unit size.": bool(
            policy.observation_mean or policy.observation_std
        ),
        f"The output layer begins with {policy.init_output_scale:g} times the usual weights, and the log standard "
        f"deviation at {policy.init_log_std:g}.": (policy.init_output_scale, policy.init_log_std) != (1.0, 0.0),
        f"Each parameter has a learned step size, {adaptation.inner_lr:g} at first (Meta-SGD, Li et al. 2017).": (
            config.learn_step_sizes
        ),
        f"The factors on the step sizes by round are {schedule}.": len(set(adaptation.inner_lr_schedule)) > 1,
        f"The first step multiplies the standard deviation of the actions by {adaptation.adapted_std_factor:g}: θ "
        "explores, and θ′ need not.": adaptation.adapted_std_factor != 1.0,
        f"Meta-training takes {adaptation.inner_steps} inner steps{judged}.": adaptation.inner_steps != 1,
        f"Inner advantages have discount {adaptation.discount:g} and GAE λ {adaptation.gae_lambda:g}, outer ones "
        f"{config.outer_discount:g} and {config.outer_gae_lambda:g}.": (
            adaptation.discount,
            adaptation.gae_lambda,
            config.outer_discount,
            config.outer_gae_lambda,
        )
        != (0.99, 1.0, 0.99, 1.0),
        f"An iteration has {config.meta_batch_size} tasks, spread evenly over the distribution.": config.spread_tasks,
        f"The inner loss has the second derivative of the form {adaptation.curvature!r}.": (
            adaptation.curvature != "log_prob"
        ),
    }
    return [sentence for sentence, applies in named.items() if applies]
