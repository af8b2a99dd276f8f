import subprocess
import sys

import pytest

PROGRAMS = {
    "models": "import pdelens.models as m; m.Transformer(m.Configuration(layers=1))",
    "transformers": "import companion; from transformers import BertModel",
    "transforms": "import companion; from torchvision.transforms import v2; v2.RandomCrop(4)",
    "vit": "import companion, torchvision; torchvision.models.vit_b_16",
    "twice": "import companion.pretrained._torchvision as t; t.declare_missing_operators(); import torchvision",
}


SELDOM = ("transforms", "vit", "twice")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.replay if name in SELDOM else ()) for name in PROGRAMS]
)
def test_imports_work_whatever_torchvision_was_built_for(name):
    done = subprocess.run([sys.executable, "-c", PROGRAMS[name]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.replay
def test_nothing_is_declared_where_the_pair_matches():
    """Declared exactly where torchvision's own compiled library can't be loaded."""
    program = (
        "import companion; from companion.pretrained import _torchvision as t; import torchvision; "
        "assert bool(t._declared) != torchvision.extension._has_ops()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_missing_compiled_operators_raise_torchvisions_own_error():
    import torchvision

    if torchvision.extension._has_ops():
        pytest.skip("torchvision's compiled operators are there: nothing is missing")
    import torch

    with pytest.raises(RuntimeError, match="Couldn't load custom C"):
        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)


def test_import_is_light():
    heavy = ("transformers", "torchvision", "matplotlib", "pandas", "seaborn", "IPython")
    program = f"import pdelens, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
