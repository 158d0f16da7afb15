"""The floors of the library, the limits of its modules, and words that must not stand in it. Read from the source."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "lib" / "aep"
MODULES = sorted(LIBRARY.rglob("*.py"))
FLOORS = [
    {"errors", "_agree", "_array", "_progress", "_display", "_parquet", "_text_files", "_failures", "_folders"},
    {"information", "intervals", "importance", "optimum"},
    {"adaptors"},
    {"languages"},
    {"records", "store", "parameters", "outputs", "data_table"},
    {"reduction", "sampling", "scoring", "stretches"},
    {"neural"},
    {"analysis"},
    {"plotting"},
    {"interactive"},
    {"runner"},
    {"__main__", "_commands", "bench", "site"},
]
HEAVY = {
    "torch": {"neural", "bench"},
    "transformers": {"neural", "bench"},
    "matplotlib": {"plotting"},
    "ipywidgets": {"interactive"},
}


def name(path: Path) -> str:
    return path.relative_to(LIBRARY).with_suffix("").as_posix()


def floor(top: str) -> int:
    return next((i for i, modules in enumerate(FLOORS) if top in modules), -1)


def imports(path: Path) -> set[str]:
    """Absolute dotted names of everything a module imports, inside functions too."""
    package = ["aep", *path.relative_to(LIBRARY).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, node.module] if node.module else base)
            # `from . import x`: x is a module; `from .x import name`: name usually is not.
            found |= {f"{stem}.{a.name}" for a in node.names} if not node.module else {stem}
    return found


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_imports_only_from_its_own_floor_or_a_lower_one(path):
    top = path.relative_to(LIBRARY).with_suffix("").parts[0]
    if top == "__init__":
        return
    assert floor(top) >= 0, f"{name(path)} has no floor: add it to FLOORS"
    for imported in imports(path):
        head, _, rest = imported.partition(".")
        if head == "aep" and rest:
            below = rest.partition(".")[0]
            assert below in ("__version__", "__init__") or floor(below) >= 0, f"{name(path)} imports unknown {imported}"
            assert floor(below) <= floor(top), f"{name(path)} imports {imported}, which is above it"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_only_the_fenced_floors_import_torch_transformers_matplotlib_and_ipywidgets(path):
    top = path.relative_to(LIBRARY).with_suffix("").parts[0]
    for imported in imports(path):
        allowed = HEAVY.get(imported.partition(".")[0])
        assert allowed is None or top in allowed, f"{name(path)} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_modules_have_at_most_350_lines_and_functions_40_unless_they_say_why(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 350
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(node) or ""
            body = node.end_lineno - node.lineno + 1 - len(doc.splitlines())
            assert body <= 40 or "Long because" in doc, f"{node.name}: {body} lines without its docstring"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_unfinished_mark_no_broad_except_and_no_junk_drawer(path):
    assert path.stem not in ("utils", "util", "helpers", "common", "misc")
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\b(TODO|FIXME|XXX|NotImplementedError)\b", text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            assert caught not in ("everything", "Exception", "BaseException"), f"line {node.lineno} catches {caught}"


def test_importing_information_needs_neither_torch_nor_matplotlib():
    code = "import sys, aep.information, aep.adaptors; print(sorted({'torch', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_exists():
    import aep

    for public in aep.__all__:
        assert getattr(aep, public) is not None


def test_no_path_of_a_machine_stands_in_the_repository():
    files = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True)
    if files.returncode:
        pytest.skip("not a git checkout")
    machine = re.compile(r"(^|[^.\w])/(root|home|Users|tmp|mnt|opt|work)/\w")
    for relative in filter(None, files.stdout.split("\0")):
        path = ROOT / relative
        if path.suffix in (".py", ".md", ".ipynb", ".yaml", ".yml", ".toml", ".cfg", ".json", ".csv", ".txt", ""):
            if path == Path(__file__) or not path.is_file() or path.stat().st_size > 5_000_000:
                continue
            for i, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
                assert not machine.search(line), f"{relative}:{i} holds a path of a machine"


def test_the_tests_run_with_executed_shapes():
    if os.environ.get("AEP_NO_HOOK", "0") not in ("", "0"):
        pytest.skip("AEP_NO_HOOK is set")
    from beartype.roar import BeartypeException
    from jaxtyping import TypeCheckError

    from aep.errors import nearest

    with pytest.raises((TypeCheckError, BeartypeException)):
        nearest("x", ["x"], n="three")
