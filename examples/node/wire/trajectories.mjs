/** Validates trajectories, and packs them into the payload of an upload. */

import { arrayToMessage } from './arrays.mjs';
import { InvalidInputError } from './errors.mjs';
import { messageType } from './protos.mjs';

/** @typedef {import('./arrays.mjs').NdArray} NdArray */

/**
 * One whole episode of H steps, collected with one policy.
 *
 * @typedef {object} Trajectory
 * @property {string} policyId id of the behavior policy
 * @property {NdArray} observations [H, ...observationShape] float: the raw observation before each action
 * @property {NdArray} actions continuous: [H, A] float, as sampled, before scaling and clipping; discrete: [H] integer,
 *   counted from 0
 * @property {NdArray} rewards [H] float: the reward after each action
 * @property {boolean} terminated the episode ended in a terminal state
 * @property {boolean} truncated the episode was cut short
 * @property {NdArray} finalObservation [...observationShape] float: the observation after the last action
 */

const trajectoryType = messageType('thetaprime.v1.Trajectory');

/**
 * Returns the payload of an upload: each trajectory's message after its length.
 *
 * @param {Trajectory[]} trajectories
 * @returns {Buffer}
 */
export function pack(trajectories) {
  return Buffer.concat(
    trajectories.flatMap((trajectory) => {
      const message = trajectoryType.serialize(trajectoryToMessage(trajectory));
      return [varint(message.length), message];
    }),
  );
}

/**
 * Returns the number of steps of all trajectories.
 *
 * @param {Trajectory[]} trajectories
 */
export function countSteps(trajectories) {
  return trajectories.reduce((sum, trajectory) => sum + trajectory.rewards.values.length, 0);
}

/**
 * Validates a trajectory against its environment, as the server does.
 *
 * @param {Trajectory} trajectory
 * @param {object} environment the meta-policy's `EnvironmentContract`
 * @param {string} field path of the trajectory, for the error
 * @throws {InvalidInputError} a field is invalid; the error names the first
 */
export function validate(trajectory, environment, field) {
  const { observations, actions, rewards, finalObservation } = trajectory;
  const { observationShape, horizon } = environment;
  const steps = rewards.values.length;
  if (steps === 0) throw new InvalidInputError(`${field}.rewards`, 'no steps; a trajectory has at least one');
  if (steps > horizon) throw new InvalidInputError(`${field}.rewards`, `${steps} steps; the horizon is ${horizon}`);
  requireFloats(rewards, [steps], `${field}.rewards`);
  requireFloats(observations, [steps, ...observationShape], `${field}.observations`);
  requireFloats(finalObservation, observationShape, `${field}.final_observation`);
  if (environment.box) requireFloats(actions, [steps, environment.box.low.length], `${field}.actions`);
  else requireChoices(actions, steps, environment.discrete.count, `${field}.actions`);
  if (!trajectory.terminated && !trajectory.truncated) {
    throw new InvalidInputError(`${field}.truncated`, 'neither terminated nor truncated is set; upload whole episodes only');
  }
}

/** @param {Trajectory} trajectory */
function trajectoryToMessage(trajectory) {
  const message = {
    observations: arrayToMessage(trajectory.observations),
    actions: arrayToMessage(trajectory.actions),
    rewards: arrayToMessage(trajectory.rewards),
    finalObservation: arrayToMessage(trajectory.finalObservation),
  };
  // proto3 omits fields that are false or empty; protobufjs would write them.
  if (trajectory.policyId) message.policyId = trajectory.policyId;
  if (trajectory.terminated) message.terminated = true;
  if (trajectory.truncated) message.truncated = true;
  return message;
}

/** Encodes a length as a varint: seven bits a byte, the lowest first, the high bit on every byte but the last. */
function varint(length) {
  const bytes = [];
  for (; length > 0x7f; length = Math.floor(length / 0x80)) bytes.push((length & 0x7f) | 0x80);
  return Buffer.from([...bytes, length]);
}

function requireFloats(array, shape, field) {
  if (!(array.values instanceof Float32Array || array.values instanceof Float64Array)) {
    throw new InvalidInputError(field, `${array.values.constructor.name}; expected Float32Array or Float64Array`);
  }
  requireShape(array, shape, field);
  // The policy computes in float32, in which a larger number overflows.
  const index = array.values.findIndex((value) => !Number.isFinite(Math.fround(value)));
  if (index >= 0) {
    throw new InvalidInputError(`${field}${path(index, shape)}`, `${array.values[index]} is not a finite float32`);
  }
}

function requireChoices(array, steps, count, field) {
  if (!(array.values instanceof Int32Array || array.values instanceof BigInt64Array)) {
    throw new InvalidInputError(field, `${array.values.constructor.name}; expected Int32Array or BigInt64Array`);
  }
  requireShape(array, [steps], field);
  const index = array.values.findIndex((value) => value < 0 || value >= count);
  if (index >= 0) {
    throw new InvalidInputError(
      `${field}[${index}]`,
      `action ${array.values[index]}; expected 0..${count - 1}, counted from 0`,
    );
  }
}

function requireShape(array, shape, field) {
  if (array.shape.length !== shape.length || array.shape.some((length, axis) => length !== shape[axis])) {
    throw new InvalidInputError(field, `shape [${array.shape}]; expected [${shape}]`);
  }
}

/** Returns `[i][j]` for a flat index. */
function path(index, shape) {
  const indices = [];
  for (const length of [...shape].reverse()) {
    indices.unshift(`[${index % length}]`);
    index = Math.floor(index / length);
  }
  return indices.join('');
}
