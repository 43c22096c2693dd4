"""torchrun, ending with the exit status of the processes that it started: `python -m
cellsignal.cloud.torchrun --nproc_per_node 4 -m cellsignal train CONFIG`.

torchrun itself ends with 1 whatever happened. Who starts it again must know whether the time was up
(75: the same command goes on), the input was bad (2: it would be so again), a signal came (128 + n:
state saved), or a process died (then going on from the last checkpoint is worth a try).

torchrun asks the machine where all meet again and again, without a time limit. If that machine
freezes or its network is cut, torchrun would wait forever, and not notice that its own processes
gave up. A thread notices it and ends the command.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Sequence

from cellsignal.common.errors import OUT_OF_TIME

BAD_INPUT = 2
# seconds that torchrun may leave an ended process unnoticed; it takes up to 30 to end the others
_UNNOTICED = 60.0
log = logging.getLogger(__name__)


def main(words: Sequence[str] | None = None) -> int:
    """Run torchrun with these words (default: the command line's). Returns 0, 128 + n for a signal
    of its own, or what `status_of` makes of the processes'.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError

    arguments = run.parse_args(sys.argv[1:] if words is None else list(words))
    threading.Thread(target=_end_if_stuck, daemon=True).start()
    try:
        run.run(arguments)
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in sorted(error.failures.items())}
        log.warning(
            "%s", "; ".join(f"rank {rank} {_in_words(code)}" for rank, code in codes.items())
        )
        return status_of(codes.values())
    except SignalException as error:
        return 128 + int(error.sigval)
    # of several machines: the one where they meet is not there, or no more
    except RendezvousError as error:
        log.warning("%s", " ".join(str(error).split()))
        return 1
    return 0


def status_of(codes: Iterable[int]) -> int:
    """One exit status for several processes, from their exit codes (-n: killed by signal n).

    Bad input comes first, then time that is up, as both are told by a process itself, and the
    others may have been ended for it; then any other failure of a process's own (1 for a
    traceback); a signal comes last, torchrun's own SIGTERM to the others after it.
    """
    codes = list(codes)
    own_codes = [code for code in codes if code > 0]
    for status in (BAD_INPUT, OUT_OF_TIME):
        if status in own_codes:
            return status
    return min(own_codes, default=128 - max(codes))


def _end_if_stuck() -> None:
    """End this command, and all that it started, once torchrun overlooks a process that ended."""
    import psutil

    this, since = psutil.Process(), {}
    while True:
        time.sleep(1.0)
        ended = [child for child in this.children() if child.status() == psutil.STATUS_ZOMBIE]
        since = {child.pid: since.get(child.pid, time.monotonic()) for child in ended}
        stuck = [pid for pid, first in since.items() if time.monotonic() - first > _UNNOTICED]
        if not stuck:
            continue
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in stuck]
        for child in this.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        log.warning(
            "the machine where all meet does not answer; %s",
            "; ".join(f"a process {_in_words(code)}" for code in codes),
        )
        os._exit(status_of(codes))


def _in_words(code: int) -> str:
    return (
        f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    sys.exit(main())
