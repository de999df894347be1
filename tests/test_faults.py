"""Full disks, damaged files, killed processes, strange names: no wrong answer, and nothing half."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_parts import fit, make_part, run, save
from PIL import Image

from skanomaly import FilterBank, PaDiM, Pipeline, training
from skanomaly.cli import _main, _predictions
from skanomaly.cli._results import FolderResults, _heat_map_names, listed_heat_maps
from skanomaly.datasets import make_textures
from skanomaly.exceptions import DamagedFileError, ImageError
from skanomaly.io import (
    _atomic,
    atomic_file,
    atomic_folder,
    name_disk_errors,
    open_cache,
    remove_leftovers,
    temporary_name,
)
from skanomaly.report import Report, _images
from skanomaly.utils import unwrapping

posix = pytest.mark.skipif(sys.platform == "win32", reason="processes and signals as on Unix")


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    return make_part(tmp_path_factory.mktemp("faults") / "part", n_train=12, n_good=3, n_bad=2)


@pytest.fixture(scope="module")
def detector(part):
    return fit(part)


@pytest.fixture(scope="module")
def images():
    return list(make_textures(10, size=64, random_state=0))


@pytest.fixture
def gone():
    """The number of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def rows_of(folder):
    with open(folder / "scores.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def left_by(process, kind="unfinished"):
    """A name as such a process of this machine would have chosen it."""
    name = temporary_name().replace(f"-{os.getpid()}-", f"-{process}-")
    return name.replace(".unfinished", f".{kind}")


def in_child(action):
    """Fork, run, and end the child without its cleaning up; returns its exit code."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# --- the cache --------------------------------------------------------------------------------


def cached_pipe(folder):
    features = FilterBank(image_size=64, random_state=0, cache=folder)
    return Pipeline([("features", features), ("detector", PaDiM(random_state=0))])


def no_space(*args):
    raise OSError(28, "No space left on device")


def test_verdicts_come_where_nothing_can_be_kept(images, tmp_path, monkeypatch):
    expected = cached_pipe(None).fit(images[:6]).score_samples(images)
    pipe = cached_pipe(tmp_path / "cache").fit(images[:6])
    monkeypatch.setattr("skanomaly.io._cache.write_arrays", no_space)
    with pytest.warns(UserWarning, match=r"cache .*cannot be written \(No space left") as caught:
        scores = pipe.score_samples(images)
    assert len(caught) == 1 and str(tmp_path / "cache") in str(caught[0].message)
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    with pytest.warns(UserWarning, match="results are computed and not kept"):
        refitted = cached_pipe(tmp_path / "cache").fit(images[:5] + images[6:7])
    assert refitted[-1].offset_ == cached_pipe(None).fit(images[:5] + images[6:7])[-1].offset_
    assert not list((tmp_path / "cache").glob(".*"))


def test_a_folder_that_cannot_be_made_is_no_cache(images, tmp_path):
    (tmp_path / "file").write_text("")
    pipe = cached_pipe(tmp_path / "file" / "cache")
    with pytest.warns(UserWarning, match=r"cannot be written|no such folder") as caught:
        pipe.fit(images[:6])
    assert "cannot be written" in str(caught[0].message)
    expected = cached_pipe(None).fit(images[:6]).score_samples(images)
    with pytest.warns(UserWarning, match="there is no such folder here"):
        np.testing.assert_array_equal(pipe.score_samples(images), expected)


def test_a_cache_that_is_deleted_meanwhile_is_filled_again(images, tmp_path):
    pipe = cached_pipe(tmp_path / "cache").fit(images[:6])
    features = pipe[0].transform(images)
    expected = features.store()
    shutil.rmtree(tmp_path / "cache")
    again = features.store()
    np.testing.assert_array_equal(again.arrays()["energies"], expected.arrays()["energies"])
    assert len([p for p in (tmp_path / "cache").rglob("*") if p.is_file()]) == 10


def test_every_damaged_entry_is_made_again(images, tmp_path):
    pipe = cached_pipe(tmp_path / "cache").fit(images[:6])
    expected = pipe.score_samples(images)
    for path in (tmp_path / "cache").glob("*/*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged.*computed again"):
        assert np.array_equal(pipe.score_samples(images), expected)
    assert np.array_equal(pipe.score_samples(images), expected)  # of sound entries, no warning


def test_an_image_that_changes_while_it_is_read(images, tmp_path):
    """Features are kept under the content that they are of, not the one seen before."""
    path = tmp_path / "camera.png"
    pipe = cached_pipe(tmp_path / "cache").fit(images[:6])
    plain = cached_pipe(None).fit(images[:6])
    save(path, images[7])
    first = pipe[0].transform([str(path), images[0]])
    before = first.keys.copy()
    save(path, images[8])  # after it was hashed, before it is read
    new = plain.score_samples([images[8], images[0]])
    np.testing.assert_allclose(pipe[1].score_samples(first), new, rtol=1e-6)
    assert first.keys[0] != before[0] and first.keys[1] == before[1]
    save(path, images[7])
    old = plain.score_samples([images[7], images[0]])
    for _ in range(2):
        np.testing.assert_allclose(pipe.score_samples([str(path), images[0]]), old, rtol=1e-6)


def test_filters_are_kept_under_the_images_that_they_are_learned_from(
    images, tmp_path, monkeypatch
):
    path, folder = tmp_path / "camera.png", tmp_path / "cache"
    save(path, images[7])
    collection = [*images[:5], str(path)]
    learn = FilterBank._learn

    def learn_late(self, *args):
        save(path, images[8])
        return learn(self, *args)

    monkeypatch.setattr(FilterBank, "_learn", learn_late)
    late = FilterBank(image_size=64, random_state=0, cache=folder).fit(collection)
    monkeypatch.undo()
    plain = FilterBank(image_size=64, random_state=0).fit([*images[:5], images[8]])
    np.testing.assert_array_equal(late.mean_, plain.mean_)
    save(path, images[7])
    again = FilterBank(image_size=64, random_state=0, cache=folder).fit(collection)
    plain.fit([*images[:5], images[7]])
    np.testing.assert_array_equal(again.mean_, plain.mean_)


def test_leftovers_of_a_cache_are_removed(tmp_path, gone):
    (tmp_path / left_by(gone)).write_bytes(b"half")
    (tmp_path / temporary_name()).write_bytes(b"being written")
    open_cache(tmp_path)
    assert len(names(tmp_path)) == (2 if sys.platform == "win32" else 1)


def test_images_are_read_on_in_order_whatever_is_kept(images, tmp_path):
    pipe = cached_pipe(tmp_path / "cache").fit(images[:6])
    plain = cached_pipe(None).fit(images[:6])
    mixed = [images[i] for i in (9, 0, 9, 8, 3, 8, 7)]  # some are kept, some are there twice
    np.testing.assert_allclose(pipe.score_samples(mixed), plain.score_samples(mixed), rtol=1e-6)


# --- files and folders ------------------------------------------------------------------------


def test_only_what_processes_that_are_gone_have_left_is_removed(tmp_path, gone, monkeypatch):
    old = time.time() - 100_000
    foreign = temporary_name().replace(_atomic._machine(), "00000000")
    for name, written in (
        (left_by(gone), None), (temporary_name(), None), (foreign, None),
        (foreign.replace("00000000", "00000001"), old), (".unfinished-0123456789ab", old),
        (".unfinished-0123456789ac", None), (".unfinished-notes.txt", old),
        (temporary_name()[:-1] + "x", old),
    ):  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
        if written:
            os.utime(tmp_path / name, (written, written))
    remove_leftovers(tmp_path)
    n_left = 6 if sys.platform == "win32" else 5
    assert len(names(tmp_path)) == n_left
    assert {".unfinished-0123456789ac", ".unfinished-notes.txt", foreign} <= set(names(tmp_path))
    # A container may give the same number to every process that it starts.
    monkeypatch.setattr(_atomic, "_STARTED", time.time() + 5)
    remove_leftovers(tmp_path)
    assert len(names(tmp_path)) == (n_left if sys.platform == "win32" else n_left - 1)


@posix
def test_a_killed_writer_leaves_the_old_file_and_the_next_one_cleans_up(tmp_path):
    path = tmp_path / ("long" * 60 + ".txt")  # as long as names may be, about
    path.write_text("old")

    def write():
        with atomic_file(path) as unfinished_file:
            unfinished_file.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(write) == -signal.SIGKILL
    assert path.read_text() == "old" and len(names(tmp_path)) == 2
    with atomic_file(path) as unfinished_file:
        unfinished_file.write_text("new")
    assert names(tmp_path) == [path.name] and path.read_text() == "new"


RESULTS = {  # of two runs: the names of the heat maps and what all files say
    "old": ["a.png", "b.png"],
    "new": ["b.png", "c.png", "d.png"],
}


def write_results(folder, generation):
    with atomic_folder(folder, index="scores.csv", listed=listed_heat_maps) as unfinished:
        rows = [f"{name},1,{generation},{name}\n" for name in RESULTS[generation]]
        for name in RESULTS[generation]:
            (unfinished / name).write_text(generation)
        (unfinished / "scores.csv").write_text("name,score,verdict,heat_map\n" + "".join(rows))


def check_results(folder, *, allowed):
    """A folder with an index is of one run, completely; returns which, or None."""
    if not (folder / "scores.csv").exists():
        return None
    (generation,) = {row["verdict"] for row in rows_of(folder)}
    listed = [row["heat_map"] for row in rows_of(folder)]
    assert generation in allowed and listed == RESULTS[generation]
    assert {(folder / name).read_text() for name in listed} == {generation}
    return generation


@posix
def test_killed_at_any_step_a_folder_is_of_one_run(tmp_path, monkeypatch):
    """A kill before each call that changes a folder, one after the other."""
    monkeypatch.setattr(_atomic, "_is_running", lambda process: process == os.getppid())
    seen = set()
    for step in range(100):
        folder = tmp_path / str(step)
        folder.mkdir()
        (folder / "notes.txt").write_text("mine")
        write_results(folder, "old")
        assert names(folder) == ["a.png", "b.png", "notes.txt", "scores.csv"]

        def killed_write(folder=folder, step=step):
            left = [step]

            def counted(call):
                def counting(*args, **options):
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    left[0] -= 1
                    return call(*args, **options)

                return counting

            for name in ("replace", "unlink", "rename", "mkdir", "rmdir"):
                setattr(os, name, counted(getattr(os, name)))
            write_results(folder, "new")
            os._exit(0)

        is_killed = in_child(killed_write) != 0
        seen.add(check_results(folder, allowed=("old", "new")))
        assert (folder / "notes.txt").read_text() == "mine"
        if not is_killed:
            break
        with atomic_folder(folder, index="scores.csv", listed=listed_heat_maps) as unfinished:
            seen.add(found := check_results(folder, allowed=("old", "new")))
            assert found is not None  # the next one has finished it
            assert len(names(folder)) == 2 + len(RESULTS[found]) + 1
            shutil.copy(folder / "scores.csv", unfinished)
            for name in RESULTS[found]:
                shutil.copy(folder / name, unfinished)
        assert names(folder) == sorted([*RESULTS[found], "notes.txt", "scores.csv"])
    assert 10 < step < 99 and seen == {"old", "new", None}
    assert check_results(folder, allowed=["new"]) == "new"


def test_ctrl_c_while_files_are_moved_is_too_late(tmp_path, monkeypatch):
    write_results(tmp_path, "old")
    replace, calls = os.replace, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(*args)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_results(tmp_path, "new")
    assert check_results(tmp_path, allowed=["new"]) == "new"
    assert names(tmp_path) == ["b.png", "c.png", "d.png", "scores.csv"]


def test_a_folder_in_the_way_of_a_file_is_refused_before_anything_is_moved(tmp_path):
    write_results(tmp_path, "old")
    (tmp_path / "d.png").mkdir()
    with pytest.raises(IsADirectoryError, match=r"d\.png: expected a file to replace"):
        write_results(tmp_path, "new")
    assert check_results(tmp_path, allowed=["old"]) == "old"
    assert names(tmp_path) == ["a.png", "b.png", "d.png", "scores.csv"]


def test_a_table_of_somebody_else_lists_no_heat_maps(tmp_path):
    path = tmp_path / "scores.csv"
    for content in ("name,points\nme,3\n", "", "\0", "name,score,verdict,heat_map\na,1\n"):
        path.write_text(content)
        assert listed_heat_maps(path) == []
    path.write_text(
        "name,score,verdict,heat_map\na,1,good,../a.png\nb,1,good,b.txt\nc,1,good,c.png"
    )
    assert listed_heat_maps(path) == ["c.png"]


def test_errors_of_disks_are_named_and_those_of_images_are_left_alone(tmp_path):
    with pytest.raises(OSError, match=r"cannot be written: No space.*'scores\.csv'"):
        with name_disk_errors("scores.csv"):
            no_space()
    with pytest.raises(ImageError, match="no such image file"), name_disk_errors("scores.csv"):
        Report().add(tmp_path / "gone.png", np.zeros((8, 8)), 0.1, name="gone")


def test_a_full_disk_shows_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "write_bytes", no_space)
    with pytest.raises(OSError, match="cannot be written: No space"), atomic_file(tmp_path / "a"):
        pytest.fail("no space for the result")
    with pytest.raises(OSError, match="cannot be written: No space"), atomic_folder(tmp_path / "b"):
        pytest.fail("no space for the results")
    assert names(tmp_path) == []


# --- checkpoints ------------------------------------------------------------------------------


def train(path, n_epochs=2):
    torch.manual_seed(0)
    network = torch.nn.Linear(4, 4)
    config = training.TrainingConfig(
        n_epochs=n_epochs, checkpoint=path, identity="ours", device="cpu"
    )
    training.fit(
        network, lambda batch: network(batch).square().mean(), lambda _: [torch.eye(4)], config
    )
    return network.weight.detach().numpy()


def test_no_changed_byte_of_a_checkpoint_is_read_over(tmp_path):
    path = tmp_path / "checkpoint.pt"
    train(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.choice(len(whole), 40, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(DamagedFileError, match=r"checkpoint\.pt: .*delete it"):
            train(path, n_epochs=3)
    path.write_bytes(whole[:-1])
    with pytest.raises(DamagedFileError, match="damaged"):
        train(path, n_epochs=3)
    path.write_bytes(whole)
    np.testing.assert_array_equal(train(path, n_epochs=3), train(None, n_epochs=3))


# --- commands ---------------------------------------------------------------------------------


def test_inspections_into_one_folder_leave_the_last_one(part, detector, tmp_path):
    out = tmp_path / "out"
    new = part / "test"
    assert run("inspect", detector, new / "good", "-o", out) == 0
    earlier = set(names(out))
    (out / "notes.txt").write_text("mine")
    assert run("inspect", detector, new / "hole", "-o", out) == 1
    listed = {row["heat_map"] for row in rows_of(out)}
    assert set(names(out)) == {"notes.txt", "scores.csv", *listed}
    assert not listed & earlier
    assert run("inspect", detector, new / "hole", "-o", out, "--no-maps") == 1
    assert names(out) == ["notes.txt", "scores.csv"]


def test_a_report_inside_the_folder_comes_with_the_scores(part, detector, tmp_path, monkeypatch):
    pytest.importorskip("jinja2")
    out = tmp_path / "out"
    arguments = "inspect", detector, part / "test" / "good", "-o", out, "--report", out / "r.html"
    assert run(*arguments) == 0
    before = {name: (out / name).read_bytes() for name in names(out)}
    assert "r.html" in before
    monkeypatch.setattr(FolderResults, "finish", no_space)
    assert run(*arguments) == 2
    assert {name: (out / name).read_bytes() for name in names(out)} == before


def test_a_full_disk_is_an_error_that_names_the_file(part, detector, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("skanomaly.cli._results.save_score_map", lambda *args, **kw: no_space())
    assert run("inspect", detector, part / "test" / "good", "-o", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert "No space left" in error and str(tmp_path / "out" / "012.png") in error
    assert names(tmp_path) == []


@posix
def test_names_that_are_not_utf_8(part, detector, tmp_path, capsys):
    name = os.fsdecode(b"gepr\xfcft.png")
    try:
        shutil.copy(part / "test" / "good" / "012.png", tmp_path / name)
    except OSError:
        pytest.skip("the disk takes no such names")
    out = tmp_path / "out"
    assert run("inspect", detector, tmp_path, "-o", out, "--json") == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert os.path.exists(record["name"]) and record["name"].endswith(name)
    (row,) = rows_of(out)
    assert row["name"].endswith(r"gepr\udcfcft.png") and row["heat_map"] == "gepr_ft.png"
    with Image.open(out / row["heat_map"]) as written:
        assert written.size[1] == 64


def test_heat_map_names_are_names_on_every_system():
    images = [
        "a:b?.png", "con.png", "Lpt1.x.png", "A.png", "a.jpg", "e\u0301.png", "\u00e9.jpg",
        "é" * 125 + ".png", "tab\t.png", ".png",
    ]  # fmt: skip
    expected = [
        "a_b_.png", "_con.png", "_Lpt1.x.png", "_A.png", "_a-2.png", "_e\u0301.png",
        "_\u00e9-2.png", "é" * 100 + ".png", "tab_.png", ".png.png",
    ]  # fmt: skip
    assert _heat_map_names(images) == expected
    many = _heat_map_names([f"{day}/camera/1.png" for day in range(3000)])
    assert len(set(many)) == 3000 and many[:2] == ["camera_1.png", "camera_1-2.png"]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_output_is_escaped_where_an_encoding_lacks_a_character(encoding, monkeypatch):
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(_main._check, "run", lambda options: sys.stdout.write("\u51fa\udcfc\n") - 3)
    assert run("check", "anything") == 0
    assert written.getvalue() == rb"\u51fa\udcfc" + os.linesep.encode()
    assert stream.errors == "strict"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_to_a_full_disk_is_an_error(part):
    command = [sys.executable, "-m", "skanomaly", "check", str(part), "-q"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "No space left" in done.stderr
    assert done.stderr.count("\n") == 1


@posix
def test_pipes_and_devices_are_neither_read_nor_replaced(part, detector, tmp_path, capsys):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    assert run("inspect", detector, pipe, "-o", tmp_path / "out", "--strict") == 2
    assert "got a named pipe" in capsys.readouterr().err
    assert run("inspect", pipe, part / "test" / "good", "-o", tmp_path / "out") == 2
    assert run("fit", part, "-o", pipe) == 2
    assert "expected a file to write to, got a device, a pipe" in capsys.readouterr().err
    assert names(tmp_path) == ["pipe.png"] and pipe.is_fifo()


def test_an_older_detector_file_needs_trust(part, detector, tmp_path, capsys):
    import joblib

    import skanomaly

    pickled = tmp_path / "part.joblib"
    joblib.dump(skanomaly.load(detector), pickled)
    new = part / "test" / "good"
    assert run("inspect", pickled, new, "--json") == 2
    assert "pickle" in capsys.readouterr().err
    assert run("inspect", pickled, new, "--json", "--trust-pickle") == 0
    assert run("evaluate", pickled, part, "--json", "--trust-pickle") == 0


def test_score_maps_of_a_few_images_are_held_at_a_time(part, detector, monkeypatch, capsys):
    """Whatever their number is: as many as fit into some megabytes, but for a single one."""
    import skanomaly

    model = skanomaly.load(detector)
    images = [str(path) for path in sorted((part / "test").rglob("*.png"))]
    options = _main._parser().parse_args(["inspect", str(detector), *images, "-q"])
    expected = model.decision_function(images)
    n_bytes = 4 * 64 * 64
    for limit, sizes in ((n_bytes * 2, [2, 2, 1]), (1, [1] * 5), (n_bytes * 9, [5])):
        monkeypatch.setattr(unwrapping, "MAP_BYTES", limit)
        found = list(_predictions.predict(model, images, options))
        assert [len(some) for some in found] == sizes
        decisions = [one.decision for some in found for one in some]
        np.testing.assert_allclose(decisions, expected, rtol=1e-6, atol=1e-6)


def test_images_are_read_as_they_come_by_detectors_on_images(part, monkeypatch):
    """Their sizes are not known before."""
    from cli_parts import MeanImage

    from skanomaly.model_selection import HeldOutThreshold

    images = [str(path) for path in sorted((part / "train").rglob("*.png"))]
    pipe = Pipeline([("detector", MeanImage())])
    model = HeldOutThreshold(pipe, target_fpr=0.2, cv=2).fit(images)
    options = _main._parser().parse_args(["inspect", "a", "b", "-q"])
    monkeypatch.setattr(unwrapping, "MAP_BYTES", 3 * 4 * 64 * 64)
    sizes = [len(some) for some in _predictions.predict(model, images, options)]
    assert sizes == [1, 3, 3, 3, 2]


def test_full_views_of_a_report_move_to_disk(monkeypatch, tmp_path):
    pytest.importorskip("jinja2")
    image, score_map = np.zeros((40, 60), np.uint8), np.eye(40, 60)
    pages = []
    for limit in (1 << 20, 10):
        monkeypatch.setattr(_images, "_SPOOL_BYTES", limit)
        report = Report(vmin=0, vmax=1)
        for i in range(4):
            report.add(image + 9 * i, score_map, 0.1, name=f"{i}")
        assert report._spool._file._rolled == (limit == 10)
        pages.append([report.save(tmp_path / "r.html").read_text().split("<body")[1]
                      for _ in range(2)])  # fmt: skip
    assert pages[0][0] == pages[0][1] and pages[1][0] == pages[1][1]
    assert _blocks(pages[0][0]) == _blocks(pages[1][0])


def _blocks(page):
    """The images in a page."""
    return [block.split("<")[0] for block in page.split('id="')[1:]]
