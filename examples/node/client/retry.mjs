/** Sending a call again: within one deadline, ever more rarely, and when the server asks for it. */

const FIRST_PAUSE = 0.1;
const LONGEST_PAUSE = 5;
/** So that not all clients that one server turned away come back in the same moment. */
const JITTER = 0.25;
/** Attempts at a server that does not say when to come again: it may not be there at all. */
const MOST_ATTEMPTS = 5;

/**
 * Whether the same call may succeed later.
 *
 * @param {import('../wire/errors.mjs').CallError} error
 */
export function isTransient({ code, retryAfter }) {
  // Without RetryInfo, RESOURCE_EXHAUSTED is a quota, and waiting does not help.
  return code === 'UNAVAILABLE' || code === 'DEADLINE_EXCEEDED' || (code === 'RESOURCE_EXHAUSTED' && retryAfter !== null);
}

/**
 * Makes attempts until one succeeds, the deadline is reached, or repeating does not help. Every call of the contract
 * has the effect of one however often it is sent.
 *
 * @template T
 * @param {(deadline: Date) => Promise<T>} attempt makes one, which is to end by its deadline
 * @param {object} options
 * @param {number} options.seconds until all of it is given up
 * @param {() => number} [options.now] milliseconds
 * @param {(seconds: number) => Promise<void>} [options.sleep]
 * @param {() => number} [options.random] in [0, 1)
 * @returns {Promise<T>}
 */
export async function withRetries(attempt, { seconds, now = Date.now, sleep = pause, random = Math.random }) {
  const end = now() + seconds * 1000;
  // An answer that was lost must not use up the time for asking again.
  const attemptMilliseconds = (seconds * 1000) / 3;
  let backoff = FIRST_PAUSE;
  for (let attempts = 1; ; attempts += 1) {
    try {
      return await attempt(new Date(Math.min(end, now() + attemptMilliseconds)));
    } catch (error) {
      if (!isTransient(error)) throw error;
      if (error.retryAfter === null && attempts >= MOST_ATTEMPTS) throw error;
      // Never before the server's time.
      const wait = Math.max(error.retryAfter ?? 0, backoff) * (1 + JITTER * random());
      if (now() + wait * 1000 >= end) throw error;
      await sleep(wait);
      backoff = Math.min(backoff * 2, LONGEST_PAUSE);
    }
  }
}

function pause(seconds) {
  return new Promise((resolve) => setTimeout(resolve, seconds * 1000));
}
