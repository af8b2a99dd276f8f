"""The house: a module imports only from floors below its own, and nothing in a circle."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOMES = {"pdelens": ROOT / "lib", "companion": ROOT / "book"}
# From the ground up. Rooms of one floor never import each other; inside a room anything may.
FLOORS = (
    ("pdelens.flow", "pdelens.lattice", "pdelens.files", "pdelens._doors", "pdelens.intervals", "pdelens.models"),
    ("pdelens.attention", "pdelens.pde", "pdelens.agreement", "pdelens.information"),
    ("pdelens.sensitivity",),
    ("pdelens.plots", "pdelens.report"),
    ("companion.paths", "companion.claims"),
    ("companion.seals", "companion.poster"),
    ("companion.fetch", "companion.jobs", "companion.records"),
    (
        "companion.data",
        "companion.pretrained",
        "companion.theory",
        "companion.estimators",
        "companion.seeds",
        "companion.keeping",
    ),
    ("companion.teachers",),
    ("companion.surrogates",),
    ("companion.bottleneck", "companion.dynamics", "companion.stabilisers"),
    ("companion.information_flow",),
    ("companion.figures", "companion.adopt", "companion.sphinx_book", "companion.sphinx_api", "companion.chapters"),
    ("companion.inspection",),
    ("companion.__main__",),
)
# It shows the face.
READS_THE_FACE = ("companion.sphinx_api",)
# Ground floor rooms that another of them is built on.
CELLAR = ("pdelens._doors", "pdelens.files", "pdelens._stencils", "pdelens.lattice")


def modules(homes=HOMES):
    """Return every module of the two packages but their `__init__`, by dotted name."""
    found = {}
    for package, home in homes.items():
        for path in sorted((home / package).rglob("*.py")):
            if path.name != "__init__.py":
                found[".".join(path.relative_to(home).with_suffix("").parts)] = path
    return found


def imports(module, path, known):
    """Return the modules of the two packages that one module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] in HOMES}
        if not isinstance(node, ast.ImportFrom):
            continue
        package = module.rsplit(".", node.level)[0] if node.level else ""
        source = ".".join(part for part in (package, node.module) if part)
        if source.split(".")[0] in HOMES:
            found |= {name if (name := f"{source}.{a.name}") in known else source for a in node.names}
    return found


def room(module):
    """Return a module's floor and room."""
    for floor, rooms in enumerate(FLOORS):
        for name in rooms:
            if module == name or module.startswith(f"{name}."):
                return floor, name
    if module in CELLAR:
        return -1, module
    raise AssertionError(f"{module} has no room: give it one in FLOORS")


def faults(homes=HOMES):
    """Return, as sentences, what breaks the rule."""
    known = modules(homes)
    graph = {module: imports(module, path, known) for module, path in known.items()}
    found = []
    for module, targets in graph.items():
        floor, name = room(module)
        for target in sorted(targets):
            if target in HOMES:
                if module in READS_THE_FACE:
                    continue
                found.append(f"{module} imports the face of {target}, not the module that it needs")
                continue
            below, other = room(target)
            if target not in CELLAR and (below > floor or (below == floor and other != name)):
                found.append(f"{module} (floor {floor}) imports {target} (floor {below})")
    return found + circles(graph)


def circles(graph):
    found, done = [], set()

    def visit(module, path):
        if module in path:
            found.append("in a circle: " + " -> ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for target in sorted(graph.get(module, ())):
                visit(target, [*path, module])
            done.add(module)

    for module in graph:
        visit(module, [])
    return found


def test_nothing_imports_upwards_sideways_or_in_a_circle():
    assert faults() == []


PLANTED = {
    "a wing imports another": (
        "lib/pdelens/attention/heads.py",
        "from ..agreement import report",
        "imports pdelens.agr",
    ),
    "the library imports the book": ("lib/pdelens/flow.py", "from companion.paths import root", "imports companion.pa"),
    "upwards, inside a function": (
        "lib/pdelens/lattice.py",
        "def f():\n    from .pde import terms",
        "imports pdelens.pde",
    ),
    "by its full name": ("lib/pdelens/pde/modes.py", "import pdelens.sensitivity.spectrum", "imports pdelens.sens"),
    "a sister": ("book/companion/theory/cosine.py", "from ..data import brown", "imports companion.data.brown"),
    "the face": ("book/companion/seeds.py", "from pdelens import compare", "imports the face of pdelens"),
    "a circle": ("lib/pdelens/pde/modes.py", "from .terms import Term", "in a circle: pdelens.pde."),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_import_is_found(name, tmp_path):
    import shutil

    file, line, says = PLANTED[name]
    for package, home in HOMES.items():
        shutil.copytree(home / package, tmp_path / home.name / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / file).write_text((tmp_path / file).read_text() + f"\n{line}\n")
    found = faults({package: tmp_path / home.name for package, home in HOMES.items()})
    assert any(says in fault for fault in found), found


def test_packages_hold_a_docstring_only():
    """The two faces apart, which hold public names."""
    for package, home in HOMES.items():
        for path in (home / package).rglob("__init__.py"):
            body = ast.parse(path.read_text()).body
            if path.parent.name != package:
                assert len(body) == 1 and isinstance(body[0], ast.Expr), path


def test_no_module_or_function_outgrows_its_concept():
    for path in modules().values():
        text = path.read_text()
        assert text.count("\n") <= 320, f"{path} has {text.count(chr(10))} lines"
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                own = node.body[1:] if ast.get_docstring(node) else node.body
                size = sum(bool(line.strip()) and not line.strip().startswith("#") for line in _lines(lines, node, own))
                assert size <= 40, f"{path}:{node.lineno} {node.name} has {size} lines"


def _lines(lines, node, body):
    """Return a function's lines without its docstring."""
    head = lines[node.lineno - 1 : node.body[0].lineno - 1]
    return head + lines[body[0].lineno - 1 : node.end_lineno] if body else head
