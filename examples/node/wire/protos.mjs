/** The contract's messages and services, read from the `.proto` files when the program starts: no generated code. */

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import protoLoader from '@grpc/proto-loader';

/** Where the contract lies in this repository. Elsewhere, copy its `thetaprime/` folder into `protos/` beside this one. */
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
  // Fields that were not sent have their default, as in every other language, instead of `undefined`.
  defaults: true,
  oneofs: true,
  enums: String,
  // Counts and rounds are far below 2^53; arrays of int64 travel as bytes and stay exact.
  longs: Number,
});

/**
 * A message type, with `serialize(object)` and `deserialize(bytes)`.
 *
 * @param {string} name with its package, such as `thetaprime.v1.Trajectory`
 */
export function messageType(name) {
  const definition = definitions[name];
  if (definition?.format !== 'Protocol Buffer 3 DescriptorProto') {
    throw new Error(`the contract has no message ${name}`);
  }
  return definition;
}

/**
 * A service's methods, as grpc-js makes a client of them.
 *
 * @param {string} name with its package
 */
export function serviceDefinition(name) {
  return definitions[name];
}
