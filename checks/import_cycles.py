"""No import cycle between modules, type-checking imports included: `python -m checks.import_cycles`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import grimp

# Packages whose modules must not form a cycle.
PACKAGES = ("api", "cli", "jobs", "retalking_client", "retalking_core", "worker")


def find_cycles(graph: grimp.ImportGraph) -> list[list[str]]:
    """One cycle, as the modules on it in import order, for each module that can reach itself and was not on another."""
    cycles: list[list[str]] = []
    seen: set[str] = set()
    for module in sorted(graph.modules):
        for imported in sorted(graph.find_modules_directly_imported_by(module)):
            if module in seen or imported == module:
                continue
            chain = graph.find_shortest_chain(importer=imported, imported=module)
            if chain is not None:
                cycles.append([module, *chain])
                seen.update(chain)
    return cycles


def describe(cycles: list[list[str]]) -> Iterator[str]:
    for cycle in cycles:
        yield "import cycle: " + " -> ".join(cycle)


def main() -> int:
    lines = list(describe(find_cycles(grimp.build_graph(*PACKAGES, cache_dir=None))))
    print("\n".join(lines) or f"no import cycle in {', '.join(PACKAGES)}")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
