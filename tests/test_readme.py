"""What the README says is what happens."""

import re
from pathlib import Path

import pytest
from PIL import Image

from skanomaly.datasets import make_inspection

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def test_python_examples_run(tmp_path, monkeypatch):
    data = make_inspection(30, 10, 10, size=64, random_state=0)
    for part in ("train", "test"):
        for name, image in zip(data[part].names, data[part].images, strict=True):
            file = tmp_path / "my_part" / f"{name}_{part}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks("python"):
        exec(block, names)  # as a reader would type them, one after the other
    assert names["search"].best_score_ > 0.8
    assert len(names["model"].predict(names["data"].test.images)) == len(names["data"].test.target)


def test_the_first_two_commands_are_the_ones_that_ci_runs():
    demo, tests = blocks("sh")
    assert demo.strip() == "pip install . && python -m skanomaly demo"
    assert tests.strip() == 'pip install -e ".[test]" && pytest'
    assert "README.md" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists()
