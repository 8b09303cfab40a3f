/** Random numbers that repeat: the same key gives the same noise, on every machine. */

import { uniformFloat64 } from 'pure-rand/distribution/uniformFloat64';
import { xoroshiro128plus } from 'pure-rand/generator/xoroshiro128plus';

import { sha256Hex } from '../wire/digests.mjs';

export class Random {
  /** @param {...(string | number)} key what the numbers are for: a seed, and what else sets them apart from others */
  constructor(...key) {
    // Through a hash, so that neighboring seeds have nothing in common.
    this.generator = xoroshiro128plus(Number.parseInt(sha256Hex(key.join('/')).slice(0, 8), 16) | 0);
    this.spare = null;
  }

  /** Uniform in [0, 1). */
  uniform() {
    return uniformFloat64(this.generator);
  }

  /** Standard normal, by the transform of Box and Muller (1958), which gives two at a time. */
  normal() {
    if (this.spare !== null) {
      const spare = this.spare;
      this.spare = null;
      return spare;
    }
    // 1 - u is in (0, 1], and so has a logarithm.
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
    const angle = 2 * Math.PI * this.uniform();
    this.spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }

  /** Standard Gumbel. */
  gumbel() {
    return -Math.log(-Math.log(this.uniform() || Number.MIN_VALUE));
  }
}
