/** Trajectories, and the payload of an upload that they become. */

import { arrayToMessage } from './arrays.mjs';
import { InvalidInputError } from './errors.mjs';
import { messageType } from './protos.mjs';

/** @typedef {import('./arrays.mjs').NdArray} NdArray */

/**
 * One whole episode of H steps, collected with one policy.
 *
 * @typedef {object} Trajectory
 * @property {string} policyId of the behavior policy
 * @property {NdArray} observations [H, ...observationShape] float: what each action was chosen from, raw
 * @property {NdArray} actions continuous: [H, A] float, as sampled, before scaling and clipping; discrete: [H] integer,
 *   counted from 0
 * @property {NdArray} rewards [H] float: what followed each action
 * @property {boolean} terminated the episode ended in a terminal state
 * @property {boolean} truncated it was cut short from outside
 * @property {NdArray} finalObservation [...observationShape] float: the observation after the last action
 */

const trajectoryType = messageType('thetaprime.v1.Trajectory');

/**
 * The payload of an upload: each trajectory's message behind its length.
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
 * Steps of all trajectories together.
 *
 * @param {Trajectory[]} trajectories
 */
export function countSteps(trajectories) {
  return trajectories.reduce((sum, trajectory) => sum + trajectory.rewards.values.length, 0);
}

/**
 * Holds a trajectory against its environment, as the server will.
 *
 * @param {Trajectory} trajectory
 * @param {object} environment the meta-policy's `EnvironmentContract`
 * @param {string} field path of the trajectory, for the error
 * @throws {InvalidInputError} the first thing that does not fit
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
  // As proto3 has it, what is false or empty is left out; protobufjs would write it.
  if (trajectory.policyId) message.policyId = trajectory.policyId;
  if (trajectory.terminated) message.terminated = true;
  if (trajectory.truncated) message.truncated = true;
  return message;
}

/** A length as protobuf writes it: seven bits a byte, the lowest first, the high bit on every byte but the last. */
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
  // The policy computes in float32: a number that overflows there is as bad as infinity.
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

/** `[i][j]` of the element at a flat index. */
function path(index, shape) {
  const indices = [];
  for (const length of [...shape].reverse()) {
    indices.unshift(`[${index % length}]`);
    index = Math.floor(index / length);
  }
  return indices.join('');
}
