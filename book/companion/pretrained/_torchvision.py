"""Lets a CUDA-built torchvision be imported beside a CPU-only torch.

On package indices the torchvision wheel is built for CUDA. Beside a CPU-only torch its compiled library can't be
loaded, and then `import torchvision` fails with *operator torchvision::nms does not exist*, and with it every import
from transformers that looks for torchvision. Only the two operators' declarations are missing for the import to work;
they are declared here. The compiled operators themselves (non-maximum suppression, RoI pooling) still raise
torchvision's own error.
"""

from importlib.util import find_spec
from pathlib import Path

import torch

# A declaration lives as long as the library object that made it.
_declared: list[torch.library.Library] = []


def declare_missing_operators() -> bool:
    """Declare torchvision's operators if its compiled library can't be loaded; say whether so."""
    spec = find_spec("torchvision")
    if _declared or spec is None or spec.origin is None:
        return bool(_declared)
    compiled = sorted(Path(spec.origin).parent.glob("_C*.so"))
    try:
        # The very call that torchvision makes: on a matching pair it succeeds, and again later.
        for library in compiled:
            torch.ops.load_library(str(library))
    except OSError:
        pass
    if _operators_exist():
        return False
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
    return True


def _operators_exist() -> bool:
    try:
        return torch.ops.torchvision.nms.default is not None
    except AttributeError:
        return False
