/** Reproducible random numbers: equal keys give equal numbers on every machine. */

import { uniformFloat64 } from 'pure-rand/distribution/uniformFloat64';
import { xoroshiro128plus } from 'pure-rand/generator/xoroshiro128plus';

import { sha256Hex } from '../wire/digests.mjs';

export class Random {
  /** @param {...(string | number)} key a seed, and names that separate streams of numbers */
  constructor(...key) {
    // Hashed, so that streams of neighboring seeds are independent.
    this.generator = xoroshiro128plus(Number.parseInt(sha256Hex(key.join('/')).slice(0, 8), 16) | 0);
    this.spare = null;
  }

  /** Returns a uniform number in [0, 1). */
  uniform() {
    return uniformFloat64(this.generator);
  }

  /** Returns a standard normal number, by the transform of Box and Muller (1958), which computes two at a time. */
  normal() {
    if (this.spare !== null) {
      const spare = this.spare;
      this.spare = null;
      return spare;
    }
    // 1 - u is in (0, 1], so the logarithm is finite.
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
    const angle = 2 * Math.PI * this.uniform();
    this.spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }

  /** Returns a standard Gumbel number. */
  gumbel() {
    return -Math.log(-Math.log(this.uniform() || Number.MIN_VALUE));
  }
}
