/** Collects whole episodes with sampled actions, as the policy gradient assumes. */

/** @typedef {import('./wire/trajectories.mjs').Trajectory} Trajectory */

/**
 * Collects episodes one after the other.
 *
 * @param {import('./policy/policy.mjs').Policy} policy the behavior policy
 * @param {import('./simulator/point-navigation.mjs').PointNavigation} simulator
 * @param {number} episodes number of episodes
 * @param {number} horizon maximum number of steps
 * @param {import('./policy/random.mjs').Random} random generator of the actions' noise
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
    truncated: !terminated, // the horizon truncates
    finalObservation: { values: observation, shape: [observation.length] },
  };
}

/**
 * Returns the mean undiscounted return.
 *
 * @param {Trajectory[]} trajectories
 */
export function meanReturn(trajectories) {
  const returns = trajectories.map(({ rewards }) => rewards.values.reduce((sum, reward) => sum + reward, 0));
  return returns.reduce((sum, each) => sum + each, 0) / returns.length;
}

/** Returns row-major numbers as an array of shape [steps, width]. */
function matrix(numbers, steps) {
  return { values: Float32Array.from(numbers), shape: [steps, numbers.length / steps] };
}
