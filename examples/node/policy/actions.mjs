/**
 * From the distribution that a policy gives to actions. Sampling is left out of the ONNX file: a generator inside
 * would repeat its noise in every new session.
 */

const { fround } = Math;

/**
 * Continuous actions. What is sampled, unclipped, is what a trajectory records; what `toEnvironment` makes of it is what
 * the environment takes.
 */
export class BoxActions {
  /** @param {{low: number[], high: number[]}} box bounds in the environment's units, infinite where there are none */
  constructor({ low, high }) {
    this.size = low.length;
    // In float32, as everywhere else, so that all clients act alike to the bit.
    this.dimensions = low.map((lowest, i) => {
      const [bottom, top] = [fround(lowest), fround(high[i])];
      // A dimension without both bounds passes as it is: neither scaled nor clipped.
      if (!Number.isFinite(bottom) || !Number.isFinite(top)) {
        return { half: 1, middle: 0, bottom: -Infinity, top: Infinity };
      }
      return { half: fround(fround(top - bottom) / 2), middle: fround(fround(top + bottom) / 2), bottom, top };
    });
  }

  /**
   * @param {{mean: Float32Array, log_std: Float32Array}} outputs [A] each
   * @param {import('./random.mjs').Random} random
   * @returns {Float32Array} [A] the action to record, in the policy's units
   */
  sample({ mean, log_std: logStd }, random) {
    return Float32Array.from(mean, (value, i) => value + Math.exp(logStd[i]) * random.normal());
  }

  /**
   * @param {Float32Array} action [A] in the policy's units
   * @returns {Float32Array} [A] in the environment's, within its bounds
   */
  toEnvironment(action) {
    return Float32Array.from(action, (value, i) => {
      const { half, middle, bottom, top } = this.dimensions[i];
      // Clipped last: rounding must not carry an action over the bound.
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
   * @returns {number} the index to record
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
