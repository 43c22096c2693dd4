"""The command that exports a model."""

import argparse
from collections.abc import Callable
from pathlib import Path

from cellsignal.config.options import add_config_options, config_of


def add_export_command(add: Callable) -> None:
    """Add the parser of the command."""
    parser = add("export", export, "write a trained model as torch.export or ONNX, with a card")
    add_config_options(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder of the files")
    kinds = ["torch_export", "onnx"]
    parser.add_argument("--format", choices=kinds, default=kinds[0], help="kind of file")
    fold = "number of the fold, or full (default: full if it was trained, else the first)"
    parser.add_argument("--fold", metavar="K", help=fold)
    parser.add_argument("--stage", metavar="NAME", help="stage (default: the last)")
    parser.add_argument("--key", metavar="CELLTYPE", help="cell type, of a stage with a model each")


def export(arguments: argparse.Namespace) -> None:
    from cellsignal.export.write import export_model

    path = export_model(
        config_of(arguments),
        arguments.out,
        arguments.format,
        fold=arguments.fold,
        stage=arguments.stage,
        key=arguments.key,
    )
    print(f"{path}\n{path}.json\n{path.with_name('MODEL_CARD.md')}")
