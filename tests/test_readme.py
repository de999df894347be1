"""What the README says is what happens."""

import re
from pathlib import Path

import pytest
from doc_parts import blocks, make_my_part, run_python

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_examples_run(tmp_path, monkeypatch):
    make_my_part(tmp_path)
    monkeypatch.chdir(tmp_path)
    names = run_python(README)
    assert names["search"].best_score_ > 0.8
    assert len(names["model"].predict(names["data"].test.images)) == len(names["data"].test.target)


def test_the_first_two_commands_are_the_ones_that_ci_runs():
    demo, tests = blocks(README, "sh")
    assert demo.strip() == 'pip install ".[pretrained]" && python -m skanomaly demo'
    assert tests.strip() == 'pip install -e ".[test]" && pytest -n 2'
    assert "README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_no_block_goes_unread():
    assert {block.language for block in blocks(README)} <= {"sh", "python", "text"}


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists()
