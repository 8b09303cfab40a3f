"""Errors in data on the wire."""


class WireError(ValueError):
    """A message or an array violates the contract.

    Attributes:
        field: path of the invalid value, down to the step: ``trajectories[3].rewards[17]``.
        problem: the received and the expected value, in one sentence.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class DigestMismatchError(WireError):
    """The bytes that arrived differ from the bytes that were sent."""
