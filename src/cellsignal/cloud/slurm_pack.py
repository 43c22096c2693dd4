"""Write Slurm jobs that pack a store in parts, one task a part, and merge them.

A task that is lost, or whose time is up, is queued again and goes on with its part; the merge
begins when all parts are there.
"""

import shlex
from pathlib import Path

from cellsignal.cloud.plan import Work
from cellsignal.cloud.slurm import (
    NOTICED,
    Cluster,
    directive_lines,
    requeued_directives,
    short_job,
    write_scripts,
)
from cellsignal.common.errors import OUT_OF_TIME, InputError

_MOST_PARTS = 10_000  # of an array, on most clusters less


def write_packing(work: Work, cluster: Cluster, parts: int, out: Path) -> list[Path]:
    """Write pack.sbatch, merge.sbatch and a launch.sh that begins with them; return their paths."""
    texts = {
        "pack.sbatch": pack_script(work, cluster, parts),
        "merge.sbatch": merge_script(work, cluster, parts),
        "launch.sh": LAUNCH,
    }
    return write_scripts(texts, out)


def pack_script(work: Work, cluster: Cluster, parts: int) -> str:
    """The array: its task k packs part k, on a node without a GPU.

    Raises:
        InputError: no number of parts.
    """
    if not 1 <= parts <= _MOST_PARTS:
        raise InputError(f"--pack {parts}: a number of parts from 1 to {_MOST_PARTS}")
    directives = {
        "job-name": f"{work.config.name}-pack",
        "array": f"1-{parts}",
    } | requeued_directives(cluster)
    return _PACK.format(
        directives=directive_lines(directives) + "\n#SBATCH --requeue",
        program=f"{cluster.python} -m cellsignal",
        words=_words(work, cluster),
        parts=parts,
        path=work.path,
        notice=cluster.notice,
        noticed=NOTICED,
        out_of_time=OUT_OF_TIME,
    )


def merge_script(work: Work, cluster: Cluster, parts: int) -> str:
    """The job that makes the store of all parts."""
    command = f"prepare {_words(work, cluster)} --merge {parts}"
    return short_job(f"{work.config.name}-merge", cluster, command)


def _words(work: Work, cluster: Cluster) -> str:
    sets = (*work.sets, f"data.workers={cluster.cpus}")
    return shlex.join([work.path.as_posix(), *(word for text in sets for word in ("--set", text))])


_PACK = """#!/usr/bin/env bash
{directives}
# {path}: packs its store in {parts} parts, one a task. Made by `cellsignal cloud slurm --pack`; give it to sbatch from the repository, which all nodes must see.
#   0   done
#   {out_of_time}  the time was up, or Slurm gave notice: saved, and back into the queue
#   2   bad input: the log's last line says which; not tried again
#   any other: the log's last line says why. sbatch it again, or one part with --array=K: it goes on. (A node that is lost is requeued by Slurm itself.)
set -uo pipefail
cd "${{SLURM_SUBMIT_DIR:?give this to sbatch, from the repository}}" || exit 2
[ -z "${{SLURM_JOB_END_TIME:-}}" ] || export CELLSIGNAL_DEADLINE=$((SLURM_JOB_END_TIME - {notice}))
part="${{SLURM_ARRAY_TASK_ID:?is not set: give this to sbatch as an array}}/{parts}"
{noticed}
{program} prepare {words} --part "$part" &
finish
"""

LAUNCH = """#!/usr/bin/env bash
# The store in parts, then all folds, then the submission. Start it from the repository.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
pack=$(sbatch --parsable "$here/pack.sbatch")
pack=${pack%%;*}
merge=$(sbatch --parsable --dependency="afterok:$pack" --kill-on-invalid-dep=yes "$here/merge.sbatch")
merge=${merge%%;*}
array=$(sbatch --parsable --dependency="afterok:$merge" --kill-on-invalid-dep=yes "$here/folds.sbatch")
array=${array%%;*}
submit=$(sbatch --parsable --dependency="afterok:$array" --kill-on-invalid-dep=yes "$here/submit.sbatch")
echo "parts: job $pack; merge: job $merge; folds: job $array; submission: job ${submit%%;*}"
"""
