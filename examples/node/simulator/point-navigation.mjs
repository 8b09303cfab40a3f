/**
 * 2D navigation (Finn et al. 2017, section 5.3): moves to a goal that only the reward depends on. The dynamics equal
 * those of `thetaprime/PointNavigation-v0`, to the bit.
 */

import { InvalidInputError } from '../wire/errors.mjs';

export const OBSERVATION_SIZE = 2;
export const ACTION_SIZE = 2;
/** Maximum displacement along each axis in one step. */
const MAX_SPEED = 0.1;
/** The episode terminates within this distance of the goal on both axes. */
const ARRIVED = 0.01;
/** Maximum distance of a goal from the origin on both axes. */
export const GOAL_RANGE = 0.5;

export class PointNavigation {
  /** @param {[number, number]} goal within ±0.5 */
  constructor(goal) {
    this.goal = goal;
    this.position = [0, 0];
  }

  /**
   * Moves the point to the origin.
   *
   * @returns {Float32Array} [2] the observation: the point's position
   */
  reset() {
    this.position = [0, 0];
    return this.observation();
  }

  /**
   * Moves the point by one step.
   *
   * @param {Float32Array} action [2] velocity, clipped to ±0.1
   * @returns {{observation: Float32Array, reward: number, terminated: boolean}}
   */
  step(action) {
    this.position = this.position.map((x, i) => x + Math.min(Math.max(action[i], -MAX_SPEED), MAX_SPEED));
    const [dx, dy] = this.position.map((x, i) => x - this.goal[i]);
    return {
      observation: this.observation(),
      reward: -Math.sqrt(dx * dx + dy * dy),
      terminated: Math.abs(dx) < ARRIVED && Math.abs(dy) < ARRIVED,
    };
  }

  observation() {
    return Float32Array.from(this.position);
  }
}

/**
 * Refuses a meta-policy whose environment differs from this simulator, before a session is created.
 *
 * @param {string} name name of the meta-policy
 * @param {object} environment its `EnvironmentContract`
 */
export function requireFit(name, { observationShape, box, discrete }) {
  const observation = `[${observationShape}]`;
  const action = box ? `${box.low.length} dimensions` : `one of ${discrete.count}`;
  if (observation !== `[${OBSERVATION_SIZE}]` || box?.low.length !== ACTION_SIZE) {
    throw new InvalidInputError(
      'meta-policy',
      `${name} observes ${observation} and its action has ${action}; ` +
        `this simulator sends [${OBSERVATION_SIZE}] and takes ${ACTION_SIZE} dimensions`,
    );
  }
}
