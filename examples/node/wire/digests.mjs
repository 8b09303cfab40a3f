/** SHA-256 digests of payloads, batches and policies. */

import { createHash } from 'node:crypto';

/**
 * Returns the SHA-256 of bytes as 64 lower-case hexadecimal digits; the server refuses upper case.
 *
 * @param {Uint8Array | string} data bytes, or a string for its UTF-8 bytes
 */
export function sha256Hex(data) {
  return createHash('sha256').update(data).digest('hex');
}

/**
 * Returns the digest of a round's batch, for `Adapt`: the SHA-256 of the uploads' hex digests, sorted and concatenated
 * as text. Empty without uploads.
 *
 * @param {string[]} uploadDigests digest of each upload's payload; a payload under two upload ids appears twice
 */
export function batchDigest(uploadDigests) {
  return uploadDigests.length === 0 ? '' : sha256Hex([...uploadDigests].sort().join(''));
}
