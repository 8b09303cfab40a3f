/** Collecting trajectories with a policy: whole episodes, with sampled actions, as the estimator assumes. */

/** @typedef {import('./wire/trajectories.mjs').Trajectory} Trajectory */

/**
 * Runs episodes one after the other.
 *
 * @param {import('./policy/policy.mjs').Policy} policy the behavior policy
 * @param {import('./simulator/point-navigation.mjs').PointNavigation} simulator
 * @param {number} episodes how many
 * @param {number} horizon where an episode is cut short
 * @param {import('./policy/random.mjs').Random} random where the noise of the actions comes from
 * @returns {Promise<Trajectory[]>}
 */
export async function collect(policy, simulator, episodes, horizon, random) {
  const trajectories = [];
  while (trajectories.length < episodes) {
    trajectories.push(await collectEpisode(policy, simulator, horizon, random));
  }
  return trajectories;
}

async function collectEpisode(policy, simulator, horizon, random) {
  const [observations, actions, rewards] = [[], [], []];
  let observation = simulator.reset();
  let terminated = false;
  while (!terminated && rewards.length < horizon) {
    const { forEnvironment, toRecord } = await policy.sample(observation, random);
    const moved = simulator.step(forEnvironment);
    observations.push(...observation);
    actions.push(...toRecord);
    rewards.push(moved.reward);
    ({ observation, terminated } = moved);
  }
  const steps = rewards.length;
  return {
    policyId: policy.policyId,
    observations: matrix(observations, steps),
    actions: matrix(actions, steps),
    rewards: { values: Float32Array.from(rewards), shape: [steps] },
    terminated,
    truncated: !terminated, // at the horizon it is we who cut
    finalObservation: { values: observation, shape: [observation.length] },
  };
}

/**
 * Mean undiscounted return.
 *
 * @param {Trajectory[]} trajectories
 */
export function meanReturn(trajectories) {
  const returns = trajectories.map(({ rewards }) => rewards.values.reduce((sum, reward) => sum + reward, 0));
  return returns.reduce((sum, each) => sum + each, 0) / returns.length;
}

/** [steps, width] of numbers that lie row after row. */
function matrix(numbers, steps) {
  return { values: Float32Array.from(numbers), shape: [steps, numbers.length / steps] };
}
