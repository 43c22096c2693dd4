"""`cellsignal audit`: look for leaks between what trains and what is scored."""

import argparse
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.config.options import add_config_options, config_of

FAILED = 1  # exit status: a check failed


def add_audit_command(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_config_options(parser)
    text = "audit this table of rows (sample_id, part: train, valid or test; copies allowed) in "
    text += "place of the config's folds"
    parser.add_argument("--split", type=Path, metavar="CSV", help=text)
    text = "true test labels: the test's plate layouts are then compared, too"
    parser.add_argument("--answers", type=Path, metavar="CSV", help=text)
    text = "InChIKeys of compounds (compound, inchikey, maybe name)"
    parser.add_argument("--compounds", type=Path, metavar="CSV", help=text)
    text = "images that are compared for near-duplicates, drawn at random (default 50000)"
    parser.add_argument("--images", type=int, default=50_000, help=text)
    text = "images of the ladder (default 2000)"
    parser.add_argument("--ladder", type=int, default=2_000, help=text)
    text = "also end with status 1 where a check only warns"
    parser.add_argument("--strict", action="store_true", help=text)
    parser.add_argument("--out", type=Path, help="the findings as .json or .csv")
    parser.set_defaults(run=audit)


def audit(arguments: argparse.Namespace) -> int:
    """Return 0 if nothing failed, else 1."""
    from cellsignal.audit.findings import check_ending, findings_text, worst, write_findings
    from cellsignal.audit.runner import Options, about
    from cellsignal.audit.runner import audit as audit_config

    check_ending(arguments.out)
    for name in ("images", "ladder"):
        if getattr(arguments, name) < 2:
            raise InputError(f"--{name} {getattr(arguments, name)}: at least 2")
    config = config_of(arguments)
    options = Options(
        arguments.split,
        arguments.answers,
        arguments.compounds,
        arguments.images,
        arguments.ladder,
    )
    findings = audit_config(config, options)
    if arguments.out is not None:
        write_findings(arguments.out, findings, about(config, options))
    print(findings_text(findings))
    failing = ("fail", "warn") if arguments.strict else ("fail",)
    return FAILED if worst(findings) in failing else 0
