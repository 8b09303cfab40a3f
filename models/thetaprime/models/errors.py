"""Errors in artifacts."""


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
