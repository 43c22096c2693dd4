"""Write an exported model as torch.export (.pt2) or ONNX, and run what was written.

A .pt2 may hold pickles and expressions that are evaluated when it is loaded, so `run_written` loads
a file only if its SHA-256 is the one noted when it was written, and no part of it is pickled.
"""

import contextlib
import importlib
import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as shape_config

from cellsignal.common.errors import InputError
from cellsignal.common.files import sha256
from cellsignal.export.graph import ExportedModel, Inputs, run_eager

log = logging.getLogger(__name__)
SUFFIXES = {"torch_export": ".pt2", "onnx": ".onnx"}
EXTRAS = {"onnx": ("onnx", "onnxscript", "onnxruntime")}  # format -> packages of the extra `onnx`
METADATA = "cellsignal.json"  # in the .pt2; the key of the ONNX metadata is "cellsignal"
BATCHES = (1, 3, 7)  # that a file is checked with
TRACED_SIDE = 256  # pixels a side, at least, of the images that sizes are made dynamic with
FAILURES = (RuntimeError, ValueError, AssertionError, TypeError)  # of a network or its tracing
OUTPUTS = ("logits", "probabilities")


def require_packages(name: str) -> list[ModuleType]:
    """Import the packages of a format.

    Raises:
        InputError: one is not installed; names the extra that installs it.
    """
    modules = []
    for package in EXTRAS.get(name, ()):
        try:
            modules.append(importlib.import_module(package))
        except ImportError as error:
            raise InputError(
                f"--format {name}: needs the package {package}, which cannot be loaded ({error}); "
                f'install the extra {name} (pip install -e ".[{name}]")'
            ) from None
    return modules


# tracing
# --------------------------------------------------------------------------------------------------


def other_size(model: ExportedModel, inputs: Inputs) -> tuple[int, int] | None:
    """Return another (height, width) that the network takes; None if it takes only its own."""
    height, width = inputs.images.shape[2:]
    size = (height + 32, width + 64)
    try:
        run_eager(model, enlarged(inputs.rows(2), size))
    except FAILURES:
        return None
    return size


def enlarged(inputs: Inputs, size: tuple[int, int]) -> Inputs:
    """Return the inputs with images of another size: repeated, mirrored, from the top left."""
    height, width = inputs.images.shape[2:]
    rows = np.pad(np.arange(height), (0, max(0, size[0] - height)), "symmetric")[: size[0]]
    columns = np.pad(np.arange(width), (0, max(0, size[1] - width)), "symmetric")[: size[1]]
    arrays = dict(inputs.arrays)
    images = np.ascontiguousarray(arrays.pop("images")[:, :, rows][:, :, :, columns])
    return Inputs(images, **arrays)


def checked_inputs(inputs: Inputs, other: tuple[int, int] | None) -> list[Inputs]:
    """Return the batches that a written file is compared on: each number, each size."""
    batches = [inputs.rows(count) for count in BATCHES]
    return batches + [enlarged(batch, other) for batch in batches if other is not None]


def trace(
    model: ExportedModel, inputs: Inputs, other: tuple[int, int] | None
) -> tuple[ExportedProgram, tuple[int, int] | None]:
    """Trace the module for any number of images, and for any size if it has an `other` one.

    torch fixes what it cannot prove, and small images whose last maps are one pixel take part in
    that. So it is traced with larger images; where the file would then refuse the run's own size,
    with its own images and without assumptions on sizes of 1; at last for its own size alone.

    Returns:
        The program, and the other size that it takes; None if it takes the run's own alone.

    Raises:
        InputError: the network cannot be exported; says why.
    """
    height, width = (max(TRACED_SIDE, length) for length in inputs.images.shape[2:])
    large = enlarged(inputs, (height, width + 64))
    ways = [(inputs, False, None), (inputs, True, None)]
    if other is not None:
        ways = [(large, False, other), (inputs, True, other), *ways]
    reason = ""
    for example, oblivious, size in ways:
        try:
            with shape_config.patch(backed_size_oblivious=oblivious):
                program = _trace(model, example.rows(2), size is not None)
            run = program.module()
            with torch.inference_mode():
                for batch in checked_inputs(inputs, size):
                    run(**_tensors(batch))
        except FAILURES as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = reason or " ".join(lines[0].split())[:160]
            log.debug("tracing failed", exc_info=True)
            continue
        if size != other:
            log.warning("export: the file takes images of %dx%d pixels alone", *_reversed(inputs))
        return program, size
    raise InputError(f"export: torch.export cannot trace this network ({reason})")


def _reversed(inputs: Inputs) -> tuple[int, int]:
    height, width = inputs.images.shape[2:]
    return width, height


def _trace(model: ExportedModel, example: Inputs, any_size: bool) -> ExportedProgram:
    shapes = {name: {0: Dim.DYNAMIC} for name in example.arrays}
    if any_size:
        shapes["images"] |= {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    return torch.export.export(model, (), _tensors(example), dynamic_shapes=shapes)


def _tensors(inputs: Inputs) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in inputs.arrays.items()}


# writing
# --------------------------------------------------------------------------------------------------


def write_torch_export(program: ExportedProgram, path: Path, about: str) -> None:
    """Write a .pt2 with the JSON text `about` inside."""
    try:
        torch.export.save(program, path, extra_files={METADATA: about})
    except RuntimeError as error:  # torch's zip writer reports a full disk this way
        raise OSError(None, f"torch: {str(error).splitlines()[0]}", str(path)) from error


def write_onnx(program: ExportedProgram, path: Path, about: str) -> None:
    """Write one ONNX file with its weights, and the JSON text `about` in its metadata."""
    with _quiet():
        written = torch.onnx.export(program, dynamo=True, output_names=list(OUTPUTS), verbose=False)
    written.model.metadata_props["cellsignal"] = about
    written.save(path, external_data=False)


WRITERS: dict[str, Callable[[ExportedProgram, Path, str], None]] = {
    "torch_export": write_torch_export,
    "onnx": write_onnx,
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what the exporter says of its own steps."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


# running what was written
# --------------------------------------------------------------------------------------------------


def run_written(
    name: str, path: Path, digest: str, batches: list[Inputs]
) -> list[dict[str, np.ndarray]]:
    """Load a written file and return its outputs for each batch, on the CPU.

    Args:
        name: the format.
        digest: the SHA-256 that the file must have.

    Raises:
        InputError: it is another file, holds a pickle, or cannot be run.
    """
    if sha256(path) != digest:
        raise InputError(f"{path}: is not the file that was exported (its SHA-256 differs)")
    try:
        return _run_onnx(path, batches) if name == "onnx" else _run_torch(path, batches)
    except InputError:
        raise
    except Exception as error:  # from a file that does not work either program raises anything
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"{path}: the exported model cannot be run ({reason})") from None


def _run_torch(path: Path, batches: list[Inputs]) -> list[dict[str, np.ndarray]]:
    refuse_pickles(path)
    run = torch.export.load(path).module()
    with torch.inference_mode():
        return [
            {name: value.numpy() for name, value in run(**_tensors(batch)).items()}
            for batch in batches
        ]


def _run_onnx(path: Path, batches: list[Inputs]) -> list[dict[str, np.ndarray]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    results = [session.run(list(OUTPUTS), batch.arrays) for batch in batches]
    return [dict(zip(OUTPUTS, values, strict=True)) for values in results]


def refuse_pickles(path: Path) -> None:
    """Refuse a .pt2 that has a pickled weight or constant, which loading would execute.

    Raises:
        InputError: names the part.
    """
    with zipfile.ZipFile(path) as archive:
        for entry in archive.namelist():
            if not entry.endswith(("_weights_config.json", "_constants_config.json")):
                continue
            config = json.loads(archive.read(entry)).get("config", {})
            pickled = [name for name, facts in config.items() if facts.get("use_pickle")]
            if pickled:
                raise InputError(f"{path}: {pickled[0]!r} is pickled; it is not loaded")
