/** Runs a policy with a memory from its ONNX file and its metadata alone, for one robot. */

import { InferenceSession, Tensor } from 'onnxruntime-node';

import { PolicyVerificationError } from '../wire/errors.mjs';

const CONTRACT_VERSION = '2';
/** Tolerance of the golden sequences, absolute and relative. */
const TOLERANCE = 1e-5;

export class RememberingPolicy {
  /**
   * Loads a file, and tries it over its golden sequences.
   *
   * @param {Uint8Array} onnx the file
   * @param {Record<string, string>} metadata its metadata: `policy.metadata` of a reply, or as `thetaprime inspect FILE --json`
   *   prints it
   * @throws {PolicyVerificationError} the file has another contract, or acts otherwise than its golden sequences
   */
  static async load(onnx, metadata) {
    const version = metadata['thetaprime.contract_version'];
    if (version !== CONTRACT_VERSION) {
      throw new PolicyVerificationError(`contract_version is ${version}; expected ${CONTRACT_VERSION}: a policy with a memory`);
    }
    const session = await InferenceSession.create(onnx, { intraOpNumThreads: 1, interOpNumThreads: 1 });
    const policy = new RememberingPolicy(session, JSON.parse(metadata['thetaprime.memory']));
    await policy.#rehearse(JSON.parse(metadata['thetaprime.golden']));
    policy.reset();
    return policy;
  }

  constructor(session, memory) {
    this.session = session;
    this.memory = memory;
    this.types = new Map(session.inputMetadata.map(({ name, type }) => [name, type]));
    this.reset();
  }

  /** Begins a lifetime: the robot, its body or its goal may have changed. Not for the end of an episode. */
  reset() {
    this.inputs = {};
    for (const [name, value] of Object.entries(this.memory.start)) this.inputs[name] = this.#tensor(name, value);
    for (const { input, axis, initial } of this.memory.states) {
      const shape = [initial.length, initial[0].length];
      shape.splice(axis, 0, 1); // one robot
      this.inputs[input] = new Tensor('float32', initial.flat(), shape);
    }
  }

  /**
   * Returns the deterministic action for one observation.
   *
   * @param {ArrayLike<number>} observation [O] raw
   * @returns {Promise<Float32Array | number>} the action in the environment's units: [A], or a discrete action
   */
  async act(observation) {
    const { actions } = await this.#run(observation);
    return actions.type === 'int64' ? Number(actions.data[0]) : actions.data;
  }

  /**
   * Tells the outcome of the last action.
   *
   * @param {number} reward the reward
   * @param {boolean} done whether the action ended an episode
   */
  observe(reward, done) {
    this.inputs.prev_reward = this.#tensor('prev_reward', reward);
    this.inputs.prev_done = this.#tensor('prev_done', done ? 1 : 0);
  }

  async #run(observation, outputs = []) {
    const obs = new Tensor('float32', Float32Array.from(observation), [1, observation.length]);
    const names = ['actions', ...outputs, ...this.memory.states.map(({ output }) => output)];
    const found = await this.session.run({ obs, ...this.inputs }, names);
    for (const { input, output } of this.memory.states) this.inputs[input] = found[output];
    this.inputs.prev_action = found.actions;
    return found;
  }

  #tensor(name, value) {
    const values = [value].flat();
    const dims = Array.isArray(value) ? [1, values.length] : [1];
    if (this.types.get(name) === 'int64') return new Tensor('int64', BigInt64Array.from(values, BigInt), dims);
    return new Tensor('float32', Float32Array.from(values), dims);
  }

  /** Runs each golden sequence from its first step, and compares the outputs. */
  async #rehearse({ inputs, resets, outputs }) {
    const names = Object.keys(outputs).filter((name) => name !== 'actions');
    for (const [sequence, begins] of resets.entries()) {
      for (const [step, begin] of begins.entries()) {
        if (begin) this.reset();
        for (const name of Object.keys(this.memory.start)) {
          this.inputs[name] = this.#tensor(name, inputs[name][sequence][step]);
        }
        const found = await this.#run(inputs.obs[sequence][step], names);
        for (const name of Object.keys(outputs)) {
          requireEqual(name, found[name].data, [outputs[name][sequence][step]].flat(), `step ${step} of sequence ${sequence}`);
        }
      }
    }
  }
}

function requireEqual(name, found, expected, where) {
  for (const [index, value] of expected.entries()) {
    const given = Number(found[index]);
    // Negated so that NaN fails.
    if (!(Math.abs(given - value) <= TOLERANCE + TOLERANCE * Math.abs(value))) {
      throw new PolicyVerificationError(
        `the policy fails its golden sequences: at ${where} its ${name} is ${given}; expected ${value}`,
      );
    }
  }
}
