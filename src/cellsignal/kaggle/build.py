"""From a job to folders that `kaggle kernels push -p` takes: a script that holds the package."""

import base64
import hashlib
import io
import json
import lzma
import re
import tarfile
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import cellsignal
from cellsignal.common.errors import InputError
from cellsignal.common.files import git_commit, write_json, write_text
from cellsignal.config import Config, dump_config
from cellsignal.kaggle import script
from cellsignal.kaggle.job import (
    KernelJob,
    Step,
    fill_owner,
    find_owner,
    job_config,
    job_folds,
    slug,
    step_named,
    steps,
    title,
)

LIMIT = 1_000_000  # bytes that Kaggle takes as a script
SCRIPT = "script.py"
# of the package: sources, and the tables that pyproject.toml names
AT_HOME = ("audit", "studies", "tuning")
PACKED = ("*.py", "competitions/*/*.csv", "competitions/*/README.md")
# Kaggle's tokens, and keys as in kaggle.json
SECRET = re.compile(rb"KGAT_[0-9A-Za-z]{16,}|[\"']key[\"']\s*:\s*[\"'][0-9a-f]{32}[\"']")


def build_kernels(
    job: KernelJob,
    out: Path,
    *,
    step: str | None = None,
    link: int = 1,
    user: str | None = None,
    last: Mapping[str, int] | None = None,
) -> list[Path]:
    """Build the kernel of one step, or the first link of every step; see `build`."""
    chosen = steps(job) if step is None else (step_named(job, step),)
    if step is None and link != 1:
        raise InputError("--link: name its --step")
    package = pack_package(job)
    return [build(job, each, link, out, user, last, package) for each in chosen]


def build(
    job: KernelJob,
    step: Step,
    link: int,
    out: Path,
    user: str | None = None,
    last: Mapping[str, int] | None = None,
    package: bytes | None = None,
) -> Path:
    """Write one link of one step to `out`/<slug>: kernel-metadata.json and script.py.

    The same job and package give the same bytes.

    Args:
        link: from 1; the others go on from the output of the one before.
        user: the owner's name on Kaggle, which replaces USER in the job's data sets; None takes the
            job's, then the credentials'.
        last: the last link of each step that this one needs, where it is not 1.
        package: of `pack_package`, where it is at hand.

    Raises:
        InputError: a wrong job, a package that is too large, or an owner that is not known.
    """
    user = find_owner(job, user)
    job = fill_owner(job, user)
    if not 1 <= link <= 99:
        raise InputError(f"--link: 1 to 99, not {link}")
    last = last or {}
    needs = {name: slug(job, name, last.get(name, 1)) for name in step.needs}
    before = slug(job, step.name, link - 1) if link > 1 else None
    text = _script_text(job, step, link, needs, before, package or pack_package(job))
    if len(text) > LIMIT:
        raise InputError(
            f"job {job.name}: the script has {len(text):,} bytes, Kaggle takes {LIMIT:,}; is "
            "something large in the package or the fold table?"
        )
    folder = Path(out) / slug(job, step.name, link)
    write_text(folder / SCRIPT, text)
    sources = [*needs.values(), *([before] if before else [])]
    write_json(folder / "kernel-metadata.json", metadata(job, step, link, user, sources))
    return folder


def metadata(
    job: KernelJob, step: Step, link: int, user: str, sources: list[str]
) -> dict[str, Any]:
    """Return kernel-metadata.json; only steps that train or predict ask for a GPU."""
    gpu = job.gpu and (step.trains or "code" in step.verbs)
    datasets = [*job.dataset_sources, *([job.wheels] if job.wheels is not None else [])]
    return {
        "id": f"{user}/{slug(job, step.name, link)}",
        "title": title(job, step.name, link),
        "code_file": SCRIPT,
        "language": "python",
        "kernel_type": "script",
        "is_private": True,
        "enable_gpu": gpu,
        "enable_tpu": False,
        "enable_internet": False,
        "keywords": [],
        "dataset_sources": list(dict.fromkeys(datasets)),
        "competition_sources": list(job.competition_sources),
        "kernel_sources": [f"{user}/{source}" for source in sources],
        "model_sources": [],
        **({"machine_shape": job.machine} if gpu and job.machine else {}),
    }


def _script_text(
    job: KernelJob, step: Step, link: int, needs: dict[str, str], before: str | None, package: bytes
) -> str:
    spec = {
        "job": job.name,
        "step": step.name,
        "link": link,
        "verbs": step.verbs,
        "fold": step.fold,
        "before": before,
        "needs": needs,
        "max_hours": job.max_hours,
        "processes": job.processes if step.trains else 1,
        "root": job.root,
        "store": job.store,
        "weights": job.weights,
        "wheels": None if job.wheels is None else job.wheels.split("/")[1],
        "package": hashlib.sha256(package).hexdigest(),
        "commit": git_commit(),
    }
    encoded = "\n".join(textwrap.wrap(base64.b64encode(package).decode(), 160))
    text = Path(script.__file__).read_text(encoding="utf-8")
    text = text.replace("@spec@", json.dumps(spec, sort_keys=True), 1)
    return text.replace("@package@", encoded, 1)


def pack_package(job: KernelJob) -> bytes:
    """Return the tar (xz) that travels: sources, the resolved config, its fold table.

    It is the same for every step and link of a job.
    """
    config = job_config(job)
    job_folds(job, config)
    files = {f"src/cellsignal/{name}": path.read_bytes() for name, path in package_files().items()}
    tables = {"folds.csv": config.folds.file, "groups.csv": config.submit.groups}
    files |= {name: _content(path) for name, path in tables.items() if path is not None}
    files["config.yaml"] = _portable(job, config).encode()
    for name, content in files.items():
        if SECRET.search(content):
            raise InputError(
                f"{name}: holds what looks like a Kaggle key; it would travel with the kernel"
            )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size = len(files[name])
            member.mode = 0o644
            archive.addfile(member, io.BytesIO(files[name]))
    return lzma.compress(buffer.getvalue(), preset=9)


def _portable(job: KernelJob, config: Config) -> str:
    """Return the resolved config as YAML, without this machine's paths."""
    tree = yaml.safe_load(dump_config(config))
    tree["runs"] = "runs"
    tree["folds"]["file"] = "folds.csv"
    tree["data"] |= {"root": job.root, "store": job.store or "store"}
    tree["model"]["weights"] = job.weights
    if config.submit.groups is not None:
        tree["submit"]["groups"] = "groups.csv"
    return yaml.safe_dump(tree, sort_keys=False)


def package_files() -> dict[str, Path]:
    """Return the package's own files by name; no cache, no link, nothing hidden or from outside.

    What no kernel runs stays at home: a script must be under a megabyte.
    """
    top = Path(cellsignal.__file__).resolve().parent
    files = {}
    for path in sorted({path for pattern in PACKED for path in top.rglob(pattern)}):
        parts = path.relative_to(top).parts
        hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
        stays = hidden or parts[0] in AT_HOME
        if path.is_file() and not path.is_symlink() and not stays:
            files["/".join(parts)] = path
    return files


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
