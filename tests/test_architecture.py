"""The rooms of the house: who may import whom. The table is the one in docs/design.md."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import skanomaly

PACKAGE = Path(skanomaly.__file__).parent

# A module may import skanomaly modules of a lower rank, or of its own folder.
RANKS = {
    "_cache": 0,
    "_files": 0,
    "_validation": 0,
    "_images": 0,
    "_image_fit": 0,
    "_heat_maps": 1,
    "_memory": 0,
    "_distances": 0,
    "_threads": 0,
    "feature_maps": 1,
    "datasets": 1,
    "neighbors": 2,
    "coreset": 2,
    "density": 2,
    "metrics": 2,
    "regions": 2,
    "base": 3,
    "pipeline": 3,
    "memory": 3,
    "feature_extraction": 3,
    "detectors": 4,
    "model_selection": 5,
    "display": 6,
    "report": 6,
    "persistence": 6,
    "cli": 7,
    "__main__": 8,
}
ARRAYS_ONLY = {
    "neighbors",
    "coreset",
    "density",
    "metrics",
    "regions",
}  # know nothing of FeatureMaps
RANK_ZERO_ONLY = {"datasets"}
TOP_LEVEL_TORCH = {"feature_extraction"}
# Of detectors those that train, which are imported on first use.
FILES_WITH_TORCH = {
    "_networks.py",
    "_transforms.py",
    "_registration.py",
    "_regad.py",
    "_stages.py",
    "_categories.py",
    "_local_network.py",
    "_global_networks.py",
    "_glance.py",
    "_glance_joint.py",
    "_glance_training.py",
    "_glances.py",
    "_teachers.py",
    "_global_local.py",
}
TORCH_IN_FUNCTIONS = {"neighbors", "coreset"}
TOP_LEVEL_NUMBA = {"neighbors", "coreset", "_distances"}
MATPLOTLIB_IN_FUNCTIONS = {"display"}
JINJA_IN_FUNCTIONS = {"report"}

FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path):
    """First folder, or the file's own name, below the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """(imported module, whether at the file's top level) for each import in a file."""
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.Lambda))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
            if node.module == "skanomaly":
                names = [f"skanomaly.{alias.name}" for alias in node.names]
        for name in names:
            yield name, id(node) not in inside


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downward(path):
    room = room_of(path)
    assert room in RANKS, f"{room} has no rank: add it to the table and to docs/design.md"
    for name, _ in imports(path):
        if not name.startswith("skanomaly."):
            continue
        other = name.split(".")[1]
        assert other in RANKS, f"{path.name} imports {name}; import from the module that defines it"
        if other == room:
            continue
        assert RANKS[other] < RANKS[room], f"{room} imports {other} upward"
        assert room not in RANK_ZERO_ONLY or RANKS[other] == 0
        assert room not in ARRAYS_ONLY or RANKS[other] == 0


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_libraries_stay_in_their_rooms(path):
    room = room_of(path)
    for name, at_top in imports(path):
        library = name.split(".")[0]
        if library in ("torch", "torchvision"):
            if room == "detectors" and path.name in FILES_WITH_TORCH:
                continue
            allowed = TOP_LEVEL_TORCH if at_top else TOP_LEVEL_TORCH | TORCH_IN_FUNCTIONS
        elif library == "numba":
            allowed = TOP_LEVEL_NUMBA
        elif library == "pynndescent":
            allowed = set() if at_top else {"neighbors"}
        elif library == "matplotlib":
            allowed = set() if at_top else MATPLOTLIB_IN_FUNCTIONS
        elif library == "jinja2":
            allowed = set() if at_top else JINJA_IN_FUNCTIONS
        else:
            continue
        assert room in allowed, f"{path.name} imports {library}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_private_names_of_scikit_learn_are_imported_in_one_place(path):
    if room_of(path) == "_validation":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("sklearn"):
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
            assert not any(name.startswith("_") for name in names), f"{path.name}: {names}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_stay_small(path):
    text = path.read_text()
    assert text.count("\n") < 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            start = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0].lineno
            assert node.end_lineno - start < 50, f"{node.name} is too long"


def test_importing_skanomaly_is_light():
    """Nothing heavy or optional is loaded, and every public name is there to be asked for."""
    code = (
        "import sys, skanomaly; dir(skanomaly);"
        "heavy = ('torch', 'numba', 'matplotlib', 'jinja2', 'sklearn');"
        "print([m for m in heavy if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "[]", answer.stderr


@pytest.mark.parametrize("name", skanomaly.__all__)
def test_public_names_exist(name):
    assert getattr(skanomaly, name) is not None


def test_detectors_that_do_not_train_need_no_torch():
    code = (
        "import sys; from skanomaly import PatchCore, PaDiM, SPADE; print('torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "False", answer.stderr


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'PatchCor'"):
        _ = skanomaly.PatchCor
