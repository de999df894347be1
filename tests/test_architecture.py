"""Who may import whom, and how large things may be. The table is the one in docs/design.md."""

import ast
import inspect
import re
import subprocess
import sys

import pytest
from structure import (
    FILES,
    PACKAGE,
    code_lines,
    function_lengths,
    imports,
    private_imports,
    repeated_module_names,
    sub_package,
)

import skanomaly
from skanomaly.registry import DETECTORS, EXTRACTORS

# A module may import skanomaly modules of a lower rank, or of its own folder.
RANKS = {
    "exceptions": 0,
    "registry": 0,
    "io": 1,
    "utils": 1,
    "images": 2,
    "persistence": 2,
    "embedding": 3,
    "datasets": 3,
    "neighbors": 3,
    "coreset": 3,
    "density": 3,
    "metrics": 3,
    "regions": 3,
    "feature_maps": 4,
    "training": 4,
    "caching": 5,
    "pipeline": 5,
    "forecast": 5,
    "base": 6,
    "feature_extraction": 7,
    "estimator_checks": 7,
    "detectors": 8,
    "ensemble": 8,
    "model_selection": 9,
    "display": 10,
    "distributed": 10,
    "service": 10,
    "export": 10,
    "report": 11,
    "cli": 12,
    "__main__": 13,
}
# Folders of detectors, imported on first use.
TRAINED = {
    "arnet",
    "cflow",
    "cutpaste",
    "differnet",
    "fyd",
    "ganomaly",
    "global_local",
    "mkd",
    "regad",
    "tdg",
}
TOP_LEVEL_TORCH = {
    "export",
    "feature_extraction",
    "training",
    "utils/networks.py",
    "detectors/_flows.py",
    "detectors/_frozen_norms.py",
    "detectors/_registration_model.py",
    "detectors/_backbone_stages.py",
} | {f"detectors/{name}" for name in TRAINED}
TORCH_IN_FUNCTIONS = {"neighbors", "coreset", "utils/device.py", "persistence"}
IN_FUNCTIONS_OF = {
    "pynndescent": "neighbors",
    "matplotlib": "display",
    "jinja2": "report",
    "dask": "distributed",
    "distributed": "distributed",
    "pyarrow": "distributed",
    "timm": "feature_extraction/backbones",
    "transformers": "feature_extraction/backbones",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
}
TOP_LEVEL_NUMBA = {
    "neighbors",
    "coreset",
    "utils/distances.py",
    "utils/compiling.py",
    "images/_jpeg_entropy.py",
}

MODULES = [path for path in FILES if path != PACKAGE / "__init__.py"]
each_file = pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))


def is_within(path, places):
    """Whether a file is one of these, or lies in one of these folders."""
    name = path.relative_to(PACKAGE).as_posix()
    return any(name == place or name.startswith(f"{place}/") for place in places)


@each_file
def test_imports_go_downward(path):
    own = sub_package(path)
    assert own in RANKS, f"{own} has no rank: add it to the table and to docs/design.md"
    for one in imports(path):
        if not one.module.startswith("skanomaly."):
            continue
        other = one.module.split(".")[1]
        assert other in RANKS, f"{path.name} imports {one.module}: import from where it is defined"
        assert other == own or RANKS[other] < RANKS[own], f"{own} imports {other} upward"


def test_no_private_name_crosses_a_sub_package():
    assert private_imports() == []


def test_trained_methods_know_nothing_of_each_other():
    for name in TRAINED:
        for path in (PACKAGE / "detectors" / name).glob("*.py"):
            for one in imports(path):
                assert not any(
                    one.module.startswith(f"skanomaly.detectors.{other}")
                    for other in TRAINED - {name}
                )


def test_imports_have_no_circle():
    """Between modules, imports inside functions and within a folder included."""
    names = {
        path: ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in MODULES
    }
    names = {path: name.removesuffix(".__init__") for path, name in names.items()}
    known, graph = set(names.values()), {}
    for path, name in names.items():
        graph[name] = set()
        for one in imports(path):
            # from package import module: the module is what is needed.
            targets = {f"{one.module}.{imported}" for imported in one.names} & known
            graph[name] |= targets if len(targets) == len(one.names) > 0 else targets | {one.module}
        graph[name] &= known - {name}
    state = dict.fromkeys(graph, 0)

    def visit(name, way):
        state[name] = 1
        for target in graph[name]:
            assert state[target] != 1, f"a circle of imports: {' -> '.join([*way, name, target])}"
            if state[target] == 0:
                visit(target, [*way, name])
        state[name] = 2

    for name in graph:
        if state[name] == 0:
            visit(name, [])


@each_file
def test_heavy_libraries_stay_where_they_belong(path):
    for one in imports(path):
        library = one.module.split(".")[0]
        if library in ("torch", "torchvision"):
            allowed = TOP_LEVEL_TORCH if one.at_top else TOP_LEVEL_TORCH | TORCH_IN_FUNCTIONS
        elif library == "numba":
            allowed = TOP_LEVEL_NUMBA
        elif library in IN_FUNCTIONS_OF:
            allowed = set() if one.at_top else {IN_FUNCTIONS_OF[library]}
        else:
            continue
        assert is_within(path, allowed), f"{path.name} imports {library}"


@each_file
def test_private_names_of_scikit_learn_are_imported_in_one_place(path):
    if path == PACKAGE / "utils" / "validation.py":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("sklearn"):
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
            assert not any(name.startswith("_") for name in names), f"{path.name}: {names}"


@each_file
def test_files_and_functions_stay_small(path):
    assert code_lines(path) <= 300
    for name, length in function_lengths(path):
        assert length <= 50, f"{name} is too long"


def test_folders_stay_small():
    assert code_lines(PACKAGE / "detectors" / "_patchcore.py") <= 150
    for name in TRAINED:
        modules = [p for p in (PACKAGE / "detectors" / name).glob("*.py") if p.stem != "__init__"]
        assert len(modules) <= 8


def test_no_two_modules_have_one_name():
    assert repeated_module_names() == []


def test_importing_skanomaly_is_light():
    """Nothing heavy or optional is loaded, and every public name is there to be asked for."""
    code = (
        "import sys, skanomaly; dir(skanomaly);"
        "heavy = ('torch', 'numba', 'matplotlib', 'jinja2', 'sklearn', 'dask', 'distributed');"
        "print([m for m in heavy if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr


@pytest.mark.parametrize("name", skanomaly.__all__)
def test_public_names_exist(name):
    assert getattr(skanomaly, name) is not None


@pytest.mark.parametrize("entry", [*DETECTORS, *EXTRACTORS], ids=lambda e: e.name)
def test_the_registry_is_right(entry):
    from skanomaly.base import BaseDetector, BaseExtractor, BaseImageDetector

    kind = entry.load()
    assert kind.__name__ == entry.name and entry.name in skanomaly.__all__
    if entry in DETECTORS:
        assert issubclass(kind, BaseDetector)
        assert issubclass(kind, BaseImageDetector) == (entry.takes == "images")
    else:
        assert issubclass(kind, BaseExtractor)
    if entry.needs_torch:
        return
    code = f"import sys; from {entry.package} import {entry.name}; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "False", found.stderr


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'PatchCor'"):
        _ = skanomaly.PatchCor


def public_functions():
    """(name, function) of all that users may call, methods of estimators left out."""
    for name in skanomaly.__all__:
        thing = getattr(skanomaly, name)
        if inspect.isfunction(thing):
            yield name, thing
        elif inspect.ismodule(thing):
            for inner in getattr(thing, "__all__", ()):
                if inspect.isfunction(getattr(thing, inner)):
                    yield f"{name}.{inner}", getattr(thing, inner)


@pytest.mark.parametrize("function", [pytest.param(f, id=name) for name, f in public_functions()])
def test_public_functions_are_annotated(function):
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    for name, parameter in signature.parameters.items():
        assert parameter.annotation is not inspect.Parameter.empty, name


def test_shared_parameters_are_documented_in_all_classes():
    for entry in (*DETECTORS, *EXTRACTORS):
        text = entry.load().__doc__
        assert not re.search(r"^ *<\w+>$", text, flags=re.MULTILINE), entry.name
        for name in inspect.signature(entry.load()).parameters:
            assert re.search(rf"^    (\w+, )*{name}(, \w+)* : ", text, flags=re.MULTILINE), name
