"""Importing timm beside a CPU-only torch.

timm imports torchvision. Installed from the usual index, torchvision's compiled half is linked
against CUDA's torch and cannot be loaded by a CPU build; then `import torchvision` stops at
"operator torchvision::nms does not exist", because it describes two operators (nms, qnms:
detection, never called here) that only the compiled half declares. Declaring them by their schema
is enough for the import, and for all that timm uses.
"""

import sys
from types import ModuleType

import torch

_SCHEMAS = tuple(
    f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms")
)
_declared: torch.library.Library | None = None  # the declarations last as long as this object


def import_timm() -> ModuleType:
    """Return timm, on any build of torch. Every use of timm in this package goes through here.

    A torchvision that loads is left alone. In a CUDA build a torchvision that does not load is a
    broken installation, and its own error is raised.
    """
    _import_torchvision()
    import timm

    return timm


def _import_torchvision() -> None:
    global _declared
    try:
        import torchvision
    except RuntimeError:
        if torch.version.cuda is not None or _declared is not None:
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # half imported
        _declared = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            _declared.define(schema)
        import torchvision  # noqa: F401
