import ast
import json
from collections import Counter

import mutant_runs
import mutants
import pytest
from covering import Covering

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


def test_one_seed_draws_the_same_changes_and_another_others(monkeypatch):
    monkeypatch.setattr(mutants, "HOMES", ("lib/pdelens/agreement", "book/companion/claims"))
    first, again, other = (mutants.drawn(12, seed) for seed in (0, 0, 1))
    assert first == again and len(first) == 12 and {one.name for one in first} != {one.name for one in other}
    homes = {one.path.split("/")[0] for seed in range(3) for one in mutants.drawn(12, seed)}
    assert homes == {"lib", "book"}


SMALL = """import math
LIMIT = 3

def f(
    x, limit=LIMIT
):
    total = (
        x
        + 1
    )
    for step in range(3):
        total += step
    return total
"""


@pytest.mark.parametrize(
    ("line", "own", "function"),
    [(2, (2, 2), None), (5, (4, 6), (4, 13)), (9, (7, 10), (4, 13)), (11, (11, 11), (4, 13)), (12, (12, 12), (4, 13))],
)
def test_a_place_is_run_with_its_statement(line, own, function):
    found, around = mutant_runs.statement_lines(ast.parse(SMALL), line)
    assert (found.start, found.stop - 1) == own
    assert (around and (around.start, around.stop - 1)) == function


def test_the_tests_that_run_a_line_come_first_and_a_fixture_counts_for_all_of_its_file(tmp_path):
    path = "lib/pdelens/lattice.py"
    one, two, slow = "tests/a/test_x.py::test_one", "tests/a/test_x.py::test_two", "tests/b/test_y.py::test_slow"
    broken = "tests/b/test_y.py::test_broken"
    lines = {path: {"3": [f"{one}|call", f"{broken}|call"], "4": [f"{slow}|call", f"{two}|setup"], "9": [""]}}
    seconds = {slow: 9.0, broken: 0.1, one: 0.1, two: 0.2}
    (tmp_path / "gw0.json").write_text(json.dumps({"lines": lines, "seconds": seconds, "failed": [broken]}))
    known = Covering(tmp_path)
    assert known.tests(path, range(3, 4)) == [one] and known.tests(path, range(9, 10)) == []
    assert known.tests(path, range(3, 5)) == [one, two, slow]
    text = (mutant_runs.ROOT / path).read_text()
    *_, (files, wanted) = mutant_runs.groups_of(path, text, 3, known)
    assert files[:2] == ["tests/pdelens/test_lattice.py", path] and wanted is None
    assert "tests/pdelens/test_flow.py" in files


KEPT = """from functools import cache

@cache
def table():
    return (1, 2,
            3)

def plain():
    return 4
"""


def test_a_function_that_keeps_its_result_is_tried_by_all_tests_of_its_module(tmp_path):
    """Only the first of those who use it runs it; and a module's doctests are tests of its own."""
    path, first, later = "lib/pdelens/table.py", "tests/a/test_x.py::test_first", "tests/a/test_x.py::test_later"
    doctest, far = f"{path}::pdelens.table.plain", "tests/b/test_y.py::test_far"
    lines = {path: {"5": [f"{first}|call"], "9": [f"{later}|call"]}}
    seconds = {first: 0.1, later: 0.1, doctest: 0.1, far: 0.1}
    (tmp_path / "gw0.json").write_text(json.dumps({"lines": lines, "seconds": seconds, "failed": []}))
    known = Covering(tmp_path)

    def tried_first(line):
        return [test for _, wanted in mutant_runs.groups_of(path, KEPT, line, known)[:-1] for test in wanted or ()]

    assert set(tried_first(6)) == {first, later} and set(tried_first(9)) == {later}
    assert mutant_runs._run_before(path, known, {first}) == {first, later, far}, "but not its doctest"


def test_the_records_say_what_their_share_is():
    argued = json.loads(mutants.EQUAL.read_text())
    records = [json.loads(path.read_text()) for path in sorted(mutants.RECORDS.glob("[0-9]*.json"))]
    assert len(records) >= 2
    names = {one["name"] for record in records for one in record["changes"]}
    assert set(argued) <= names and all(len(reason) > 40 for reason in argued.values())
    for record in records:
        caught, live, survived = mutants.told(record)
        assert len(record["changes"]) >= 150 and record["commit"] and caught + len(survived) == live
        assert live >= 0.95 * len(record["changes"]), "so many changes can't all be equal"


def test_the_records_reach_their_share():
    for path in sorted(mutants.RECORDS.glob("[0-9]*.json")):
        caught, live, _ = mutants.told(record := json.loads(path.read_text()))
        assert caught >= 0.95 * live, (record["seed"], caught, live)
