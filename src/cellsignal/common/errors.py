"""The one kind of error that is the user's to mend, and the one kind of stop that is none.

Every check of user input raises an `InputError` whose message is one line naming the file, row or
key. The command line prints that line and exits with status 2; anything else is our own bug and
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
        "wrong_channels", "wrong_format", "empty",
            "not_calibrated" (the plate that it is on could not be measured).
    """

    def __init__(self, path, kind: str, detail: str):
        self.path, self.kind, self.detail = str(path), kind, detail
        super().__init__(f"{path}: {detail}")

    def __reduce__(self):  # crosses process boundaries in the packing workers
        return ImageError, (self.path, self.kind, self.detail)


class InvalidSubmission(InputError):
    """A submission that the competition would refuse. The message names the first offending rows."""


# exit status, EX_TEMPFAIL: the time budget is used up and the same command goes on
OUT_OF_TIME = 75


class Interrupted(Exception):
    """Stopped by a signal with everything saved: no error, but the work is not done. `status` is
    the exit status (128 + signal number).
    """

    def __init__(self, title: str, number: int, why: str | None = None):
        """`why`: what stood for the signal, such as a stop file."""
        self.status = 128 + number
        super().__init__(
            f"{title}: stopped by {why or signal.Signals(number).name}, state saved; the same "
            "command goes on from here"
        )


class OutOfTime(Interrupted):
    """Stopped because what comes next would not fit into the time budget, with everything saved.
    `status` is `OUT_OF_TIME`.
    """

    def __init__(self, title: str, saved: str, estimate: str):
        """`saved`: what is; `estimate`: what was expected to take how long, and how much was left."""
        Exception.__init__(
            self,
            f"{title}: out of time, {saved} saved ({estimate}); the same command goes on from here",
        )
        self.status = OUT_OF_TIME
