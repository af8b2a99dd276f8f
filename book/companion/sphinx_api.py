"""The library's API pages, made from its docstrings when the book is built."""

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

import pdelens


class Api(SphinxDirective):
    """``{api}``: the public names in its content, a line each, with signature, docstring and example."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return what stands on the page."""
        names = [line.strip() for line in self.content if line.strip()]
        for name in names:
            self.env.note_dependency(str(inspect.getsourcefile(getattr(pdelens, name))))
        return parsed(self, "\n\n".join(entry(name, getattr(pdelens, name)) for name in names))


class ApiModules(SphinxDirective):
    """``{api-modules} pdelens.attention``: what else a package's modules offer, a table each."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return what stands on the page."""
        package = importlib.import_module(self.arguments[0])
        found = [
            importlib.import_module(f"{package.__name__}.{one.name}") for one in pkgutil.iter_modules(package.__path__)
        ]
        for module in found:
            self.env.note_dependency(str(module.__file__))
        shown = (module for module in found if not module.__name__.split(".")[-1].startswith("_"))
        return parsed(self, "\n\n".join(filter(None, map(module_table, shown))))


def parsed(directive: SphinxDirective, text: str) -> list[nodes.Node]:
    """Return the nodes of MyST text."""
    parent = nodes.container()
    directive.state.nested_parse(StringList(text.splitlines(), "api"), directive.content_offset, parent)
    return parent.children


def entry(name: str, what: Any) -> str:
    """Return a public name as MyST: what it is, its signature with shapes, its docstring, its methods."""
    kind = "exception" if inspect.isclass(what) and issubclass(what, Exception) else "class"
    kind = kind if inspect.isclass(what) else "function"
    body = [markdown(inspect.getdoc(what) or "")]
    if kind == "function":
        body.insert(0, f"```python\n{header(what)}\n```")
    if kind == "class":
        body.append(members(what))
    return (
        f"::::{{py:{kind}}} pdelens.{name}{arguments(what) if kind != 'exception' else ''}\n\n"
        + "\n\n".join(body)
        + "\n::::"
    )


def arguments(what: Any) -> str:
    """Return a signature without types: what the index and the heading show."""
    try:
        signature = inspect.signature(what)
    except (TypeError, ValueError):
        return ""
    plain = [one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def header(function: Any) -> str:
    """Return a function's head as its source has it, shapes included."""
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    node = next(one for one in ast.walk(ast.parse(source)) if isinstance(one, ast.FunctionDef))
    lines = source.splitlines()[node.lineno - 1 : node.body[0].lineno - 1]
    return "\n".join(lines).rstrip().removesuffix(":")


def markdown(text: str) -> str:
    """Return a docstring as MyST: its examples become code."""
    paragraphs = re.split(r"\n\s*\n", text)
    return "\n\n".join(f"```python\n{one}\n```" if one.startswith(">>>") else one for one in paragraphs)


def members(what: type) -> str:
    """Return a class's public methods and properties, a line each."""
    rows = []
    for name, member in vars(what).items():
        if name.startswith("_"):
            continue
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if not inspect.isfunction(function):
            continue
        shown = (
            name
            if isinstance(member, property)
            else name + arguments(function).replace("(self, ", "(").replace("self", "")
        )
        rows.append(f"- `{shown}`: {first_line(function)}")
    return "\n".join(rows)


def module_table(module: Any) -> str:
    """Return a module's functions and classes that are no public names of the library itself, as a table."""
    public = [
        (name, what)
        for name, what in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(what) or inspect.isclass(what))
        and what.__module__ == module.__name__
        and name not in pdelens.__all__
    ]
    if not public:
        return ""
    rows = [f"| `{name}` | {first_line(what).replace('|', '&#124;')} |" for name, what in public]
    return "\n".join([f"**`{module.__name__}`** – {first_line(module)}", "", "| name | what |", "|---|---|", *rows])


def first_line(what: Any) -> str:
    """Return the first sentence of a docstring."""
    return (inspect.getdoc(what) or "").split("\n\n")[0].replace("\n", " ")


def setup(app):
    """Add the directives to a Sphinx application."""
    app.add_directive("api", Api)
    app.add_directive("api-modules", ApiModules)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
