/**
 * Samples actions from a policy's distribution. Sampling is outside the ONNX graph: a generator in the graph would
 * repeat its noise in every new session.
 */

const { fround } = Math;

/**
 * Continuous actions. A trajectory records the sampled, unclipped action; the environment takes the result of
 * `toEnvironment`.
 */
export class BoxActions {
  /** @param {{low: number[], high: number[]}} box bounds in the environment's units; infinite without a bound */
  constructor({ low, high }) {
    this.size = low.length;
    // In float32, so that all clients compute equal actions.
    this.dimensions = low.map((lowest, i) => {
      const [bottom, top] = [fround(lowest), fround(high[i])];
      // A dimension without both bounds is neither scaled nor clipped.
      if (!Number.isFinite(bottom) || !Number.isFinite(top)) {
        return { half: 1, middle: 0, bottom: -Infinity, top: Infinity };
      }
      return { half: fround(fround(top - bottom) / 2), middle: fround(fround(top + bottom) / 2), bottom, top };
    });
  }

  /**
   * @param {{mean: Float32Array, log_std: Float32Array}} outputs [A] each
   * @param {import('./random.mjs').Random} random
   * @returns {Float32Array} [A] the action in the policy's units, for the trajectory
   */
  sample({ mean, log_std: logStd }, random) {
    return Float32Array.from(mean, (value, i) => value + Math.exp(logStd[i]) * random.normal());
  }

  /**
   * @param {Float32Array} action [A] in the policy's units
   * @returns {Float32Array} [A] in the environment's units, within its bounds
   */
  toEnvironment(action) {
    return Float32Array.from(action, (value, i) => {
      const { half, middle, bottom, top } = this.dimensions[i];
      // Clipped last: rounding must not move an action past its bound.
      return Math.min(Math.max(fround(fround(value * half) + middle), bottom), top);
    });
  }
}

/** Discrete actions: a trajectory records the index, counted from 0; the environment takes it plus its `start`. */
export class DiscreteActions {
  /** @param {{count: number, start: number}} discrete */
  constructor({ count, start }) {
    this.size = count;
    this.start = start;
  }

  /**
   * @param {{logits: Float32Array}} outputs [A]
   * @param {import('./random.mjs').Random} random
   * @returns {number} the index, for the trajectory
   */
  sample({ logits }, random) {
    // argmax(logits + Gumbel noise) is a sample of softmax(logits).
    const noisy = Array.from(logits, (logit) => logit + random.gumbel());
    return noisy.indexOf(Math.max(...noisy));
  }

  /** @param {number} index */
  toEnvironment(index) {
    return index + this.start;
  }
}
