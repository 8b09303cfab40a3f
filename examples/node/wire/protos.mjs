/** The contract's messages and services, loaded from the `.proto` files at startup, without generated code. */

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import protoLoader from '@grpc/proto-loader';

/** The contract's folders in this repository. Elsewhere, copy its `thetaprime/` folder into `protos/` beside this one. */
const FOLDERS = ['../protos', '../../../proto'].map((folder) => fileURLToPath(new URL(folder, import.meta.url)));

const FILES = [
  'thetaprime/v1/adaptation_service.proto',
  'thetaprime/v1/meta_policy_service.proto',
  'google/rpc/status.proto',
  'google/rpc/error_details.proto',
];

for (const file of FILES) {
  if (!FOLDERS.some((folder) => existsSync(`${folder}/${file}`))) {
    throw new Error(`${file} is in none of ${FOLDERS.join(', ')}; copy the contract's .proto files to one of them`);
  }
}

const definitions = protoLoader.loadSync(FILES, {
  includeDirs: FOLDERS,
  // Missing fields have their default instead of `undefined`.
  defaults: true,
  oneofs: true,
  enums: String,
  // Counts and rounds are far below 2^53. Arrays of int64 are bytes, and stay exact.
  longs: Number,
});

/**
 * Returns a message type, with `serialize(object)` and `deserialize(bytes)`.
 *
 * @param {string} name full name, such as `thetaprime.v1.Trajectory`
 */
export function messageType(name) {
  const definition = definitions[name];
  if (definition?.format !== 'Protocol Buffer 3 DescriptorProto') {
    throw new Error(`the contract has no message ${name}`);
  }
  return definition;
}

/**
 * Returns the definition of a service, for `makeClientConstructor`.
 *
 * @param {string} name full name
 */
export function serviceDefinition(name) {
  return definitions[name];
}
