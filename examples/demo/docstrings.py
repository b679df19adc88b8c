"""The docstrings of the packages installed on this machine, read from their source files without importing them."""

from __future__ import annotations

import ast
import importlib.util
import multiprocessing
import os
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

STDLIB = "stdlib"

PACKAGES: dict[str, tuple[str, ...]] = {
    STDLIB: ("*.py", "asyncio", "collections", "concurrent", "email", "http", "importlib", "json", "logging",
             "multiprocessing", "unittest", "urllib", "xml"),
    "torch": ("*.py", "amp", "autograd", "cuda", "distributions", "func", "nn", "optim", "sparse", "utils/data"),
    "numpy": ("**",),
    "pandas": ("core", "io", "tseries"),
    "networkx": ("**",),
    "transformers": ("*.py", "data", "generation", "pipelines", "utils"),
    "huggingface_hub": ("**",),
    "peft": ("**",),
    "sympy": ("core", "functions", "matrices", "ntheory", "simplify", "solvers"),
    "ray": ("data", "train", "util"),
    "rich": ("**",),
    "jinja2": ("**",),
    "pydantic": ("**",),
    "fsspec": ("**",),
    "PIL": ("**",),
}  # fmt: skip
"""Packages with well-written docstrings, and the parts of each that are read: all of torch alone takes a minute."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

# Tests, copies of other packages, and old versions kept for compatibility.
SKIPPED_PARTS = frozenset({"tests", "test", "testing", "testutils.py", "conftest.py", "_vendor", "distutils", "v1"})
MAX_SIGNATURE = 120
"""Characters; a longer one is given without defaults, and then cut after a parameter."""


@dataclass(frozen=True, order=True)
class Docstring:
    """What one function or class says about itself: dotted name, `(a, b=1)` and cleaned text."""

    package: str
    name: str
    signature: str
    text: str


def source_files(package: str) -> list[tuple[str, Path]]:
    """Dotted module name and path of each file of `package` that is read, sorted; none if it is not installed."""
    root = _root(package)
    if root is None:
        return []
    patterns = [part if "*" in part else f"{part}/**" for part in PACKAGES[package]]
    found = {path for pattern in patterns for path in root.glob(f"{pattern}/*.py" if "**" in pattern else pattern)}
    files = [path for path in found if not SKIPPED_PARTS & set(path.relative_to(root).parts)]
    return sorted((_module(package, path.relative_to(root)), path) for path in files)


def read_packages(packages: Iterable[str]) -> Iterator[tuple[list[Docstring], int, int]]:
    """Read `packages` in order and on all cores: docstrings of one file, files read so far, files in all."""
    files = [(package, *file) for package in packages for file in source_files(package)]
    context = multiprocessing.get_context("spawn")  # whoever calls this may have threads, which fork does not survive
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        for done, found in enumerate(pool.map(_read, files, chunksize=16), start=1):
            yield found, done, len(files)


def read_file(package: str, module: str, path: Path) -> list[Docstring]:
    """The docstrings of public functions, classes and methods of one source file, in their order in the file.

    A file that is no Python of this version, or no UTF-8, has none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's sources
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            return []
    return list(_walk(package, module, tree))


def _read(file: tuple[str, str, Path]) -> list[Docstring]:
    return read_file(*file)


def _root(package: str) -> Path | None:
    if package == STDLIB:
        return Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec(package)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def _module(package: str, path: Path) -> str:
    parts = path.with_suffix("").parts if path.name != "__init__.py" else path.parent.parts
    return ".".join(parts if package == STDLIB else (package, *parts))


def _walk(package: str, prefix: str, parent: ast.Module | ast.ClassDef) -> Iterator[Docstring]:
    for node in parent.body:
        if not isinstance(node, Definition) or node.name.startswith("_"):
            continue
        name = f"{_published_in(node, prefix) or prefix}.{node.name}"
        text = ast.get_docstring(node)
        if text and not any(part.startswith("_") for part in name.split(".")):
            yield Docstring(package, name, signature(node), text)
        if isinstance(node, ast.ClassDef):
            yield from _walk(package, name, node)


def _published_in(node: Definition, prefix: str) -> str | None:
    """Where numpy and pandas publish what a private module defines: they say so by a decorator."""
    for decorator in node.decorator_list:
        match decorator:
            case ast.Call(func=ast.Name(id="set_module"), args=[ast.Constant(value=str(module))]):
                return module
            case ast.Call(func=ast.Name(id="array_function_dispatch")):
                package = prefix.partition("._")[0]
                return "numpy" if package == "numpy.lib" else package
    return None


def signature(node: Definition) -> str:
    """`(a, b=1, *, c=None)` without annotations, `self` and `cls`; a class has its `__init__`'s, or none at all."""
    if isinstance(node, ast.ClassDef):
        functions = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
        return signature(functions[0]) if functions else ""
    arguments = node.args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
        if argument is not None:
            argument.annotation = None
    parts = ast.unparse(arguments).removeprefix("self").removeprefix("cls").removeprefix(", ")
    return f"({parts})" if len(parts) <= MAX_SIGNATURE else f"({_short(arguments)})"


def _short(arguments: ast.arguments) -> str:
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    names = [name for name in names if name not in ("self", "cls")]
    text = ", ".join(names)
    return text if len(text) <= MAX_SIGNATURE else text[:MAX_SIGNATURE].rpartition(", ")[0] + ", ..."
