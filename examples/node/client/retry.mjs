/** Retries calls within one deadline, with exponential backoff, and after the server's retry time. */

const FIRST_PAUSE = 0.1;
const MAX_PAUSE = 5;
/** Fraction of random delay, which spreads clients that were refused together. */
const JITTER = 0.25;
/** Attempts at a server that names no retry time. */
const MAX_ATTEMPTS = 5;

/**
 * Returns whether a retry may succeed.
 *
 * @param {import('../wire/errors.mjs').CallError} error
 */
export function isTransient({ code, retryAfter }) {
  // Without RetryInfo, RESOURCE_EXHAUSTED is an exceeded quota: a retry would fail.
  return code === 'UNAVAILABLE' || code === 'DEADLINE_EXCEEDED' || (code === 'RESOURCE_EXHAUSTED' && retryAfter !== null);
}

/**
 * Makes attempts until one succeeds, the deadline passes, or an error is not transient. Every call of the contract is
 * idempotent.
 *
 * @template T
 * @param {(deadline: Date) => Promise<T>} attempt makes one attempt, which ends by its deadline
 * @param {object} options
 * @param {number} options.seconds deadline of all attempts
 * @param {() => number} [options.now] milliseconds
 * @param {(seconds: number) => Promise<void>} [options.sleep]
 * @param {() => number} [options.random] in [0, 1)
 * @returns {Promise<T>}
 */
export async function withRetries(attempt, { seconds, now = Date.now, sleep = pause, random = Math.random }) {
  const end = now() + seconds * 1000;
  // A lost response must leave time for a retry.
  const attemptMilliseconds = (seconds * 1000) / 3;
  let backoff = FIRST_PAUSE;
  for (let attempts = 1; ; attempts += 1) {
    try {
      return await attempt(new Date(Math.min(end, now() + attemptMilliseconds)));
    } catch (error) {
      if (!isTransient(error)) throw error;
      if (error.retryAfter === null && attempts >= MAX_ATTEMPTS) throw error;
      // Never before the server's retry time.
      const wait = Math.max(error.retryAfter ?? 0, backoff) * (1 + JITTER * random());
      if (now() + wait * 1000 >= end) throw error;
      await sleep(wait);
      backoff = Math.min(backoff * 2, MAX_PAUSE);
    }
  }
}

function pause(seconds) {
  return new Promise((resolve) => setTimeout(resolve, seconds * 1000));
}
