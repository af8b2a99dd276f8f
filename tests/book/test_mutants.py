from collections import Counter
from pathlib import Path

import mutants
import pytest

SOURCE = '''"""Docstrings are no places."""
def f(x, mask=None, é="é"):
    if not (x[1:] < 2).any(-1, keepdim=True) and mask is None:
        raise ValueError(f"{x + 1} is no place")
    return g(-x * 3.0, mask=mask) + (x @ x).sum(0)
'''


def test_every_place_is_changed_where_it_stands():
    found = list(mutants.places("f.py", SOURCE))
    changed = [one.apply(SOURCE) for one in found]
    assert len(set(changed)) == len(changed) == len(found)
    kinds = Counter(one.kind for one in found)
    assert {"comparison", "sign", "and, or", "not, minus", "constant", "reduction", "argument", "slice"} == set(kinds)
    lines = SOURCE.splitlines()
    for text in changed:
        different = [n for n, (a, b) in enumerate(zip(lines, text.splitlines(), strict=True)) if a != b]
        assert len(different) == 1 and different[0] in (2, 4), text
    for wanted in (
        "    if not (x[1:] <= 2).any(-1, keepdim=True) and mask is None:",
        "    if not (x[1:] < 2).all(-1, keepdim=True) and mask is None:",
        "    if not (x[1:] < 2).any(-1) and mask is None:",
        "    if not (x[:] < 2).any(-1, keepdim=True) and mask is None:",
        "    if not (x[1:] < 2).any(-1, keepdim=True) or mask is None:",
        "    if not (x[1:] < 2).any(-1, keepdim=True) and mask is not None:",
        "    if (x[1:] < 2).any(-1, keepdim=True) and mask is None:",
        "    return g(-x * 3.0) + (x @ x).sum(0)",
        "    return g(x * 3.0, mask=mask) + (x @ x).sum(0)",
        "    return g(-x / 3.0, mask=mask) + (x @ x).sum(0)",
        "    return g(-x * 3.0, mask=mask) - (x @ x).sum(0)",
        "    return g(-x * 3.0, mask=mask) + (x @ x).mean(0)",
    ):
        assert any(wanted in text.splitlines() for text in changed), wanted


def test_one_seed_draws_the_same_changes_and_another_others():
    first, again, other = (mutants.drawn(12, seed) for seed in (0, 0, 1))
    assert first == again and len(first) == 12 and {one.name for one in first} != {one.name for one in other}
    homes = {one.path.split("/")[0] for seed in range(3) for one in mutants.drawn(12, seed)}
    assert homes == {"lib", "book"}


@pytest.mark.parametrize("path", ["lib/pdelens/lattice.py", "book/companion/claims/verdicts.py"])
def test_the_tests_of_a_module_are_those_that_mirror_it_first(path):
    groups = mutants.tests_of(path)
    assert groups[0][-1] == path and Path(groups[0][0]).name == f"test_{Path(path).stem}.py"
    flat = [name for group in groups for name in group]
    assert len(set(flat)) == len(flat)
