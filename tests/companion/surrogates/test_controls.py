import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from companion.jobs import Run, perform
from companion.surrogates import controls, evaluate, laws, specs
from pdelens.pde import checkpoints


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Two steps of calibration, and solutions refined only as far as a smoke test needs."""
    monkeypatch.setitem(specs.BUDGET, "smoke", 50)
    monkeypatch.setattr(controls, "HELD", 8)
    monkeypatch.setitem(evaluate.RESOLUTIONS, "converged", {"method": "rk4", "substeps": 4})


def test_the_teacher_itself_is_recognised_and_its_diffusivity_read_off():
    teacher = controls.teachers()["equation"]
    held, calibration = (teacher(checkpoints.generator_for(0, number), 8) for number in (1, 2))
    found = controls.evaluate_control(teacher.pde, held, calibration)
    assert np.min(found["cosine"]) > 0.99999 and np.min(found["r2 pooled"]) > 0.9999
    assert np.max(found["nulls"]["mean map"]) < 0.95
    wanted = torch.linspace(*controls.DIFFUSIVITY, controls.WIDTH)
    torch.testing.assert_close(torch.tensor(controls.diffusivity(teacher.pde)), wanted, rtol=1e-4, atol=0)


def test_the_true_layers_are_no_autonomous_equation():
    teacher = controls.teachers()["layers"]
    assert controls.diffusivity(teacher.pde) == []
    held = teacher(checkpoints.generator_for(0, 1), 8)
    found = controls.evaluate_control(teacher.pde, held, held)
    assert np.min(found["cosine"]) < 0.99, "refined, its own blocks are another flow"


def test_a_control_resumes_and_is_kept(tmp_path):
    job, run = controls.Control("equation"), Run("smoke", tmp_path)
    assert job.do(replace(run, deadline=0.0)) is None
    assert list(tmp_path.glob("*.checkpoint*"))
    found = perform(job, run)
    assert isinstance(found, dict) and len(found["diffusivity"]) == len(found["true diffusivity"]) == controls.WIDTH
    assert found["plan"]["graded"] == laws.ROLLED.graded and found["plan"]["steps"] == 2
    assert job.recorded(run) == json.loads(json.dumps(found)) and not list(tmp_path.glob("*.checkpoint*"))


def test_one_law_without_diffusion_meets_the_teacher_that_diffuses(tmp_path):
    found = perform(controls.Control("no-diffusion"), Run("smoke", tmp_path))
    assert found["diffusivity"] == [] and len(found["true diffusivity"]) == controls.WIDTH
    names = {controls.Control(kind).name for kind in controls.KINDS}
    assert names == {f"power-{kind}-b{laws.MAIN_BUDGET}" for kind in ("equation", "layers", "no-diffusion")}
    identities = [controls.Control(kind).identity(Run("book", tmp_path)) for kind in ("equation", "no-diffusion")]
    assert identities[0] != identities[1]
