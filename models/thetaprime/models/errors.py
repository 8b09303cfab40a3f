"""Errors in artifacts, and in what is asked of them."""


class ArtifactError(ValueError):
    """A file of an artifact is missing, damaged, or of another schema.

    Attributes:
        file: name of the file.
        problem: the found and the expected value.
    """

    def __init__(self, file: str, problem: str) -> None:
        super().__init__(f"{file}: {problem}")
        self.file = file
        self.problem = problem


class MemoryUnsupportedError(ValueError):
    """A policy with a memory, where only policies without one are supported.

    Attributes:
        label: ``name@version`` of the meta-policy.
    """

    def __init__(self, label: str, cell: str) -> None:
        super().__init__(
            f"{label} carries a memory ({cell}), and adapts in it: from episode to episode, while it acts. A gradient "
            "step through a memory is not supported yet; expected a meta-policy without a memory"
        )
        self.label = label
