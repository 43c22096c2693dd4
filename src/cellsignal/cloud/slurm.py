"""Write a Slurm job array with one task per fold.

A task stops before its time limit and queues itself again until it is done.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from cellsignal.cloud.plan import PORT, Work, rendezvous
from cellsignal.common.errors import OUT_OF_TIME, InputError
from cellsignal.common.files import write_text

_TIME = re.compile(r"(\d+-)?\d{1,3}(:\d{2}){1,2}|\d+-\d{1,2}|\d+")
MOST_STARTS = 100


@dataclass(frozen=True)
class Cluster:
    """What one task of the array asks for.

    Attributes:
        time: limit, as Slurm writes it (HH:MM:SS, D-HH).
        notice: seconds before the limit at which training is told to save and end.
        python: of the environment that all nodes see.
    """

    nodes: int = 1
    gpus: int = 1
    cpus: int = 8
    time: str = "08:00:00"
    notice: int = 300
    partition: str | None = None
    account: str | None = None
    python: str = ".venv/bin/python"

    def __post_init__(self) -> None:
        if min(self.nodes, self.gpus, self.cpus) < 1 or self.notice < 60:
            raise InputError(
                "--nodes, --gpus and --cpus: 1 at least; --notice: 60 seconds at least"
            )
        if not _TIME.fullmatch(self.time):
            raise InputError(f"--time {self.time}: write HH:MM:SS or DAYS-HOURS, as for sbatch")
        for name in ("partition", "account"):
            if getattr(self, name) is not None and not re.fullmatch(
                r"[\w.,@-]+", getattr(self, name)
            ):
                raise InputError(f"--{name} {getattr(self, name)!r}: is not a name")


def write_slurm(work: Work, cluster: Cluster, out: Path) -> list[Path]:
    """Write folds.sbatch, submit.sbatch and launch.sh into a folder; return their paths."""
    texts = {
        "folds.sbatch": folds_script(work, cluster),
        "submit.sbatch": submit_script(work, cluster),
        "launch.sh": _LAUNCH,
    }
    return write_scripts(texts, out)


def folds_script(work: Work, cluster: Cluster) -> str:
    """The array: its task k trains and predicts the k-th fold."""
    program, meet = f"{cluster.python} -m cellsignal", ""
    if cluster.nodes * cluster.gpus > 1:
        options = rendezvous(
            '"$SLURM_JOB_NUM_NODES"', str(cluster.gpus), '"$endpoint"', '"$SLURM_JOB_ID-$1"'
        )
        program = f"{cluster.python} -m cellsignal.cloud.torchrun {options} -m cellsignal"
        meet = f'endpoint=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):$(({PORT} + SLURM_JOB_ID % 1000))\n'
    cases = "\n".join(
        f"    {number}) sets=({shlex.join(work.words('', fold)[2:])}) ;;  # {fold.name}"
        for number, fold in enumerate(work.folds)
    )
    directives = {
        "job-name": work.config.name,
        "array": f"0-{len(work.folds) - 1}",
        "nodes": cluster.nodes,
        "ntasks-per-node": 1,
        "gpus-per-node": cluster.gpus,
    } | requeued_directives(cluster)
    return _FOLDS.format(
        directives=directive_lines(directives) + "\n#SBATCH --requeue",
        meet=meet,
        cases=cases,
        program=program,
        config=shlex.quote(work.path.as_posix()),
        notice=cluster.notice,
        noticed=NOTICED,
        out_of_time=OUT_OF_TIME,
        path=work.path,
    )


def submit_script(work: Work, cluster: Cluster) -> str:
    """What merges all folds' predictions, on a node without a GPU."""
    words = shlex.join([work.path.as_posix(), "--out", work.submission.as_posix()])
    return short_job(f"{work.config.name}-submit", cluster, f"submit {words}")


# what `slurm_pack` shares
# --------------------------------------------------------------------------------------------------


def write_scripts(texts: dict[str, str], out: Path) -> list[Path]:
    """Write scripts into a folder, to be executed; return their paths."""
    for name, text in texts.items():
        write_text(out / name, text)
        (out / name).chmod(0o755)
    return [out / name for name in texts]


def requeued_directives(cluster: Cluster) -> dict[str, object]:
    """Return the directives of an array whose tasks are told before their time is up."""
    return {
        "cpus-per-task": cluster.cpus,
        "time": cluster.time,
        "signal": f"B:USR1@{cluster.notice}",
        "open-mode": "append",
        "output": "slurm-%x-%A_%a.log",
        "partition": cluster.partition,
        "account": cluster.account,
    }


def short_job(name: str, cluster: Cluster, command: str) -> str:
    """Return the script of one `cellsignal` command of minutes, on a node without a GPU."""
    directives = {
        "job-name": name,
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
{cluster.python} -m cellsignal {command}
"""


def directive_lines(values: dict[str, object]) -> str:
    """Write a script's #SBATCH lines; None leaves one out."""
    return "\n".join(
        f"#SBATCH --{name}={value}" for name, value in values.items() if value is not None
    )


# bash of a task that is told before its time is up: `finish` waits for what was begun last, hands
# the notice on to it, and ends the script unless it ended well
NOTICED = f"""step='' told=''
tell() {{
    told=yes
    [ -z "$step" ] || kill -TERM "$step" 2> /dev/null  # srun hands it on; training saves and ends
}}
trap tell USR1 TERM

again() {{
    if [ "${{SLURM_RESTART_COUNT:-0}}" -ge {MOST_STARTS} ]; then
        echo "error: started {MOST_STARTS} times and not done; is the time limit too short?" >&2
        exit 1
    fi
    scontrol requeue "$SLURM_JOB_ID" || echo "error: could not be requeued; sbatch it again to go on" >&2
    exit {OUT_OF_TIME}
}}

finish() {{
    local status
    step=$!
    [ -z "$told" ] || kill -TERM "$step" 2> /dev/null  # told before it was known
    while true; do  # a trapped signal ends `wait`, not what it waits for
        wait "$step"
        status=$?
        kill -0 "$step" 2> /dev/null || break
    done
    step=''
    [ "$status" -eq 0 ] && return
    [ "$status" -eq 2 ] && exit 2
    if [ "$status" -eq {OUT_OF_TIME} ] || [ -n "$told" ]; then again; fi
    exit "$status"
}}
"""

_FOLDS = """#!/usr/bin/env bash
{directives}
# {path}: an array of one task a fold. Made by `cellsignal cloud slurm`; give it to sbatch from the repository, which all nodes must see.
#   0   done
#   {out_of_time}  the time was up, or Slurm gave notice: saved, and back into the queue
#   2   bad input: the log's last line says which; not tried again
#   any other: something broke. sbatch it again: it goes on from the last checkpoint. (A node that is lost is requeued by Slurm itself.)
set -uo pipefail
cd "${{SLURM_SUBMIT_DIR:?give this to sbatch, from the repository}}" || exit 2
export CELLSIGNAL_PATIENCE_MINUTES="${{CELLSIGNAL_PATIENCE_MINUTES:-10}}"
[ -z "${{SLURM_JOB_END_TIME:-}}" ] || export CELLSIGNAL_DEADLINE=$((SLURM_JOB_END_TIME - {notice}))
case "${{SLURM_ARRAY_TASK_ID:-}}" in
{cases}
    *) echo "error: SLURM_ARRAY_TASK_ID is '${{SLURM_ARRAY_TASK_ID:-}}', no fold of this script" >&2; exit 2 ;;
esac
{meet}
{noticed}
one() {{  # a verb, on all nodes
    [ -z "$told" ] || again
    srun --kill-on-bad-exit=1 {program} "$@" &
    finish
}}

one train {config} "${{sets[@]}}"
one predict {config} "${{sets[@]}}"
"""

_LAUNCH = """#!/usr/bin/env bash
# All folds, then the submission. Start it from the repository.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
array=$(sbatch --parsable "$here/folds.sbatch")
array=${array%%;*}
submit=$(sbatch --parsable --dependency="afterok:$array" --kill-on-invalid-dep=yes "$here/submit.sbatch")
echo "folds: job $array; submission: job ${submit%%;*}"
"""
