"""Processes killed while they write: is there ever half a result, or a wrong one?

    python benchmarks/bench_faults.py [--kills 50]

Each kind of work replaces an old result by a new one in a child process, which is killed with
SIGKILL: in one half of the trials after a random time, in the other before a random one of its
calls that open, rename or delete a file of the result. What is left must be the old or the new
result, whole. An output folder of inspect may also be between the two: without a scores.csv. Then
the work is done again, after which there must be the new result, right, and no leftover. Unix only.
Results are written to benchmarks/results as JSON.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}  # processes are forked

import numpy as np
import torch
from PIL import Image

import skanomaly
from skanomaly import FilterBank, PatchCore, Pipeline, training
from skanomaly.cli import main as run_command
from skanomaly.datasets import make_defects, make_textures
from skanomaly.report import Report

RESULT = Path(__file__).parent / "results" / "faults.json"
SIZE = 64
CALLS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
OLD, NEW, BETWEEN, BAD = "old", "new", "between", "bad"


class Work:
    """One kind of work: `do` replaces a result in a folder, `look` tells which one is there."""

    def __init__(self, data):
        self.data = data

    def prepare(self, folder):
        """Put the old result into the folder."""
        self.do(folder, OLD)


class FitWork(Work):
    """fit -o: the detector file."""

    name = "part.skanomaly"

    def do(self, folder, generation):
        seed = {OLD: "0", NEW: "1"}[generation]
        options = ["--image-size", str(SIZE), "--folds", "2", "--target-fpr", "0.2", "-q"]
        command("fit", self.data / "good", "-o", folder / self.name, *options,
                "--random-state", seed)  # fmt: skip

    def look(self, folder):
        return skanomaly.load(folder / self.name).decision_function(images_of(self.data / "new"))


class DumpWork(FitWork):
    """skanomaly.dump."""

    def __init__(self, data):
        super().__init__(data)
        good = images_of(data / "good")
        self.models = {
            generation: make_pipe(seed).fit(good) for generation, seed in ((OLD, 0), (NEW, 1))
        }

    def do(self, folder, generation):
        skanomaly.dump(self.models[generation], folder / self.name)


class InspectWork(Work):
    """inspect: scores.csv and heat maps, over those of other images."""

    def do(self, folder, generation):
        images = images_of(self.data / "new")
        images = images[:8] if generation == OLD else images[4:]
        command("inspect", self.data / "part.skanomaly", *images, "-o", folder / "out", "-q")

    def look(self, folder):
        """All that scores.csv lists, in bytes, and that there is nothing else."""
        scores = folder / "out" / "scores.csv"
        if not scores.exists():
            return None
        listed = [line.split(",")[3] for line in scores.read_text().splitlines()[1:]]
        return [scores.read_bytes(), *((folder / "out" / name).read_bytes() for name in listed)]


class ReportWork(Work):
    """Report.save."""

    def __init__(self, data):
        super().__init__(data)
        self.reports = {}
        for generation in (OLD, NEW):
            self.reports[generation] = report = Report(note=generation, vmin=0, vmax=1)
            for path in images_of(data / "new"):
                report.add(path, np.eye(SIZE), 0.1, name=path)

    def do(self, folder, generation):
        self.reports[generation].save(folder / "report.html")

    def look(self, folder):
        page = (folder / "report.html").read_text()
        return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "", page)  # when it was made


class CacheWork(Work):
    """A pipeline with a cache; the result is what it says, whatever is in the cache."""

    def prepare(self, folder):
        """An empty cache."""

    def do(self, folder, generation):
        images = images_of(self.data / "good")
        make_pipe(0, folder / "cache").fit(images).score_samples(images_of(self.data / "new"))

    def look(self, folder):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a damaged file in the cache is one
            pipe = make_pipe(0, folder / "cache").fit(images_of(self.data / "good"))
            return pipe.score_samples(images_of(self.data / "new"))


class CheckpointWork(Work):
    """A training with a checkpoint; the result is the network once the training went on."""

    def prepare(self, folder):
        """No checkpoint."""

    def do(self, folder, generation):
        self.look(folder)

    def look(self, folder):
        torch.manual_seed(0)
        network = torch.nn.Linear(200, 200)
        config = training.TrainingConfig(
            n_epochs=20, checkpoint=folder / "checkpoint", identity="ours", device="cpu"
        )
        training.fit(
            network, lambda batch: (network(batch) - 1).square().mean(),
            lambda epoch: list(torch.eye(200).split(100)), config,
        )  # fmt: skip
        return network.weight.detach().numpy().copy()


WORKS = {
    "fit -o": FitWork, "dump": DumpWork, "inspect": InspectWork, "report": ReportWork,
    "cache": CacheWork, "checkpoint": CheckpointWork,
}  # fmt: skip


def command(*arguments):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = run_command([str(argument) for argument in arguments])
    assert code in (0, 1), arguments


def make_pipe(seed, cache=None):
    features = FilterBank(image_size=SIZE, random_state=seed, cache=cache)
    return Pipeline([("features", features), ("detector", PatchCore(random_state=seed))])


def make_data(folder):
    """Good images, others, and a detector file."""
    images = make_textures(24, size=SIZE, random_state=0)
    images[20:] = make_defects(images[20:], random_state=0)[0]
    for i, image in enumerate(images):
        path = folder / ("good" if i < 12 else "new") / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    FitWork(folder).do(folder, OLD)


def images_of(folder):
    return sorted(map(str, folder.iterdir()))


def in_child(action, delay=None, call=None, watched=None):
    """Run in a forked process, killed after a delay or before a call; seconds, calls, killed."""
    reading, writing = os.pipe()
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        try:
            watch(watched, call, writing)
            action()
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
        os._exit(0)
    os.close(writing)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seconds = time.perf_counter() - began
    n_calls = len(os.read(reading, 1 << 16))
    os.close(reading)
    assert code in (0, -signal.SIGKILL), "the work itself failed"
    return seconds, n_calls, code != 0


def watch(folder, call, writing):
    """Count calls on files of a folder, and kill this process before a certain one."""
    left = [call]

    def count(event, arguments):
        if event not in CALLS or not str(arguments[0]).startswith(str(folder)):
            return
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if left[0] is not None:
            left[0] -= 1
        os.write(writing, b".")

    sys.addaudithook(count)


def same(one, other):
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


def state(work, folder, whole):
    """Which result a folder holds."""
    try:
        found = work.look(folder)
    except Exception as error:
        print(f"{type(work).__name__}: {type(error).__name__}: {error}", file=sys.stderr)
        return BAD
    if found is None:
        return BETWEEN
    return next((name for name in (NEW, OLD) if same(found, whole[name])), BAD)


def leftovers(folder):
    found = [p for pattern in (".unfinished*", ".complete*") for p in folder.rglob(pattern)]
    return len(found)


def trials(work, root, n_kills, rng):
    """Counts of all that is left by so many kills."""
    whole = {}
    for generation in (OLD, NEW):
        folder = root / generation
        folder.mkdir()
        work.do(folder, generation)
        whole[generation] = work.look(folder)
    counts = dict.fromkeys(("kills", OLD, NEW, BETWEEN, BAD, "leftovers", "wrong", "kept"), 0)
    folder = root / "folder"
    seconds, n_calls, _ = measure(work, folder)
    while counts["kills"] < n_kills:
        fresh(work, folder)
        how = {"delay": rng.uniform(0, seconds)}
        if counts["kills"] % 2:
            how = {"call": int(rng.integers(n_calls))}
        _, _, is_killed = in_child(lambda: work.do(folder, NEW), watched=folder, **how)
        if not is_killed:  # it was faster
            continue
        counts["kills"] += 1
        counts["leftovers"] += leftovers(folder) > 0
        found = state(work, folder, whole)
        counts[found] += 1
        work.do(folder, NEW)
        counts["wrong"] += state(work, folder, whole) != NEW
        counts["kept"] += leftovers(folder) > 0
    return counts


def fresh(work, folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    work.prepare(folder)


def measure(work, folder):
    """Seconds and calls of the work where nothing is killed."""
    fresh(work, folder)
    return in_child(lambda: work.do(folder, NEW), watched=folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="of each kind of work")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        data.mkdir()
        make_data(data)
        print(f"{'work':12}" + "".join(f"{name:>10}" for name in
              ("kills", OLD, NEW, BETWEEN, BAD, "leftovers", "wrong", "kept")))  # fmt: skip
        for name, kind in WORKS.items():
            root = Path(folder, kind.__name__)
            root.mkdir()
            found[name] = trials(kind(data), root, options.kills, rng)
            print(f"{name:12}" + "".join(f"{n:10}" for n in found[name].values()), flush=True)
    print("leftovers: after the kill; wrong, kept: results and leftovers after the next run")
    assert not any(one[BAD] or one["wrong"] or one["kept"] for one in found.values())
    result = {"found": found, "python": platform.python_version(), "system": platform.system()}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
