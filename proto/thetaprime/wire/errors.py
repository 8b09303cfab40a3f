"""What can be wrong with data on the wire."""


class WireError(ValueError):
    """A message or an array breaks the contract.

    Attributes:
        field: path to what is wrong, down to the step: ``trajectories[3].rewards[17]``.
        problem: what came and what was expected, in one sentence.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class DigestMismatchError(WireError):
    """The bytes that arrived are not the bytes that were sent."""
