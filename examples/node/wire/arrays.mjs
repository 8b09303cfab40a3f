/** Converts typed arrays to and from `Array` messages: data type, shape, row-major little-endian bytes. */

import { endianness } from 'node:os';

import { InvalidInputError } from './errors.mjs';

/**
 * Numbers in row-major order: element `[i, j]` of shape `[I, J]` is `values[i * J + j]`.
 *
 * @typedef {object} NdArray
 * @property {Float32Array | Float64Array | Int32Array | BigInt64Array} values
 * @property {number[]} shape empty for a scalar
 */

const KINDS = {
  DATA_TYPE_FLOAT32: Float32Array,
  DATA_TYPE_FLOAT64: Float64Array,
  DATA_TYPE_INT32: Int32Array,
  DATA_TYPE_INT64: BigInt64Array,
};

/**
 * Copies an array into a message.
 *
 * @param {NdArray} array
 */
export function arrayToMessage({ values, shape }) {
  const dataType = Object.keys(KINDS).find((name) => values instanceof KINDS[name]);
  if (dataType === undefined) {
    throw new TypeError(`${values?.constructor?.name} has no wire form; expected ${kindNames()}`);
  }
  if (count(shape) !== values.length) {
    throw new TypeError(`${values.length} elements; shape [${shape}] takes ${count(shape)}`);
  }
  const message = { dataType, shape };
  // proto3 omits empty fields. protobufjs would write them, and the bytes would have another digest.
  if (values.length > 0) message.data = littleEndian(bytesOf(values), values.BYTES_PER_ELEMENT);
  return message;
}

/**
 * Copies a message's bytes into an array.
 *
 * @param {{dataType: string, shape: number[], data: Buffer} | null} message
 * @param {string} field path of the message, for the error
 * @returns {NdArray}
 */
export function arrayFromMessage(message, field) {
  if (!message) throw new InvalidInputError(field, `missing; expected an array`);
  const Kind = KINDS[message.dataType];
  if (Kind === undefined) {
    throw new InvalidInputError(`${field}.data_type`, `${message.dataType}; expected ${kindNames()}`);
  }
  const expected = count(message.shape) * Kind.BYTES_PER_ELEMENT;
  if (message.data.length !== expected) {
    throw new InvalidInputError(
      `${field}.data`,
      `${message.data.length} bytes; shape [${message.shape}] of ${message.dataType} takes ${expected}`,
    );
  }
  // Copied: the bytes may start at any offset of their buffer, a typed array only at a multiple of its element size.
  const bytes = littleEndian(Uint8Array.from(message.data), Kind.BYTES_PER_ELEMENT);
  return { values: new Kind(bytes.buffer, bytes.byteOffset, count(message.shape)), shape: message.shape };
}

/** @param {number[]} shape */
export function count(shape) {
  return shape.reduce((product, length) => product * length, 1);
}

function bytesOf(values) {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength).slice();
}

/** Converts bytes of this machine to little-endian bytes, or back. */
function littleEndian(bytes, width) {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (endianness() === 'LE') return buffer;
  return width === 4 ? buffer.swap32() : buffer.swap64();
}

function kindNames() {
  return `one of ${Object.values(KINDS).map((Kind) => Kind.name).join(', ')}`;
}
