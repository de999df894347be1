"""The structure of the package, read from its source: imports, sizes, names.

    python tests/structure.py

prints the figures that tests/test_architecture.py holds to their limits.
"""

import ast
import collections
from pathlib import Path
from typing import NamedTuple

import skanomaly

PACKAGE = Path(skanomaly.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


class Import(NamedTuple):
    """A module of ours or another's that a file imports."""

    module: str
    names: tuple  # what is imported from it; empty for `import module`
    at_top: bool  # outside of any function


def sub_package(path):
    """First folder, or the file's own name, below the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Every import in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.Lambda))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, (), id(node) not in inside)
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            if node.module == "skanomaly":  # from skanomaly import datasets
                for name in names:
                    yield Import(f"skanomaly.{name}", (), id(node) not in inside)
            else:
                yield Import(node.module, names, id(node) not in inside)


def private_imports():
    """(file, import) for each name or module with an underscore from another sub-package."""
    found = []
    for path in FILES:
        for one in imports(path):
            parts = one.module.split(".")
            if parts[0] != "skanomaly" or len(parts) < 2 or parts[1] == sub_package(path):
                continue
            if any(name.startswith("_") for name in (*parts, *one.names)):
                found.append((str(path.relative_to(PACKAGE)), ".".join([one.module, *one.names])))
    return found


def code_lines(path):
    """Lines that are neither blank, nor comment, nor docstring."""
    text = path.read_text(encoding="utf-8")
    documentation = set()
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                documentation.update(range(body[0].lineno, body[0].end_lineno + 1))
    return sum(
        1
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.strip().startswith("#") and number not in documentation
    )


def function_lengths(path):
    """(name, lines without the docstring) of each function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            has_text = ast.get_docstring(node) is not None and len(node.body) > 1
            yield node.name, node.end_lineno - node.body[has_text].lineno + 1


def repeated_module_names():
    """Names of modules that stand in the package more than once."""
    counts = collections.Counter(path.name for path in FILES if path.name != "__init__.py")
    return sorted(name for name, n in counts.items() if n > 1)


def main():
    largest = max(FILES, key=code_lines)
    lengths = [(n, f"{path.name}: {name}") for path in FILES for name, n in function_lengths(path)]
    n_global_local = len([p for p in FILES if p.parent.name == "global_local"]) - 1
    rows = {
        "private imports across sub-packages": len(private_imports()),
        "module names that occur twice": repeated_module_names(),
        "largest file (code lines)": (code_lines(largest), largest.name),
        "longest function (lines)": max(lengths),
        "PatchCore's file (code lines)": code_lines(PACKAGE / "detectors" / "_patchcore.py"),
        "modules of GlobalLocal": n_global_local,
    }
    for name, value in rows.items():
        print(f"{name}: {value}")  # noqa: T201


if __name__ == "__main__":
    main()
