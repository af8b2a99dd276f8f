"""The heat equation in disguise, and the job on the adjoint of a small equation."""

import pytest
import torch
from tiny_teacher import Tiny, teacher

from companion.dynamics import adjoints
from companion.dynamics.adjoints import Lesson
from companion.jobs import Run
from pdelens.lattice import Chain
from pdelens.pde.equation import TransformerPDE
from pdelens.pde.integrate import integrate


def test_the_disguised_solution_is_the_logarithm_of_the_heat_equations():
    lesson = Lesson(3.0, 5)
    heat = torch.linalg.matrix_exp(lesson.diffusivity * lesson.laplacian) @ lesson.start.exp()
    found = integrate(lesson.pde, lesson.start, method="rk4", substeps=128).states[-1]
    torch.testing.assert_close(found, heat.log(), atol=1e-7, rtol=0)
    fastest = torch.linalg.eigvalsh(lesson.diffusivity * lesson.laplacian)[0]
    assert float(fastest) == pytest.approx(-3)


def test_the_exact_gradient_is_that_of_small_differences():
    lesson, exact = Lesson(4.0, 4), Lesson(4.0, 4).exact()
    for place in range(4):
        losses = []
        for change in (1e-4, -1e-4):
            u = lesson.start.clone()
            u[0, place] += change
            losses.append(float(lesson.loss(integrate(lesson.pde, u, method="rk4", substeps=32).states[-1])))
        assert float(exact[0, place, 0]) == pytest.approx((losses[0] - losses[1]) / 2e-4, rel=2e-3, abs=1e-6)


@pytest.mark.replay
def test_the_adjoint_agrees_where_little_is_forgotten_and_fails_from_the_end_alone_where_much_is(monkeypatch):
    near = Lesson(5.0, 4).errors((0.5,), substeps=64)
    assert max(near.values()) < 1e-4
    monkeypatch.setattr("pdelens.sensitivity.adjoint.MOST_STEPS", 200)
    far = Lesson(20.0, 4).errors([k / 8 for k in range(1, 8)], rtol=1e-5, substeps=64)
    assert far["end alone"] > 1e-2 and far["kept"] < 1e-4 and far["steps"] < 1e-2


def test_padding_is_left_out_of_the_adjoint():
    pde = TransformerPDE(4, 2, Chain(6), depth=1, diffusion=0.1).double().requires_grad_(False)
    u = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0)).double()
    mask = torch.tensor([[True] * 4 + [False] * 2])
    u[~mask] = 50.0

    def loss(state):
        return state[mask].square().sum()

    start = u.clone().requires_grad_()
    loss(integrate(pde, start, method="rk4", substeps=64, mask=mask).states[-1]).backward()
    wanted = start.grad.masked_fill(~mask[..., None], 0.0)
    assert adjoints.adjoint_error(pde, u, loss, wanted, (0.5,), 1e-9, mask=mask)[0] < 1e-5


def test_what_the_solver_gives_up_is_infinitely_wrong(monkeypatch):
    def gives_up(*given, **how):
        raise adjoints.DivergenceError("no path")

    monkeypatch.setattr(adjoints, "adjoint_gradient", gives_up)
    lesson = Lesson(1.0, 4)
    assert adjoints.adjoint_error(lesson.pde, lesson.start, lesson.loss, lesson.exact(), (), 1e-3) == (
        float("inf"),
        float("inf"),
    )


def test_a_small_equations_adjoint_is_its_gradient(monkeypatch):
    monkeypatch.setattr(adjoints, "STEPS", (0.0, 3.0, 6.0))
    monkeypatch.setattr(adjoints, "KEPT", {"end alone": (), "every step": (3.0,)})
    tiny, kept, own = Tiny(teacher(0), 1, other=teacher(1)), [], adjoints.adjoint_gradient
    monkeypatch.setattr(
        adjoints, "adjoint_gradient", lambda *given, **how: kept.append(how["checkpoints"]) or own(*given, **how)
    )
    found = adjoints.measure(tiny)
    assert kept == [(), (3.0,)]
    assert set(found["adjoint"]) == {"end alone", "every step"} and found["steps"] < 1e-4
    assert found["adjoint"]["every step"]["error"] < 1e-2
    assert next(tiny.teacher.model.parameters()).dtype == torch.float32, "the teacher is left as it was"


def test_a_job_is_of_its_weights(tmp_path):
    job, run = adjoints.Adjoints("image-patch4-seed2"), Run("smoke", tmp_path)
    assert job.name == "gradients-adjoints-image-patch4-seed2"
    assert "image-patch4-seed2" in job.identity(run)["weights"]
    said = job.line({"adjoint": {"end alone": {"error": 0.5}, "every step": {"error": 1e-3}}})
    assert said == "end alone 0.5, every step 0.001"
