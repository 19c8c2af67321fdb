"""Imports inside mbjax point down one list only, so that data flows one way."""

import ast
import pathlib

import pytest

import mbjax

ROOT = pathlib.Path(mbjax.__file__).parent
# From the top down. A module may import those in later rows, and its own package.
LAYERS = [
    {"__main__"}, {"main"}, {"compare"}, {"estimator"}, {"cli", "programs"}, {"train", "export"}, {"report"},
    {"predict"}, {"config"}, {"evaluation"}, {"methods"}, {"meta"}, {"devices"}, {"sampling"}, {"data"}, {"models"},
    {"augment", "losses"}, {"class_weights", "rows", "trivial_augment"}, {"meta_checks", "state"}, {"registry"},
    {"config_files", "console", "options", "sealed", "versions"}, {"atomic"}, {"types"},
]  # fmt: skip
HEIGHT = {name: len(LAYERS) - row for row, names in enumerate(LAYERS) for name in names}


def imported_parts(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("mbjax.")}


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_point_down(file):
    part = file.relative_to(ROOT).parts[0].removesuffix(".py")
    if part == "__init__":
        return
    assert part in HEIGHT, f"{part} has no place in the list of layers"
    tree = ast.parse(file.read_text())
    for other in imported_parts(tree) - {part}:
        assert HEIGHT[other] < HEIGHT[part], f"{file.relative_to(ROOT)} imports mbjax.{other}, which is not below it"


def test_the_import_scanner_sees_every_form():
    source = "import mbjax.train\nfrom mbjax import meta\nfrom mbjax.data import loan\nimport numpy"
    assert imported_parts(ast.parse(source)) == {"train", "meta", "data"}
