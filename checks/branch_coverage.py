"""Runs a Python module and measures the branch coverage of our packages, also in every process that it starts:

    python -m checks.branch_coverage pytest -n 2; coverage report

Before Python 3.14 tracing sees every line of every package, which adds half to the CPU time of a test. Here our
modules are compiled with marks instead: assignments that set a byte of a shared file, before each statement and on both
ways out of each branch. coverage.py says which branches there are and makes the report.

Measured are the lines and branches that coverage.py's tracer finds, with two differences: an `except` clause counts
when it is entered, not when an exception is compared with it; a branch that ends a `finally` clause counts also on the
way of an exception or a `return`. Each statement has a line of its own: ruff sees to that.
"""

from __future__ import annotations

import ast
import marshal
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from coverage import Coverage, CoverageData
from coverage.parser import PythonParser

ROOT = Path(__file__).resolve().parents[1]
HOOK = Path(__file__).with_name("coverage_marks")

Arc = tuple[int, int]


class Marker:
    """Inserts marks into the syntax trees of modules.

    arcs: what each mark stands for: the path of the file, and pairs of lines. A pair of one line says that its
    statement was started.
    """

    def __init__(self) -> None:
        self.arcs: list[tuple[str, list[Arc]]] = []
        self._path = ""
        self._targets: dict[int, set[int]] = {}
        self._parser: PythonParser

    def compile(self, path: Path) -> bytes:
        """The code of a file with marks, as `marshal` writes it."""
        source = path.read_text()
        self._path = str(path)
        self._parser = PythonParser(text=source, filename=str(path))
        self._parser.parse_source()
        self._targets = defaultdict(set)
        for start, end in self._parser.arcs():
            self._targets[start].add(end)
        tree = ast.parse(source)
        self._visit(tree, [])
        return marshal.dumps(compile(ast.fix_missing_locations(tree), str(path), "exec", dont_inherit=True))

    def found(self, marks: bytes) -> dict[str, list[Arc]]:
        """Path to arcs whose marks are set; a file of which nothing was run has none."""
        arcs: dict[str, list[Arc]] = defaultdict(list)
        for is_set, (path, known) in zip(marks, self.arcs, strict=True):
            arcs[path] += known if is_set else []
        return arcs

    def _visit(self, node: ast.AST, arrival: list[Arc]) -> None:
        """Marks the statements of a node that has bodies. arrival: arcs by which its first body is entered."""
        for name in ("body", "handlers", "orelse", "finalbody", "cases"):
            inner = getattr(node, name, None)
            if not isinstance(inner, list):
                continue
            if name in ("handlers", "cases"):
                self._visit_alternatives(node, inner)
            elif isinstance(node, ast.If | ast.For | ast.AsyncFor | ast.While) and name in ("body", "orelse"):
                line, inside = self._first_line(node), self._targets_in(node)
                taken = inside if name == "body" else self._targets[line] - inside
                setattr(node, name, self._marked(inner, [(line, end) for end in taken], node))
            else:
                setattr(node, name, self._marked(inner, arrival if name == "body" else [], node))

    def _visit_alternatives(self, node: ast.AST, alternatives: list[ast.ExceptHandler] | list[ast.match_case]) -> None:
        """Clauses that are tried in turn: who enters one has passed those before it."""
        passed: list[Arc] = []
        before = 0
        for clause in alternatives:
            line = self._parser.first_line(
                clause.pattern.lineno if isinstance(clause, ast.match_case) else clause.lineno
            )
            passed += [(before, line)] if before and line in self._targets[before] else []
            passed.append((line, line))
            inside = self._targets_in(clause)
            self._visit(clause, passed + [(line, end) for end in inside])
            before = line
        if isinstance(node, ast.Match) and (left := self._targets[before] - inside):
            mark = self._mark(passed + [(before, end) for end in left], node)
            node.cases.append(ast.match_case(ast.MatchAs(), body=[mark]))

    def _targets_in(self, node: ast.AST) -> set[int]:
        """Where in its body a branch can go to from its line."""
        if isinstance(node, ast.match_case):
            line = self._parser.first_line(node.pattern.lineno)
        else:
            line = self._first_line(node)
        body = range(_start(node.body[0]), (node.body[-1].end_lineno or 0) + 1)  # type: ignore[attr-defined]
        return {end for end in self._targets[line] if end in body}

    def _marked(self, body: Sequence[ast.stmt], arrival: list[Arc], place: ast.AST) -> list[ast.stmt]:
        """The body with marks. arrival: arcs by which it is entered. place: where the mark of an empty body stands."""
        found: list[ast.stmt] = []
        for number, statement in enumerate(body):
            self._visit(statement, [])
            starts = (*getattr(statement, "decorator_list", []), statement)
            lines = sorted({self._parser.first_line(each.lineno) for each in starts})
            is_docstring = number == 0 and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if not is_docstring:
                arrival += [(line, line) for line in lines]
            # Nothing may stand before these; what follows has their mark.
            is_first = is_docstring or (isinstance(statement, ast.ImportFrom) and statement.module == "__future__")
            if arrival and not is_first:
                found.append(self._mark(arrival, statement))
                arrival = []
            found.append(statement)
        return [*found, self._mark(arrival, place)] if arrival else found

    def _mark(self, arcs: list[Arc], place: ast.AST) -> ast.stmt:
        marks = ast.Subscript(ast.Name("_coverage_marks", ast.Load()), ast.Constant(len(self.arcs)), ast.Store())
        self.arcs.append((self._path, arcs))
        mark = ast.Assign([marks], ast.Constant(1))
        for node in ast.walk(mark):
            ast.copy_location(node, place)
        return mark

    def _first_line(self, node: ast.AST) -> int:
        return self._parser.first_line(node.lineno)  # type: ignore[attr-defined]


def _start(statement: ast.stmt) -> int:
    return min(each.lineno for each in (statement, *getattr(statement, "decorator_list", [])))


def measure(command: Sequence[str], sources: Sequence[Path]) -> tuple[int, dict[str, list[Arc]]]:
    """Runs a command and measures the files below `sources`: its exit code, and path to arcs."""
    with TemporaryDirectory(prefix="branch-coverage-") as folder:
        marker = Marker()
        for path in sorted(path for source in sources for path in source.rglob("*.py")):
            marked = Path(f"{folder}{path}c")
            marked.parent.mkdir(parents=True, exist_ok=True)
            marked.write_bytes(marker.compile(path))
        marks = Path(folder, "marks")
        marks.write_bytes(bytes(len(marker.arcs)))
        paths = os.pathsep.join(filter(None, [str(HOOK), os.environ.get("PYTHONPATH", "")]))
        environment = os.environ | {"PYTHONPATH": paths, "BRANCH_COVERAGE_MARKS": folder}
        done = subprocess.run(command, env=environment, check=False)
        return done.returncode, marker.found(marks.read_bytes())


def main() -> int:
    if len(sys.argv) < 2:
        print("usage: python -m checks.branch_coverage MODULE [ARGUMENT ...]", file=sys.stderr)
        return 2
    settings = Coverage(config_file=str(ROOT / "pyproject.toml"), data_file=str(ROOT / ".coverage"))
    packages = settings.get_option("run:source")
    assert isinstance(packages, list)
    settings.erase()
    code, found = measure([sys.executable, "-m", *sys.argv[1:]], [ROOT / package for package in packages])
    write(found, ROOT / ".coverage")
    return code


def write(found: dict[str, list[Arc]], path: Path) -> None:
    """As coverage.py reads it, files of which nothing was run included."""
    data = CoverageData(basename=str(path))
    data.add_arcs(found)
    data.touch_files(found)
    data.write()


if __name__ == "__main__":
    sys.exit(main())
