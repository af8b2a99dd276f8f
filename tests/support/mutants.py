"""Changes the two packages in one place at a time and asks whether the unit tests notice: `make mutants`.

Places are found in the syntax trees and drawn at random (`--seed`): a comparison, an arithmetic sign, a `not`, a
number, a reduction, an argument left out, a slice. Messages of errors, docstrings and annotations are no places, and
neither is what draws pictures. The tests that run the changed statement come first (measured once, `covering`), then
all of its wing, until the first failure; the tests of pages are left out where a page runs the code, since they notice
that it is another. A change whose tests all pass survives. Results are kept after every change
(`tests/mutants/<seed>.json`, with the commit they are about); the same command goes on, and `--again` tries the
survivors once more. Equal changes, which no test could notice, are argued in `tests/mutants/equal.json` and counted
apart.
"""

import argparse
import ast
import datetime
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import mutant_runs
from covering import ROOT

HOMES = ("lib/pdelens", "book/companion")
RECORDS = ROOT / "tests" / "mutants"
EQUAL = RECORDS / "equal.json"
COMPARISONS = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip
SIGNS = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "/", ast.Pow: "*", ast.Mod: "*",
    ast.BitAnd: "|", ast.BitOr: "&",
}  # fmt: skip
REDUCTIONS = {
    "any": "all", "all": "any", "min": "max", "max": "min", "amin": "amax", "amax": "amin", "sum": "mean",
    "mean": "sum", "argmax": "argmin", "argmin": "argmax", "tril": "triu", "triu": "tril", "clamp_min": "clamp_max",
    "std": "var", "exp": "expm1", "log": "log1p", "sqrt": "square", "square": "abs", "median": "mean",
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change: in which file, from where to where in its text, and what stands there instead."""

    path: str
    start: int
    end: int
    new: str
    line: int
    kind: str

    @property
    def name(self) -> str:
        """A name that stays while the text around it does."""
        about = f"{self.path}:{self.start}:{self.end}:{self.new}"
        return hashlib.sha256(about.encode()).hexdigest()[:12]

    def apply(self, text: str) -> str:
        """Return the file's text with the change."""
        return text[: self.start] + self.new + text[self.end :]


def places(path: str, text: str) -> Iterator[Mutant]:
    """Yield every change of a file that is another program."""
    tree, starts = ast.parse(text), [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def at(line: int, column: int) -> int:
        # Columns count bytes.
        return starts[line - 1] + len(text[starts[line - 1] : starts[line]].encode()[:column].decode())

    def span(node) -> tuple[int, int]:
        return at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)

    def mutant(start: int, end: int, new: str, node, kind: str) -> Mutant:
        return Mutant(path, start, end, new, node.lineno, kind)

    for node in _looked_at(tree):
        if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS and len(node.ops) == 1:
            gap = span(node.left)[1], span(node.comparators[0])[0]
            inner = text[gap[0] : gap[1]]
            if inner.strip(" ()\n") and not set(inner) & set("#\\"):
                start = gap[0] + len(inner) - len(inner.lstrip(") \n"))
                end = gap[1] - (len(inner) - len(inner.rstrip("( \n")))
                yield mutant(start, end, COMPARISONS[type(node.ops[0])], node, "comparison")
        elif isinstance(node, ast.BinOp) and type(node.op) in SIGNS and not _is_text(node):
            gap = span(node.left)[1], span(node.right)[0]
            inner = text[gap[0] : gap[1]]
            start = gap[0] + len(inner) - len(inner.lstrip(") \n"))
            end = gap[1] - (len(inner) - len(inner.rstrip("( \n")))
            yield mutant(start, end, SIGNS[type(node.op)], node, "sign")
        elif isinstance(node, ast.BoolOp):
            end, start = span(node.values[0])[1], span(node.values[1])[0]
            word = "and" if isinstance(node.op, ast.And) else "or"
            place = text.find(word, end, start)
            if place >= 0:
                yield mutant(place, place + len(word), "or" if word == "and" else "and", node, "and, or")
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
            start, inside = span(node)[0], span(node.operand)[0]
            if not (isinstance(node.operand, ast.Constant) and isinstance(node.op, ast.USub)):
                yield mutant(start, inside, "", node, "not, minus")
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
            new = str(not node.value) if isinstance(node.value, bool) else repr(node.value + 1)
            new = repr(node.value * 1.1) if isinstance(node.value, float) and node.value else new
            yield mutant(*span(node), new, node, "constant")
        elif isinstance(node, ast.Call):
            yield from _of_call(node, text, span, mutant)
        elif isinstance(node, ast.Slice) and (node.lower is None) != (node.upper is None):
            inner = node.lower or node.upper
            assert inner is not None
            yield mutant(*span(inner), "", node, "slice")


def _of_call(node: ast.Call, text: str, span, mutant) -> Iterator[Mutant]:
    """Yield another reduction, and the call without one of its named arguments."""
    function = node.func
    if isinstance(function, ast.Attribute) and function.attr in REDUCTIONS:
        end = span(function)[1]
        yield mutant(end - len(function.attr), end, REDUCTIONS[function.attr], node, "reduction")
    everything = [*node.args, *(keyword.value for keyword in node.keywords)]
    for keyword in node.keywords:
        if keyword.arg is None or len(everything) < 2:
            continue
        start, end = span(keyword)
        before = text[:start].rstrip()
        if before.endswith(","):
            yield mutant(len(before) - 1, end, "", node, "argument")


def _looked_at(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that decide what is computed: no messages, texts, docstrings or annotations."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.ImportFrom | ast.Import | ast.Assert):
            continue
        if isinstance(node, ast.FunctionDef) and node.name in ("__repr__", "__str__"):
            continue
        yield node
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "type_params"):
                continue
            waiting += [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, ast.AST)]


def _is_text(node: ast.BinOp) -> bool:
    """Say whether a sum or a product is of texts."""
    return any(
        isinstance(part, ast.JoinedStr) or (isinstance(part, ast.Constant) and isinstance(part.value, str))
        for part in (node.left, node.right)
    )


def drawn(count: int, seed: int) -> list[Mutant]:
    """Return so many changes over both packages, drawn with a seed: first a kind, then a place of this kind."""
    by_kind: dict[str, list[Mutant]] = {}
    texts = {}
    for home in HOMES:
        for path in sorted((ROOT / home).rglob("*.py")):
            where = str(path.relative_to(ROOT))
            texts[where] = path.read_text()
            for one in places(where, texts[where]):
                # What a picture looks like is a matter of taste.
                if not ("/figures/" in where or where.endswith("plots.py")):
                    by_kind.setdefault(one.kind, []).append(one)
    rng, found = random.Random(seed), []
    for kind in by_kind.values():
        rng.shuffle(kind)
    while len(found) < count and any(by_kind.values()):
        kind = rng.choice(sorted(by_kind))
        if by_kind[kind] and _is_another(one := by_kind[kind].pop(), texts[one.path]):
            found.append(one)
    return found


def _is_another(mutant: Mutant, text: str) -> bool:
    """Say whether a change leaves a program, and another one."""
    try:
        return ast.dump(ast.parse(mutant.apply(text))) != ast.dump(ast.parse(text))
    except SyntaxError:
        return False


def code_digest() -> str:
    """Return the digest of both packages' code."""
    found = hashlib.sha256()
    for home in HOMES:
        for path in sorted((ROOT / home).rglob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()


def record_of(seed: int, code: str) -> dict:
    """Return what is known of a seed's changes: nothing yet, if the code is another than the recorded one."""
    path = RECORDS / f"{seed}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    return known if known.get("code") == code else {"code": code, "seed": seed, "changes": []}


def told(record: dict) -> tuple[int, int, list[dict]]:
    """Return how many changes were caught, how many can be (those not equal), and those that survived."""
    argued = json.loads(EQUAL.read_text())
    live = [one for one in record["changes"] if one["caught"] or one["name"] not in argued]
    survived = [one for one in live if not one["caught"]]
    return len(live) - len(survived), len(live), survived


def _saved(record: dict) -> None:
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    record |= {"date": f"{datetime.date.today()}", "commit": commit}
    RECORDS.mkdir(exist_ok=True)
    path = RECORDS / f"{record['seed']}.json"
    draft = path.with_suffix(f".draft-{os.getpid()}")
    draft.write_text(json.dumps(record, indent=1) + "\n")
    draft.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--again", action="store_true", help="try those that survived once more")
    given = parser.parse_args()
    code = code_digest()
    (ROOT / "_build" / "mutants").mkdir(parents=True, exist_ok=True)
    record, wanted = record_of(given.seed, code), drawn(given.count, given.seed)
    done = {one["name"]: one for one in record["changes"]}
    again = {one["name"] for one in told(record)[2]} if given.again else set()
    todo = [one for one in wanted if one.name not in done or one.name in again]
    known = mutant_runs.covering(code)
    for one in mutant_runs.results(todo, given.workers, known, time.time() + 60 * given.minutes):
        done[one["name"]] = one
        record["changes"] = [done[mutant.name] for mutant in wanted if mutant.name in done]
        _saved(record)
        print(f"{one['path']}:{one['line']} {one['kind']}: {one['caught'] or 'SURVIVED'}", flush=True)
    caught, live, survived = told(record)
    for one in survived:
        line = (ROOT / one["path"]).read_text().splitlines()[one["line"] - 1].strip()
        print(f"survived: {one['name']} {one['path']}:{one['line']} ({one['kind']} -> {one['new']!r}): {line}")
    print(f"{caught} of {live} caught ({caught / max(live, 1):.1%}), {len(record['changes']) - live} equal, "
          f"{len(wanted) - len(record['changes'])} of {len(wanted)} not tried yet")  # fmt: skip


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / part) for part in ("lib", "book")]
    main()
