/** Reads the arrays and trajectories of docs/test-vectors.json. */

const KINDS = {
  DATA_TYPE_FLOAT32: Float32Array,
  DATA_TYPE_FLOAT64: Float64Array,
  DATA_TYPE_INT32: Int32Array,
  DATA_TYPE_INT64: BigInt64Array,
};

export function arrayFromJson({ data_type: dataType, shape, values }) {
  const Kind = KINDS[dataType];
  return { values: Kind.from(values, Kind === BigInt64Array ? BigInt : Number), shape };
}

export function trajectoryFromJson(json) {
  return {
    policyId: json.policy_id,
    observations: arrayFromJson(json.observations),
    actions: arrayFromJson(json.actions),
    rewards: arrayFromJson(json.rewards),
    terminated: json.terminated,
    truncated: json.truncated,
    finalObservation: arrayFromJson(json.final_observation),
  };
}
