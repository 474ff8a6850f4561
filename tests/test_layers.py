"""The rooms of the house, and who may touch whom."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "filters"
FILES = sorted(ROOT.rglob("*.py"))
BASELINES = sorted((ROOT.parent / "baselines").glob("*.py"))
SUBMISSION = sorted((ROOT.parent / "submission").glob("*.py"))
ROOMS_BELOW = {"maths": set(), "pool": {"maths"}, "work": {"maths", "pool"}}
HEAVY = {"torch", "pyarrow", "pandas", "faiss", "fasttext", "nltk", "cld3", "huggingface_hub"}
FLOORS = [
    ["start"],
    ["options", "outcome"],
    ["run", "score"],
    ["filter", "negcliploss", "normsim"],
    ["concepts", "held", "scores", "summary"],
    ["command"],
    ["topscore"],
    ["semdedup"],
    ["densprune"],
]


def imported(path: Path) -> set[str]:
    """Modules of ours that a file imports, without `filters.`."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    names = {f"{node.module}.{name.name}" for node in nodes for name in node.names} | {str(node.module) for node in nodes}
    return {name.removeprefix("filters.") for name in names if name.startswith("filters.")}


@pytest.mark.parametrize("path", [path for path in FILES if path.parent != ROOT], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    rooms = {name.split(".")[0] for name in imported(path)}
    assert rooms <= ROOMS_BELOW[path.parent.name] | {path.parent.name}


@pytest.mark.parametrize("floor", range(len(FLOORS)))
def test_a_page_imports_only_pages_below_it(floor: int) -> None:
    below = {name for names in FLOORS[:floor] for name in names} | ROOMS_BELOW.keys() | {"__version__"}
    for name in FLOORS[floor]:
        assert {used.split(".")[0] for used in imported(ROOT / f"{name}.py")} <= below


def test_every_page_stands_on_a_floor() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} - {"__init__"} == {name for names in FLOORS for name in names}


@pytest.mark.parametrize("page", ["densprune", "semdedup", "topscore", "concepts", "held", "negcliploss"])
def test_a_filter_never_sees_files_threads_or_progress(page: str) -> None:
    tree = ast.parse((ROOT / f"{page}.py").read_text())
    # The hand-over of a page that is run as a file stands above its imports, in an `if`.
    modules = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    modules |= {name.name for node in tree.body if isinstance(node, ast.Import) for name in node.names}
    mechanism = {"os", "pathlib", "threading", "multiprocessing", "concurrent.futures", "tqdm", "json", "tempfile"}
    mechanism |= {"filters.work.engine", "filters.pool.embeddings", "filters.pool.archive", "filters.pool.subset", "filters.pool.files"}
    assert not modules & mechanism
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) in ("open", "print")]


@pytest.mark.parametrize("path", sorted((ROOT.parent / "filters").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_filters_know_no_baseline(path: Path) -> None:
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    assert not [node for node in nodes if str(node.module).startswith(("baselines", "tools", "submission"))]


@pytest.mark.parametrize("path", SUBMISSION, ids=lambda path: path.name)
def test_submission_knows_the_pool_and_mathematics_and_how_commands_begin_and_end(path: Path) -> None:
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    assert not [node for node in nodes if str(node.module).startswith(("baselines", "tools"))]
    assert {name.split(".")[0] for name in imported(path)} <= {"maths", "pool", "command", "options", "start"}


def test_bodies_are_short_enough_to_see_whole() -> None:
    lengths = []
    for path in [*FILES, *BASELINES, *SUBMISSION]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
                lengths.append((node.end_lineno or 0) - first.lineno + 1)
    assert statistics.median(lengths) < 10
    assert sorted(lengths)[int(0.9 * len(lengths))] < 30


def test_nothing_heavy_is_imported_with_a_page() -> None:
    """Spawned workers import the page once more; the demo's drawing is imported when the demo pool is made."""
    for path in (path for path in [*FILES, *BASELINES, *SUBMISSION] if path.stem not in ("demo", "drawings", "kinds", "looks")):
        nodes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = [node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name for node in nodes]
        assert not {name.split(".")[0] for name in names} & {
            "torch",
            "pyarrow",
            "pandas",
            "faiss",
            "fasttext",
            "nltk",
            "cld3",
            "huggingface_hub",
        }, path
