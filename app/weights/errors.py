"""What goes wrong with weights; apart from the rest, so that whoever catches it needs no numpy."""


class WeightsError(ValueError):
    """The weights can't be used so; the message is a sentence that names the tensor or the key,
    `hint` the way out."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class WeightsKilled(Exception):
    """The process that did the work was ended from outside; the message is a sentence."""

    hint = "Try again. If it happens again, this machine has too little memory for its services."
