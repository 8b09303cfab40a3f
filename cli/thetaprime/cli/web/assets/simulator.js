// 2D navigation (Finn et al. 2017, section 5.3): simulates many independent episodes as one batch.

const ARRIVED = 0.01; // meters, in each coordinate

/**
 * Simulates one step of one point.
 * @param {number[]} position x, y
 * @param {number[]} action displacement, clipped to its bounds
 * @param {number[]} goal x, y
 * @param {{low: number[], high: number[]}} bounds of the action
 * @returns {{position: number[], reward: number, arrived: boolean}}
 */
export function advance(position, action, goal, bounds) {
  const moved = position.map((value, i) => value + Math.min(Math.max(action[i], bounds.low[i]), bounds.high[i]));
  const offset = moved.map((value, i) => value - goal[i]);
  return {
    position: moved,
    reward: -Math.hypot(...offset),
    arrived: offset.every((value) => Math.abs(value) < ARRIVED),
  };
}

/**
 * Collects whole episodes with sampled actions.
 * @param {import("./policy.js").Policy} policy
 * @param {number[]} goal
 * @param {number} count number of episodes
 * @param {() => number} noise
 * @returns {Promise<Episode[]>}
 *
 * @typedef {{observations: number[][], actions: number[][], rewards: number[], final: number[], terminated: boolean}} Episode
 * raw observations, and actions in the policy's units (before scaling and clipping), step by step
 */
export async function collect(policy, goal, count, noise) {
  const episodes = Array.from({ length: count }, () => ({
    observations: [], actions: [], rewards: [], final: [0, 0], terminated: false,
  }));
  let running = episodes.map((_, i) => i);
  for (let step = 0; step < policy.horizon && running.length; step++) {
    const seen = running.map((i) => episodes[i].final.map(Math.fround));
    const chosen = await policy.sample(seen, noise);
    running = running.filter((i, row) => {
      const episode = episodes[i];
      const next = advance(episode.final, policy.toEnvironment(chosen[row]), goal, policy.bounds);
      episode.observations.push(seen[row]);
      episode.actions.push(chosen[row]);
      episode.rewards.push(next.reward);
      episode.final = next.position;
      episode.terminated = next.arrived;
      return !next.arrived;
    });
  }
  return episodes;
}

/** @param {Episode} episode @returns {number} undiscounted return */
export const returnOf = (episode) => episode.rewards.reduce((sum, reward) => sum + reward, 0);
