"""The forms of the ONNX file: what each engine reads of the same policy.

`default` is contract version 1, the form that servers keep, clients act on and artifacts hold. Every other *profile* is
made of such a file when it is asked for: its body (normalization, context, network) as it stands, under a head
with the names, shapes and constants that one consumer looks for. The same file always gives the same bytes.

    default.py          the default form: its graph, written and read
    source.py           a default form taken apart
    profile.py          what a head is, and how body and head become a file
    golden.py           the golden vectors of a file that is put together here
    epsilon.py  unity_mlagents.py  godot_rl.py  robot.py    one profile each
    catalog.py          all of them by name
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
