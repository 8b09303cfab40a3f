"""Which form of the ONNX file a call asks for, and the policy in that form."""

import dataclasses
from typing import Final

import pydantic

from thetaprime.models import DEFAULT_PROFILE, ProfileError, RobotDescription, check_profile, derive_form
from thetaprime.server.errors import InvalidRequestError, shown
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import meta_policy_service_pb2 as meta_pb
from thetaprime.v1 import policy_pb2

# No robot has more joints; bounds the work of validation.
_MAX_ENTRIES: Final = 1024


@dataclasses.dataclass(frozen=True)
class RequestedForm:
    """The form that a call asks for.

    Attributes:
        profile: name of the profile.
        robot: description of the robot, or None.
    """

    profile: str
    robot: RobotDescription | None

    @property
    def is_default(self) -> bool:
        """Whether this is the form in which policies are stored."""
        return self.profile == DEFAULT_PROFILE


def requested_form(request: service_pb.GetPolicyRequest | meta_pb.GetMetaPolicyRequest) -> RequestedForm:
    """Returns the form that a call asks for.

    Raises:
        InvalidRequestError: the profile does not exist, or the robot's description is not valid.
    """
    profile = request.profile or DEFAULT_PROFILE
    robot = _robot(request.robot) if request.HasField("robot") else None
    try:
        check_profile(profile, robot)
    except ProfileError as error:
        raise InvalidRequestError(error.field, error.problem) from error
    return RequestedForm(profile, robot)


def in_form(policy: policy_pb2.Policy, form: RequestedForm) -> policy_pb2.Policy:
    """Returns a policy in another form, always as the same bytes. Takes milliseconds.

    Args:
        policy: the policy in its default form.
        form: the form to return.

    Raises:
        InvalidRequestError: the profile cannot express the policy.
    """
    try:
        derived = derive_form(policy.onnx, form.profile, form.robot)
    except ProfileError as error:
        raise InvalidRequestError(error.field, error.problem) from error
    return policy_pb2.Policy(
        policy_id=policy.policy_id,
        parent_id=policy.parent_id,
        onnx=derived.onnx,
        onnx_sha256=derived.onnx_sha256,
        metadata=derived.metadata,
        golden=policy.golden,
        profile=derived.profile,
    )


def _robot(message: policy_pb2.RobotDescription) -> RobotDescription:
    fields = {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}
    for name, values in fields.items():
        if len(values) > _MAX_ENTRIES:
            raise InvalidRequestError(f"robot.{name}", f"{len(values)} entries; expected at most {_MAX_ENTRIES}")
    try:
        return RobotDescription.model_validate({name: tuple(values) for name, values in fields.items()})
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name, *index = (str(part) for part in first["loc"])
        path = f"robot.{name}{''.join(f'[{each}]' for each in index)}"
        raise InvalidRequestError(path, f"{shown(str(first['input']))}; {first['msg']}") from error
