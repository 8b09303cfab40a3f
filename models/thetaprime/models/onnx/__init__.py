"""The profiles of the ONNX file: one policy in the form of each engine.

The profile `default` is the contract. Servers store it, clients act on it, and artifacts contain it. Every other
profile is derived from such a file on request: the same body (normalization, context, network) under a head with the
names, shapes and constants of one consumer. The same file always gives the same bytes.

    template.py         the default form: builds its graph, writes and reads parameters
    source.py           reads a default form
    profile.py          heads, and their assembly with the body
    golden.py           golden vectors of a derived file
    epsilon.py  unity_mlagents.py  godot_rl.py  rsl_rl.py  robot.py    the profiles
    profiles.py         all profiles by name
"""

from thetaprime.models.onnx.profile import OnnxForm, ProfileError
from thetaprime.models.onnx.profiles import DEFAULT_PROFILE, PROFILES, check_profile, derive_form
from thetaprime.models.onnx.robot_description import RobotDescription
from thetaprime.models.onnx.template import OnnxTemplate

__all__ = [
    "DEFAULT_PROFILE",
    "PROFILES",
    "OnnxForm",
    "OnnxTemplate",
    "ProfileError",
    "RobotDescription",
    "check_profile",
    "derive_form",
]
