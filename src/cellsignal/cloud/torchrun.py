"""torchrun, ending with the exit status of the processes that it started: `python -m
cellsignal.cloud.torchrun --nproc_per_node 4 -m cellsignal train CONFIG`.

torchrun itself ends with 1 whatever happened. Who starts it again must know whether the time was up
(75: the same command goes on), the input was bad (2: it would be so again), a signal came (128 + n:
state saved), or a process died (then going on from the last checkpoint is worth a try).
"""

import logging
import signal
import sys
from collections.abc import Iterable, Sequence

from cellsignal.common.errors import OUT_OF_TIME

BAD_INPUT = 2
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


def _in_words(code: int) -> str:
    return (
        f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    sys.exit(main())
