"""Write Slurm jobs that pack a store in parts, one task a part, and merge them.

A task that is lost, or whose time is up, is queued again and goes on with its part; the merge
begins when all parts are there.
"""

import shlex
from pathlib import Path

from cellsignal.cloud.plan import Work
from cellsignal.cloud.slurm import MOST_STARTS, Cluster, directive_lines
from cellsignal.common.errors import OUT_OF_TIME, InputError
from cellsignal.common.files import write_text

_MOST_PARTS = 10_000  # of an array, on most clusters less


def write_packing(work: Work, cluster: Cluster, parts: int, out: Path) -> list[Path]:
    """Write pack.sbatch, merge.sbatch and a launch.sh that begins with them; return their paths."""
    texts = {
        "pack.sbatch": pack_script(work, cluster, parts),
        "merge.sbatch": merge_script(work, cluster, parts),
        "launch.sh": LAUNCH,
    }
    for name, text in texts.items():
        write_text(out / name, text)
        (out / name).chmod(0o755)
    return [out / name for name in texts]


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
        "cpus-per-task": cluster.cpus,
        "time": cluster.time,
        "signal": f"B:USR1@{cluster.notice}",
        "open-mode": "append",
        "output": "slurm-%x-%A_%a.log",
        "partition": cluster.partition,
        "account": cluster.account,
    }
    return _PACK.format(
        directives=directive_lines(directives) + "\n#SBATCH --requeue",
        program=f"{cluster.python} -m cellsignal",
        words=_words(work, cluster),
        parts=parts,
        path=work.path,
        notice=cluster.notice,
        most=MOST_STARTS,
        out_of_time=OUT_OF_TIME,
    )


def merge_script(work: Work, cluster: Cluster, parts: int) -> str:
    """The job that makes the store of all parts."""
    directives = {
        "job-name": f"{work.config.name}-merge",
        "cpus-per-task": cluster.cpus,
        "time": "01:00:00",
        "output": "slurm-%x-%j.log",
        "partition": cluster.partition,
        "account": cluster.account,
    }
    return f"""#!/usr/bin/env bash
{directive_lines(directives)}
set -euo pipefail
cd "${{SLURM_SUBMIT_DIR:?give this to sbatch, from the repository}}"
{cluster.python} -m cellsignal prepare {_words(work, cluster)} --merge {parts}
"""


def _words(work: Work, cluster: Cluster) -> str:
    sets = (*work.sets, f"data.workers={cluster.cpus}")
    return shlex.join([work.path.as_posix(), *(word for text in sets for word in ("--set", text))])


_PACK = """#!/usr/bin/env bash
{directives}
# {path}: packs its store in {parts} parts, one a task. Made by `cellsignal cloud slurm --pack`; give it to sbatch from the repository, which all nodes must see.
#   0   done
#   {out_of_time}  the time was up, or Slurm gave notice: saved, and back into the queue
#   any other: the log's last line says why. sbatch it again, or one part with --array=K: it goes on. (A node that is lost is requeued by Slurm itself.)
set -uo pipefail
cd "${{SLURM_SUBMIT_DIR:?give this to sbatch, from the repository}}" || exit 2
[ -z "${{SLURM_JOB_END_TIME:-}}" ] || export CELLSIGNAL_DEADLINE=$((SLURM_JOB_END_TIME - {notice}))
part="${{SLURM_ARRAY_TASK_ID:?is not set: give this to sbatch as an array}}/{parts}"
step='' told=''
tell() {{
    told=yes
    [ -z "$step" ] || kill -TERM "$step" 2> /dev/null
}}
trap tell USR1 TERM
{program} prepare {words} --part "$part" &
step=$!
[ -z "$told" ] || kill -TERM "$step" 2> /dev/null  # told before it was known
while true; do  # a trapped signal ends `wait`, not what it waits for
    wait "$step"
    status=$?
    kill -0 "$step" 2> /dev/null || break
done
[ "$status" -eq 0 ] && exit 0
if [ "$status" -eq {out_of_time} ] || [ -n "$told" ]; then
    if [ "${{SLURM_RESTART_COUNT:-0}}" -ge {most} ]; then
        echo "error: started {most} times and not done; is the time limit too short?" >&2
        exit 1
    fi
    scontrol requeue "$SLURM_JOB_ID" || echo "error: could not be requeued; sbatch it again to go on" >&2
    exit {out_of_time}
fi
exit "$status"
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
