"""How far it is from a call of fit to the coreset: functions of the package that are entered.

    python benchmarks/walk.py

Counts, with a profiler in the calling thread, the distinct functions of the package that run from
``Pipeline.fit(paths)``, and from ``PatchCore.fit`` on features alone, until the greedy coreset
starts, and how often the next function lies in another file than the one before.
"""

import json
import sys
import tempfile
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from PIL import Image

import skanomaly
from skanomaly import FilterBank, PatchCore, Pipeline
from skanomaly.datasets import make_textures

PACKAGE = str(Path(skanomaly.__file__).parent)
END = "greedy_order"
RESULT = Path(__file__).parent / "results" / "walk.json"


class Arrived(Exception):
    """The coreset has been reached."""


def walk(fit):
    """(distinct functions, changes of file) from a call to the coreset."""
    entered = []

    def note(frame, event, argument):
        code = frame.f_code
        is_ours = event == "call" and code.co_filename.startswith(PACKAGE)
        if not is_ours or code.co_name.startswith("<"):  # comprehensions are no functions to read
            return
        entered.append((code.co_filename, code.co_qualname))
        if code.co_name == END:
            sys.setprofile(None)
            raise Arrived

    sys.setprofile(note)
    try:
        with suppress(Arrived):  # all that was to be seen has been seen
            fit()
    finally:
        sys.setprofile(None)
    files = [file for file, _ in entered]
    changes = sum(one != other for one, other in pairwise(files))
    return len(set(entered)), changes


def main():
    images = make_textures(4, size=(64, 64), random_state=0)
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{i}.png" for i in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            Image.fromarray(image).save(path)
        features = FilterBank(image_size=64, random_state=0)
        pipe = Pipeline([("features", features), ("detector", PatchCore(random_state=0))])
        maps = features.fit(paths).transform(paths)
        pipe.fit(paths)  # what is imported and compiled once is not counted
        rows = {
            "Pipeline.fit(paths)": walk(lambda: pipe.fit(paths)),
            "PatchCore.fit(features)": walk(lambda: PatchCore(random_state=0).fit(maps)),
        }
    for name, (functions, changes) in rows.items():
        print(f"{name}: {functions} functions, {changes} changes of file")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"benchmark": "walk", "results": rows}) + "\n")
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
