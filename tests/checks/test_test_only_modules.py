"""The check names a module that only tests import, and no other."""

from pathlib import Path

from checks.test_only_modules import unread_modules


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_module_without_a_reader_is_named(tmp_path: Path) -> None:
    library = [
        _write(tmp_path / "core" / "used.py", ""),
        _write(tmp_path / "core" / "listed.py", "from core.unused import nothing_else\n"),
        _write(tmp_path / "core" / "by_name.py", ""),
        _write(tmp_path / "core" / "unused.py", "import core.unused\n"),
        _write(tmp_path / "core" / "unread.py", "import core.unread\n"),
    ]
    program = _write(
        tmp_path / "program.py", 'import core.used\nfrom core import listed\nTABLE = {"x": ("by_name", "Class")}\n'
    )
    assert unread_modules(library, [*library, program], tmp_path) == ["core.unread"]
