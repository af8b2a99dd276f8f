import pytest
import torch

from pdelens.information.checks import check_estimator
from pdelens.information.tasks import bivariate, task


@pytest.mark.parametrize("method", ["gaussian_copula", "ksg", "auto"])
def test_an_easy_normal_passes_everything(method):
    report = check_estimator(*bivariate(0.75).sample(600, 1), method)
    assert [one.name for one in report.checks] == ["invariance", "processing", "additivity", "calibration"]
    assert all(one.passed for one in report.checks) and report.warnings == (), str(report)
    assert report.value == pytest.approx(0.4133, abs=0.1) and report["invariance"].wanted == report.value


def test_ksg_in_ten_dimensions_fails_additivity_and_calibration():
    report = check_estimator(*task("multinormal-sparse-5-5-2-2.0").sample(1000, 0), "ksg")
    assert report["processing"].passed and not report["additivity"].passed and not report["calibration"].passed
    assert report["calibration"].wanted == pytest.approx(1.02, abs=0.1)
    assert report["calibration"].found == pytest.approx(report.value, abs=0.1)
    assert any("calibration bias is -" in warning for warning in report.warnings)


def test_the_gaussian_method_fails_invariance_on_heavy_tails():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(800, 1, generator=generator, dtype=torch.float64)
    y = 0.9 * x + 0.2 * torch.randn(800, 1, generator=generator, dtype=torch.float64)
    report = check_estimator((3 * x).exp(), (3 * y).exp(), "gaussian")
    assert not report["calibration"].passed and report["calibration"].found < report["calibration"].wanted
    assert report["additivity"].wanted > 0 and "FAILED" in str(report)


def test_an_estimator_that_grows_with_noise_fails_processing(monkeypatch):
    from pdelens.information import methods

    def spread(x, y):
        return float(x.std())

    monkeypatch.setitem(methods.METHODS, "gaussian", methods.Method(lambda *_: spread, lambda *_: 1.0))
    report = check_estimator(*bivariate(0.5).sample(300, 0), "gaussian")
    assert not report["processing"].passed and report["processing"].found > 0.3
    assert any("70 % of the method's ceiling" in warning for warning in report.warnings)


def test_additivity_of_independent_data_is_not_a_failure():
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(400, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    report = check_estimator(x, y, "gaussian")
    assert all(one.passed for one in report.checks) and report.warnings == (), str(report)


def test_bad_input_is_turned_away():
    with pytest.raises(ValueError, match="30 samples were given: at least 44 are wanted"):
        check_estimator(torch.randn(30), torch.randn(30), "ksg")
    with pytest.raises(ValueError, match="method='knn' was given"):
        check_estimator(torch.randn(100), torch.randn(100), "knn")
    with pytest.raises(ValueError, match="class labels"):
        check_estimator(torch.randn(100), torch.arange(100) % 3, "ksg")
