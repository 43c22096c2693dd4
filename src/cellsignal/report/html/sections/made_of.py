"""What the run was made of: config, commit, data hashes, time, machine."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cellsignal.common.errors import InputError
from cellsignal.common.stopping import duration
from cellsignal.config import dump_config
from cellsignal.report.html.page import choices, folded, paragraph, preformatted, table
from cellsignal.report.html.view import RunView

HEAD = ("what", "value")


def made_of(view: RunView) -> str:
    """Return facts of each seed, the predictions' inputs, and the config."""
    parts = [
        (f"{config.name}/seed{config.seed}", _of_run(view, config))
        for config in view.configs
        if config.run_folder.is_dir()
    ]
    if view.record is not None:
        parts.insert(0, ("submission", _of_submission(view.record)))
    if not parts:
        raise InputError(f"nothing is trained yet: `cellsignal train {view.command}`")
    cost = f"What it costs on rented machines: `cellsignal cloud cost {view.command}`."
    return choices(parts) + _predictions(view) + paragraph(cost)


def _of_run(view: RunView, config) -> str:
    record = _read(config.run_folder / "provenance.json")
    rows = [
        ("folder", config.run_folder),
        ("command", record.get("command", "")),
        ("commit", record.get("git_commit") or "not known"),
        ("cellsignal, torch", f"{record.get('cellsignal', '')}, {record.get('torch', '')}"),
        ("machine", f"{record.get('device', 'not known')}, {record.get('processes', 1)} process"),
        ("last started", record.get("written_at", "")),
        ("time of training", _training_time(config)),
    ]
    for name, item in record.get("inputs", {}).items():
        rows.append((f"{name}: {item.get('path', '')}", f"SHA-256 {item.get('sha256', '')}"))
    return table(HEAD, rows, style="facts") + folded("Config", preformatted(dump_config(config)))


def _training_time(config) -> str:
    """Return the seconds of all epochs by the logs' speed, without validation, and the dates."""
    from cellsignal.report.run_report import training_logs
    from cellsignal.training.plan import jobs_of

    try:
        sizes = {job.folder: len(job.train) for job in jobs_of(config)}
        logs = training_logs(config)
    except (InputError, ValueError):
        return "not known: its store or folds are not here"
    seconds = 0.0
    for (fold, stage, model), rows in logs.groupby(["fold", "stage", "model"]):
        images = sizes.get(config.run_folder / fold / stage / model)
        if images is not None and "images_per_s" in rows:
            speed = rows.images_per_s[rows.images_per_s > 0]
            seconds += float((images / speed).sum())
    files = [path.stat().st_mtime for path in config.run_folder.glob("*/*/*/log.csv")]
    end = datetime.fromtimestamp(max(files), UTC).isoformat(timespec="minutes")
    return f"about {duration(seconds)} of epochs, validation not counted; last epoch ended {end}"


def _of_submission(record: dict[str, Any]) -> str:
    rows = [
        ("command", record.get("command", "")),
        ("commit", record.get("git_commit") or "not known"),
        ("written", record.get("written_at", "")),
        ("merged", record["merge"]),
        ("weights", record["weights"]),
    ]
    return table(HEAD, rows, style="facts")


def _predictions(view: RunView) -> str:
    """The files of predictions and the hashes of what they were made from."""
    try:
        members = view.entry.members
    except InputError:
        return ""
    rows = []
    for member in members:
        about = member.about
        inputs = about.get("made_from", {})
        hashes = [inputs.get("store", ""), *inputs.get("checkpoints", {}).values()]
        rows.append(
            (
                Path(member.path).name,
                about.get("run", ""),
                (about.get("git_commit") or "")[:12],
                about.get("written_at", ""),
                ", ".join(str(value)[:12] for value in hashes if value),
            )
        )
    head = ("predictions", "run", "commit", "written", "SHA-256 of store and checkpoints")
    return folded(f"{len(rows)} files of predictions", table(head, rows, style="facts"))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError):
        raise InputError(f"{path}: is not JSON; `cellsignal train` writes it anew") from None
    return content if isinstance(content, dict) else {}
