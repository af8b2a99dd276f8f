import json

import numpy as np
import pytest
import torch

from pdelens import power, rungs

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Two steps of calibration, and solutions refined only as far as a smoke test needs."""
    monkeypatch.setitem(power.STEPS, "smoke", 2)
    monkeypatch.setattr(power, "HELD", 8)
    monkeypatch.setitem(power.WAYS, "converged", {"method": "rk4", "substeps": 4})


def test_the_teacher_itself_is_recognised_and_its_diffusivity_read_off():
    teacher = power.teachers()["equation"]
    held, calibration = (teacher(power.generator_for(0, number), 8) for number in (1, 2))
    found = power.judged(teacher.pde, held, calibration)
    assert np.min(found["cosine"]) > 0.99999 and np.min(found["r2"]) > 0.9999
    assert np.max(found["nulls"]["mean map"]) < 0.95
    wanted = torch.linspace(*power.DIFFUSIVITY, power.WIDTH)
    torch.testing.assert_close(torch.tensor(power.diffusivity(teacher.pde)), wanted, rtol=1e-4, atol=0)


def test_the_true_layers_are_no_autonomous_equation():
    teacher = power.teachers()["layers"]
    assert power.diffusivity(teacher.pde) == []
    held = teacher(power.generator_for(0, 1), 8)
    found = power.judged(teacher.pde, held, held)
    assert np.min(found["cosine"]) < 0.99, "refined, its own blocks are another flow"


def test_a_check_resumes_and_is_kept(tmp_path):
    assert power.check("equation", "smoke", tmp_path, until=0.0) is None
    assert list(tmp_path.glob("*.checkpoint*"))
    found = power.check("equation", "smoke", tmp_path)
    assert found is not None and len(found["diffusivity"]) == len(found["true diffusivity"]) == power.WIDTH
    assert found["plan"]["graded"] == rungs.REFINED.graded
    path = tmp_path / "power-equation.json"
    before = path.stat().st_mtime_ns
    assert power.check("equation", "smoke", tmp_path) == json.loads(path.read_text())
    assert path.stat().st_mtime_ns == before and not list(tmp_path.glob("*.checkpoint*"))
