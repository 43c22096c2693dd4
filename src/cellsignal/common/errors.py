"""Errors of the user's input, and stops that the same command resumes.

Every check of user input raises an `InputError` whose message is one line that names the file, row
or key. The command line prints that line and exits with status 2. Any other exception is a bug and
keeps its traceback.
"""

import signal


class InputError(ValueError):
    """Bad input: a file, a row, a key or an argument. The message is one line and names it."""


class ImageError(InputError):
    """An image file that cannot be used.

    Attributes:
        path: the file.
        kind: one of "missing", "truncated", "corrupt", "wrong_size", "wrong_depth",
            "wrong_channels", "wrong_format", "empty", "not_calibrated" (its plate could not be
            measured).
    """

    def __init__(self, path, kind: str, detail: str):
        self.path, self.kind, self.detail = str(path), kind, detail
        super().__init__(f"{path}: {detail}")

    def __reduce__(self):  # crosses process boundaries in the packing workers
        return ImageError, (self.path, self.kind, self.detail)


class InvalidSubmission(InputError):
    """A submission that the competition would refuse; the message names the first wrong rows."""


# exit status (EX_TEMPFAIL): the time budget is used up, the same command resumes
OUT_OF_TIME = 75


class Interrupted(Exception):
    """The work was stopped by a signal, with its state saved.

    Attributes:
        status: the exit status, 128 + the signal's number.
    """

    def __init__(self, title: str, number: int, why: str | None = None):
        """`why`: what acted as the signal, such as a stop file."""
        self.status = 128 + number
        super().__init__(
            f"{title}: stopped by {why or signal.Signals(number).name}, state saved; the same "
            "command goes on from here"
        )


class OutOfTime(Interrupted):
    """The next step would not end within the time budget; the state is saved."""

    def __init__(self, title: str, saved: str, estimate: str):
        """`estimate`: how long the next step would take, and how much time was left."""
        Exception.__init__(
            self,
            f"{title}: out of time, {saved} saved ({estimate}); the same command goes on from here",
        )
        self.status = OUT_OF_TIME
