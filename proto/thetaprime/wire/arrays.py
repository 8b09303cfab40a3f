"""numpy arrays <-> `Array` messages."""

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from thetaprime.v1 import trajectory_pb2 as pb
from thetaprime.wire.errors import WireError

_DTYPES: Final[dict[pb.DataType, np.dtype[Any]]] = {
    pb.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    pb.DATA_TYPE_FLOAT64: np.dtype("<f8"),
    pb.DATA_TYPE_INT32: np.dtype("<i4"),
    pb.DATA_TYPE_INT64: np.dtype("<i8"),
}
_DATA_TYPES: Final = {dtype: data_type for data_type, dtype in _DTYPES.items()}
# No observation of the field has more axes; a bound keeps a hostile shape cheap to refuse.
_MAX_AXES: Final = 8


def array_to_message(array: npt.NDArray[Any]) -> pb.Array:
    """Copies an array into a message.

    Raises:
        WireError: the dtype is none of float32, float64, int32, int64.
    """
    data_type = _DATA_TYPES.get(array.dtype.newbyteorder("<"))
    if data_type is None:
        raise WireError("data_type", f"dtype {array.dtype} has no wire form; expected {_expected()}")
    data = np.ascontiguousarray(array, dtype=_DTYPES[data_type]).tobytes()
    return pb.Array(data_type=data_type, shape=array.shape, data=data)


def array_from_message(message: pb.Array, field: str) -> npt.NDArray[Any]:
    """Views a message's bytes as an array (read-only, no copy).

    Args:
        message: the message.
        field: path of the message, for the error.

    Raises:
        WireError: an unknown data type, a negative length, or a length of `data` that does not fit the shape.
    """
    dtype = _DTYPES.get(message.data_type)
    if dtype is None:
        raise WireError(f"{field}.data_type", f"{message.data_type} is unknown; expected {_expected()}")
    if len(message.shape) > _MAX_AXES:
        raise WireError(f"{field}.shape", f"{len(message.shape)} axes; at most {_MAX_AXES} are allowed")
    shape = tuple(message.shape)
    if any(length < 0 for length in shape):
        raise WireError(f"{field}.shape", f"{list(shape)} has a negative length")
    expected = math.prod(shape) * dtype.itemsize
    if len(message.data) != expected:
        raise WireError(
            f"{field}.data",
            f"{len(message.data)} bytes; shape {list(shape)} of {dtype.name} takes {expected}",
        )
    try:
        return np.frombuffer(message.data, dtype=dtype).reshape(shape)
    except ValueError as error:  # lengths that numpy cannot hold, beside a zero
        raise WireError(f"{field}.shape", f"{list(shape)} is not a shape: {error}") from error


def _expected() -> str:
    return "one of " + ", ".join(dtype.name for dtype in _DATA_TYPES)
