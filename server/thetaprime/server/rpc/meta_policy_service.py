"""The MetaPolicyService: lists meta-policies and returns θ."""

from typing import Any, TypeAlias

import grpc

from thetaprime.server.auth import audit, current_caller
from thetaprime.server.catalog.catalog import Catalog, require_readable
from thetaprime.server.errors import InvalidRequestError
from thetaprime.server.rpc.profiles import in_form, requested_form
from thetaprime.server.scheduling.fair_slots import FairThreads
from thetaprime.v1 import meta_policy_service_pb2 as meta_pb
from thetaprime.v1 import meta_policy_service_pb2_grpc as meta_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class MetaPolicyServicer(meta_grpc.MetaPolicyServiceServicer):
    """Serves the catalog.

    Args:
        catalog: the meta-policies.
        processors: threads for work that computes.
    """

    def __init__(self, catalog: Catalog, processors: FairThreads) -> None:
        self._catalog = catalog
        self._processors = processors

    async def ListMetaPolicies(  # noqa: N802
        self, request: meta_pb.ListMetaPoliciesRequest, context: Context
    ) -> meta_pb.ListMetaPoliciesResponse:
        """Lists all meta-policies, by name and version."""
        return meta_pb.ListMetaPoliciesResponse(meta_policies=[entry.message for entry in self._catalog])

    async def GetMetaPolicy(  # noqa: N802
        self, request: meta_pb.GetMetaPolicyRequest, context: Context
    ) -> meta_pb.GetMetaPolicyResponse:
        """Returns one meta-policy and its θ."""
        if request.version < 0:
            raise InvalidRequestError("version", f"{request.version}; expected 0 or more")
        caller, form = current_caller(), requested_form(request)
        entry = self._catalog.find(request.name, request.version)
        require_readable(entry.theta, request.onnx_contract)
        theta = entry.theta
        if not form.is_default:
            theta = await self._processors.run(caller.tenant, in_form, theta, form)
        audit.record("fetched", caller, meta_policy=entry.label, policy_id=theta.policy_id)
        return meta_pb.GetMetaPolicyResponse(meta_policy=entry.message, policy=theta)
