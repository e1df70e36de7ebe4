"""What is raised where a model's files can't become a model."""


class Unusable(Exception):
    """The model can't work; the message names the file and the reason, `hint` the way out."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class Unfit(Unusable):
    """The files are right, but don't go with what was asked for, or with that server: another
    option, base or server would do."""
