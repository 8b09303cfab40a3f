/**
 * 2D navigation (Finn et al. 2017, section 5.3): walk to a goal that is nowhere to be seen but in the reward. The same
 * dynamics as `thetaprime/PointNavigation-v0`, to the bit.
 */

import { InvalidInputError } from '../wire/errors.mjs';

export const OBSERVATION_SIZE = 2;
export const ACTION_SIZE = 2;
/** Furthest that a point moves along each axis in one step. */
const MAX_SPEED = 0.1;
/** The goal is reached within so much of it on both axes. */
const ARRIVED = 0.01;
/** Goals lie within so much of the origin on both axes. */
export const GOAL_RANGE = 0.5;

export class PointNavigation {
  /** @param {[number, number]} goal within ±0.5 */
  constructor(goal) {
    this.goal = goal;
    this.position = [0, 0];
  }

  /**
   * Puts the point back to the origin.
   *
   * @returns {Float32Array} [2] the observation: its position
   */
  reset() {
    this.position = [0, 0];
    return this.observation();
  }

  /**
   * Moves the point.
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
 * Holds a meta-policy's environment against this simulator, before a session is opened for nothing.
 *
 * @param {string} name of the meta-policy
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
