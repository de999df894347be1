"""What the pages of the documentation say is what happens; and no public name is left out."""

import importlib
import inspect
import json
import pkgutil
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from doc_parts import blocks, make_workshop, run_python

import skanomaly
from skanomaly.cli import main

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = {
    str(path.relative_to(DOCS)): path.read_text(encoding="utf-8")
    for path in sorted(DOCS.rglob("*.md"))
    if not {"_build", "auto_examples", "generated"} & set(path.parts)
}
WITH_PYTHON = [name for name in PAGES if blocks(PAGES[name], "python") and name != "quickstart.md"]
SHELL = "guide/shell.md"
LINE = "guide/line.md"  # test_serve.py runs its shell blocks
# Run: python, sh. Read by what it is for: toml, json. Sphinx's: in braces. Prose in a box: text.
KINDS = {"python", "sh", "toml", "json", "text", "{toctree}", "{eval-rst}", "{include}"}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A folder with all that pages speak of, in which the quickstart has been followed."""
    root = make_workshop(tmp_path_factory.mktemp("workshop"))
    table = blocks(PAGES["guide/data.md"], "text")[0]
    (root / "parts.csv").write_text(table, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(plt, "show", lambda: None)
        names = run_python(PAGES["quickstart.md"])
    plt.close("all")
    assert (names["verdicts"][names["data"].test.target == 1] == 1).mean() >= 0.8
    return root


@pytest.mark.parametrize("name", WITH_PYTHON)
def test_python_of_a_page_runs_from_its_top(name, workshop, monkeypatch):
    if name == "guide/scale.md":
        pytest.importorskip("distributed", reason="the page needs the extra with dask")
    if name == "guide/export.md":
        for library in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(library, reason="the page needs the extra 'export'")
    monkeypatch.chdir(workshop)
    monkeypatch.setattr(plt, "show", lambda: None)
    names = run_python(PAGES[name])  # raises where a block does
    plt.close("all")
    assert names.keys() > {"__builtins__"}  # some block has run


@pytest.mark.parametrize("name", PAGES)
def test_no_block_is_skipped_in_silence(name):
    for block in blocks(PAGES[name]):
        assert block.language in KINDS, f"{name}: {block}"
        if block.language == "text":
            assert not re.search(r"^(import|from) ", block.code, flags=re.MULTILINE), name
        if block.language in ("sh", "toml", "json"):
            assert name in (SHELL, LINE), "its blocks are run by the test below; others need one"


def test_the_shell_page_is_right(workshop, monkeypatch, capsys):
    monkeypatch.chdir(workshop)
    commands, loop = blocks(PAGES[SHELL], "sh")
    codes = [main(shlex.split(line, comments=True)[1:]) for line in commands.splitlines()]
    assert codes[1:] == [0, 0, 1]  # fit, evaluate, inspect: one of the new images is bad
    assert codes[0] in (0, 1)  # check
    assert {p.name for p in (workshop / "out").iterdir()} == {"scores.csv", "000.png", "019.png"}

    capsys.readouterr()
    assert main(["inspect", "part.skanomaly", "new", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    (shown,) = map(json.loads, blocks(PAGES[SHELL], "json"))
    assert shown[0].keys() == answer[-1].keys()
    assert shown[0]["regions"][0].keys() == answer[-1]["regions"][0].keys()

    (workshop / "skanomaly").write_text(f'#!/bin/sh\nexec {sys.executable} -m skanomaly "$@"\n')
    (workshop / "skanomaly").chmod(0o755)
    monkeypatch.setenv("PATH", str(workshop), prepend=":")
    subprocess.run(["bash", "-c", loop], check=True)
    assert (workshop / "passed" / "1.png").is_file()


def test_the_grid_of_the_shell_page_is_toml():
    (grid,) = blocks(PAGES[SHELL], "toml")  # test_cli_tune.py has tune read it
    assert tomllib.loads(grid)["grid"].keys() == {"features", "detector"}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    text = re.sub(r"^```.*?^```$", "", PAGES[name], flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        if "auto_examples" in target:  # made by the build
            target = "../examples/README.rst"
        assert ((DOCS / name).parent / target).exists(), target


def test_every_page_is_in_a_table_of_contents():
    linked = set()
    for name, text in PAGES.items():
        for code in blocks(text, "{toctree}"):
            entries = re.findall(r"^(?!:)(?:.*<)?([\w/]+)>?$", code, flags=re.MULTILINE)
            linked |= {str(Path(name).parent / f"{entry}.md") for entry in entries}
    assert set(PAGES) - {"index.md"} <= linked


def public_modules():
    names = [module.name for module in pkgutil.iter_modules(skanomaly.__path__)]
    listed = [name for name in names if name in skanomaly.__all__ or name == "model_selection"]
    return ["skanomaly", *(f"skanomaly.{name}" for name in listed)]


@pytest.mark.parametrize("module", public_modules())
def test_every_public_name_is_in_the_api_pages(module):
    entries = {
        line.strip()
        for name, text in PAGES.items()
        if name.startswith("api/")
        for code in blocks(text, "{eval-rst}")
        for line in code.splitlines()
        if line.strip().startswith("skanomaly.")
    }
    module = importlib.import_module(module)
    for name in getattr(module, "__all__", ()):
        thing = getattr(module, name)
        if inspect.ismodule(thing):
            continue
        places = {f"{module.__name__}.{name}"}
        if getattr(skanomaly, name, None) is thing:
            places.add(f"skanomaly.{name}")
        assert places & entries, f"{module.__name__}.{name} is on no page in docs/api"
