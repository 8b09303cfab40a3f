"""Arguments as the contract takes them."""

from google.protobuf.duration_pb2 import Duration

from thetaprime.client._errors import InvalidInputError


def name_and_version(name: str, version: int) -> tuple[str, int]:
    """``name@version``, or the two apart.

    Raises:
        InvalidInputError: it does not read, or the two contradict each other.
    """
    bare, separator, digits = name.partition("@")
    if not separator:
        return name, version
    if not digits.isdigit() or version not in (0, int(digits)):
        raise InvalidInputError.at("meta_policy", f"{name!r} with version={version}; expected 'name' or 'name@3'")
    return bare, int(digits)


def duration(seconds: float) -> Duration:
    """A time to live.

    Raises:
        InvalidInputError: it is no number of seconds.
    """
    try:
        message = Duration()
        message.FromNanoseconds(round(seconds * 1e9))
    except (ValueError, OverflowError) as error:
        raise InvalidInputError.at("ttl", f"{seconds!r}; expected seconds") from error
    return message
