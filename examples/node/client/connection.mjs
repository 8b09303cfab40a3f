/** Options, credentials and metadata of a channel. */

import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';

import { credentials, Metadata } from '@grpc/grpc-js';

import { InvalidInputError } from '../wire/errors.mjs';

/** Options of a channel to a ThetaPrime server. */
export const CHANNEL_OPTIONS = {
  // Policies may exceed the default of 4 MiB.
  'grpc.max_receive_message_length': 64 << 20,
  // `withRetries` retries instead, and reads the server's RetryInfo.
  'grpc.enable_retries': 0,
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 1000,
};

/**
 * @typedef {object} TlsFiles
 * @property {string} [authority] PEM file of the certificate authorities to trust; default: the public ones
 * @property {string} [certificate] PEM file of the client's certificate, for mutual TLS
 * @property {string} [key] PEM file of the certificate's private key
 */

/**
 * Returns the credentials of a channel.
 *
 * @param {TlsFiles | null} tls null connects in plain text
 */
export function channelCredentials(tls) {
  if (tls === null) return credentials.createInsecure();
  const { authority, certificate, key } = tls;
  if ((certificate === undefined) !== (key === undefined)) {
    const [given, missing] = key === undefined ? ['certificate', 'key'] : ['key', 'certificate'];
    throw new InvalidInputError(`tls-${missing}`, `missing; the ${given} came without it`);
  }
  const [root, privateKey, chain] = [
    readPem(authority, 'tls-authority'),
    readPem(key, 'tls-key'),
    readPem(certificate, 'tls-certificate'),
  ];
  try {
    return credentials.createSsl(root, privateKey, chain);
  } catch (error) {
    throw new InvalidInputError('tls', `the files cannot be used: ${error.message}`);
  }
}

/**
 * Returns the metadata of every call: the token. Refuses to send it in plain text to another machine.
 *
 * @param {string | null} token
 * @param {string} address
 * @param {boolean} readable whether the connection is in plain text
 */
export function callMetadata(token, address, readable) {
  const metadata = new Metadata();
  if (token === null) return metadata;
  if (!/^[\x21-\x7e]+$/.test(token)) {
    throw new InvalidInputError('token', 'not a token; expected printable ASCII characters without spaces');
  }
  if (readable && !isLoopback(address)) {
    throw new InvalidInputError('token', `not sent to ${address} in plain text; use --tls, or --allow-plaintext`);
  }
  metadata.set('authorization', `Bearer ${token}`);
  return metadata;
}

/**
 * Refuses an address that is not `host:port` with a port from 1 to 65535.
 *
 * @param {string} address
 */
export function requireAddress(address) {
  const port = /^(\[[0-9a-fA-F:.]+\]|[^\s:/]+):(\d{1,5})$/.exec(address)?.[2];
  if (port === undefined || Number(port) < 1 || Number(port) > 65535) {
    throw new InvalidInputError('address', `${JSON.stringify(address)}; expected host:port, such as localhost:50051`);
  }
  return address;
}

/** Returns whether an address is of this machine. @param {string} address `host:port` */
export function isLoopback(address) {
  const host = address.replace(/:\d+$/, '').replace(/^\[|\]$/g, '');
  return host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));
}

function readPem(file, option) {
  if (file === undefined) return null;
  let data;
  try {
    data = readFileSync(file);
  } catch (error) {
    throw new InvalidInputError(option, `${file} cannot be read: ${error.code}`);
  }
  if (!data.includes('-----BEGIN ')) throw new InvalidInputError(option, `${file} is not PEM`);
  return data;
}
