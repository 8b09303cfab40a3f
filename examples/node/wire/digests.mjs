/** SHA-256 digests, the identity of everything that crosses the wire. */

import { createHash } from 'node:crypto';

/**
 * The SHA-256 of bytes as 64 lower-case hexadecimal digits, the only spelling that the server takes.
 *
 * @param {Uint8Array | string} data a string stands for its UTF-8 bytes
 */
export function sha256Hex(data) {
  return createHash('sha256').update(data).digest('hex');
}

/**
 * The digest of a round's batch, which `Adapt` names: over the uploads' hex digests, sorted and written one after
 * another as text. Empty for no uploads.
 *
 * @param {string[]} uploadDigests of each upload's payload; one that was sent under two upload ids stands there twice
 */
export function batchDigest(uploadDigests) {
  return uploadDigests.length === 0 ? '' : sha256Hex([...uploadDigests].sort().join(''));
}
