"""watch: each image judged exactly once, half-written ones waited for, kills and restarts."""

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from cli_parts import SIZE, make_part, run, save
from line_parts import quick_detector
from PIL import Image

import skanomaly
from skanomaly.cli import _journal, _monitor_options, _reports, _watch
from skanomaly.model_selection import ScoreMonitor

ROOT = Path(skanomaly.__file__).parents[1]
FAST = ["--settle", "0.05", "--poll", "0.02"]
ONCE = ["--once", *FAST, "--patience", "0.2", "--quiet"]


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    return make_part(tmp_path_factory.mktemp("watch") / "part")


@pytest.fixture(scope="module")
def detector(part):
    return quick_detector(part)


@pytest.fixture(scope="module")
def images(part):
    """Paths of 6 good images and 4 defects, and 30 more good ones."""
    return sorted((part / "test").rglob("*.png")) + sorted((part / "train").rglob("*.png"))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def rows(out):
    """Rows of all CSV files, file by file."""
    found = []
    for path in sorted(out.glob("*.csv")):
        with open(path, newline="", encoding="utf-8") as file:
            found += csv.DictReader(file)
    return found


def test_rows_are_the_python_scores(images, detector, folder, out, capsys):
    for path in images[:10]:
        save(folder / path.parent.name / path.name, np.asarray(Image.open(path)))
    assert run("watch", folder, detector, "-o", out, *ONCE[:-1], "--maps", "all") == 0
    found = {row["name"]: row for row in rows(out)}
    names = [f"{path.parent.name}/{path.name}" for path in images[:10]]
    assert sorted(found) == sorted(names)
    expected = skanomaly.load(detector).decision_function([str(folder / name) for name in names])
    for name, score in zip(names, expected, strict=True):
        row = found[name]
        assert float(row["score"]) == score  # to the last digit
        assert row["verdict"] == ("defect" if score < 0 else "good")
        assert (row["error"], row["drift"]) == ("", "")
        assert int(row["n_bytes"]) == (folder / name).stat().st_size
        with Image.open(out / row["heat_map"]) as written:
            assert written.size == (2 * SIZE + 4, SIZE)
        age = datetime.now().astimezone() - datetime.fromisoformat(row["time"])
        assert timedelta() <= age < timedelta(minutes=5)
    assert len(list(out.rglob("*.png"))) == 10
    printed = capsys.readouterr().out
    assert f"10 images judged: {(expected < 0).sum()} defects, 0 could not be read" in printed
    assert printed.count("\n") == 12  # a line for each image, one before and one after


def test_a_second_start_judges_what_is_new_alone(images, detector, folder, out):
    for start in (0, 2, 4):
        for path in images[start : start + 2]:
            shutil.copy(path, folder / f"{start}{path.name}")
        assert run("watch", folder, detector, "-o", out, *ONCE) == 0
        assert len(rows(out)) == start + 2
    os.utime(folder / f"0{images[0].name}", (1, 1))  # touched, not changed
    shutil.copy(images[9], folder / f"0{images[1].name}")  # replaced
    for _ in range(2):
        assert run("watch", folder, detector, "-o", out, *ONCE) == 0
        assert [row["name"] for row in rows(out)].count(f"0{images[1].name}") == 2
        assert len(rows(out)) == 7


def test_what_is_not_an_image_is_left_alone_or_an_error(images, detector, folder, out, capsys):
    shutil.copy(images[0], folder / "good.png")
    shutil.copy(images[0], folder / ".hidden.png")
    shutil.copy(images[0], folder / "unfinished.png.part")
    (folder / "half.png").write_bytes(images[1].read_bytes()[:-100])
    (folder / "text.jpg").write_text("no image")
    (folder / "empty.png").touch()
    (folder / "folder.png").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "tiny.png")
    (folder / "link.png").symlink_to("gone.png")
    (folder / "itself.png").symlink_to("itself.png")
    (folder / "circle").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    assert run("watch", folder, detector, "-o", out, *ONCE, "--maps", "all") == 0
    found = {row["name"]: row for row in rows(out)}
    wrong = {"half.png", "text.jpg", "empty.png", "tiny.png", "pipe.png"}
    assert found.keys() == wrong | {"good.png"}
    for name in wrong:
        row = found[name]
        assert (row["verdict"], row["score"], row["heat_map"]) == ("error", "", "")
        assert row["error"].startswith(str(folder / name))
    assert "6 images judged: 0 defects, 5 could not be read" in capsys.readouterr().out
    (folder / "half.png").write_bytes(images[1].read_bytes())  # it comes late
    assert run("watch", folder, detector, "-o", out, *ONCE) == 0
    assert [row["verdict"] for row in rows(out) if row["name"] == "half.png"] == ["error", "good"]


def test_an_image_of_another_kind_costs_no_other(images, folder, out, tmp_path):
    for path in images[:2]:
        shutil.copy(path, folder)
    good = np.random.default_rng(0).uniform(size=(12, SIZE, SIZE, 2)).astype(np.float32)
    pipe = skanomaly.Pipeline(
        [
            ("features", skanomaly.FilterBank(n_filters=4, image_size=SIZE, random_state=0)),
            ("detector", skanomaly.PatchCore(random_state=0)),
        ]
    )
    model = skanomaly.model_selection.HeldOutThreshold(pipe, target_fpr=0.1).fit(good)
    skanomaly.dump(model, tmp_path / "two.skanomaly")  # of two channels, which no file has
    assert run("watch", folder, tmp_path / "two.skanomaly", "-o", out, *ONCE) == 0
    for row in rows(out):
        assert row["verdict"] == "error"
        assert row["error"].startswith(f"{folder / row['name']}: expected 2 channels, got ")


def test_names_that_are_no_utf8(images, detector, folder, out):
    try:
        shutil.copy(images[0], os.fsencode(folder) + b'/\xff,\n".png')
    except OSError:
        pytest.skip("this file system takes no such name")
    for _ in range(2):
        assert run("watch", folder, detector, "-o", out, *ONCE) == 0
        (row,) = rows(out)
        assert row["name"] == '\\udcff,\n".png' and row["verdict"] == "good"


@pytest.mark.parametrize("name", ["=1+1.png", "-2.png", "'=3.png", "''@4.png", "'plain.png"])
def test_names_that_a_spreadsheet_takes_for_formulas(images, detector, folder, out, name):
    shutil.copy(images[0], folder / name)
    for _ in range(2):  # the second start knows it by its name
        assert run("watch", folder, detector, "-o", out, *ONCE, "--maps", "all") == 0
        (row,) = rows(out)
        assert row["name"] == (name if name == "'plain.png" else f"'{name}")


def test_the_output_may_lie_in_the_watched_folder(images, detector, folder):
    shutil.copy(images[9], folder)
    for _ in range(2):
        assert run("watch", folder, detector, "-o", folder / "out", *ONCE, "--maps", "all") == 0
        assert len(rows(folder / "out")) == 1
    assert run("watch", folder, detector, "-o", folder, *ONCE) == 2


def test_files_of_n_rows(images, detector, folder, out):
    for n in (4, 8):
        for path in images[:n]:
            shutil.copy(path, folder / f"{path.parent.name}{path.name}")
        assert run("watch", folder, detector, "-o", out, *ONCE, "--roll", 3) == 0
    sizes = [len(path.read_text().splitlines()) - 1 for path in sorted(out.glob("*.csv"))]
    assert [path.name for path in sorted(out.glob("*.csv"))] == [f"00000{i}.csv" for i in (1, 2, 3)]
    assert sizes == [3, 3, 2] and len({row["name"] for row in rows(out)}) == 8


def test_a_file_for_each_day(images, detector, folder, out, monkeypatch):
    class Clock(datetime):
        day = 1

        @classmethod
        def now(cls, *_):
            return datetime(2031, 5, cls.day, 23, 59)

    monkeypatch.setattr(_journal, "datetime", Clock)
    for day in (1, 2):
        Clock.day = day
        shutil.copy(images[day], folder)
        assert run("watch", folder, detector, "-o", out, *ONCE) == 0
    assert [path.name for path in sorted(out.glob("*.csv"))] == ["2031-05-01.csv", "2031-05-02.csv"]
    assert [row["name"] for row in rows(out)] == [images[1].name, images[2].name]


def test_reports_roll_over(images, detector, folder, out, monkeypatch):
    pytest.importorskip("jinja2")
    monkeypatch.setattr(_reports, "MAX_IMAGES", 2)
    for path in images[:8]:
        shutil.copy(path, folder / f"{path.parent.name}-{path.name}")
    options = [*ONCE, "--roll", 5, "--report", "all"]
    assert run("watch", folder, detector, "-o", out, *options) == 0
    pages = {path.name: path.read_text() for path in out.glob("*.html")}
    assert sorted(pages) == [
        *("000001-2.html", "000001-3.html", "000001.html"),
        *("000002-2.html", "000002.html"),
    ]
    for row in rows(out):
        assert sum(f'"{folder / row["name"]}"' in page for page in pages.values()) == 1
    shutil.copy(images[8], folder / "late.png")  # after another start: a report of its own
    assert run("watch", folder, detector, "-o", out, *options) == 0
    assert "late.png" in (out / "000002-3.html").read_text()


@pytest.mark.parametrize("seconds", [0, 60])
def test_a_report_is_saved_while_it_grows(images, detector, folder, out, monkeypatch, seconds):
    pytest.importorskip("jinja2")
    monkeypatch.setattr(_reports, "SAVE_SECONDS", seconds)
    shutil.copy(images[9], folder)
    save_if_due, seen = _watch._Line.save_if_due, []

    def save_and_look(line):
        save_if_due(line)
        seen.append(len(list(out.glob("*.html"))))

    monkeypatch.setattr(_watch._Line, "save_if_due", save_and_look)
    assert run("watch", folder, detector, "-o", out, *ONCE, "--report", "defects") == 0
    assert (seen[0], seen[-1]) == (0, int(seconds == 0))
    assert len(list(out.glob("*.html"))) == 1  # at the end in any case


def test_drift_is_said_and_goes_on_after_a_restart(
    images, detector, folder, out, capsys, monkeypatch
):
    monkeypatch.setattr("skanomaly.model_selection._monitor.N_RUNS", 2000)
    dark = [np.asarray(Image.open(path)) // 2 for path in images[10:]]
    runs = [dark[:4], dark[4:8], dark[8:]]
    for n, some in enumerate(runs):
        for i, image in enumerate(some):
            save(folder / f"{n}-{i:03d}.png", image)
            time.sleep(0.002)
        options = [*ONCE, "--monitor", "--monitor-rate", "0.5"]
        assert run("watch", folder, detector, "-o", out, *options) == 0
    found = rows(out)
    model = skanomaly.load(detector)
    monitor = ScoreMonitor(false_alarm_rate=0.5).fit(model.oof_scores_ - model.offset_)
    assert monitor.update([float(row["score"]) for row in found])
    alarms = [(i, row["drift"]) for i, row in enumerate(found, start=1) if row["drift"]]
    assert alarms == monitor.alarms_ and alarms[0][1] == "lower"
    assert capsys.readouterr().err.count("note: drift: at ") == len(alarms)


class Process:
    """A watch of its own, which handles signals already."""

    def __init__(self, folder, detector, out, *options):
        command = [sys.executable, "-m", "skanomaly", "watch", folder, detector, "-o", out]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            list(map(str, [*command, *FAST, *options])),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for printed in self.process.stdout:
            if printed.startswith("watching "):
                break

    def stop(self, number):
        self.process.send_signal(number)
        printed, _ = self.process.communicate(timeout=300)
        return self.process.returncode, printed


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


def drop(folder, contents, rng, seconds=0.15):
    """Write files, half of them in two halves with a pause, and some under another name first."""
    for name, content in contents.items():
        path = folder / name
        way = rng.choice(["halves", "renamed", "whole"])
        if way == "renamed":
            (folder / f".{name}").write_bytes(content)
            (folder / f".{name}").rename(path)
        elif way == "halves":
            with open(path, "wb", buffering=0) as file:
                file.write(content[: len(content) // 2])
                time.sleep(rng.uniform(0, seconds))
                file.write(content[len(content) // 2 :])
        else:
            path.write_bytes(content)
        time.sleep(rng.uniform(0, 0.02))


def test_each_is_judged_once_though_killed_and_stopped(images, detector, folder, out):
    rng, expected = random.Random(0), {}
    for i in range(60):
        image = np.asarray(Image.open(images[i % 40])).copy()
        image[0, 0] = i  # no two are the same
        expected[f"{i:03d}.png"] = image
    contents = {}
    for name, image in expected.items():
        save(folder.parent / "spare" / name, image)
        contents[name] = (folder.parent / "spare" / name).read_bytes()
    dropper = threading.Thread(target=drop, args=(folder, contents, rng))
    watch = Process(folder, detector, out)
    dropper.start()
    try:
        for n_rows, number in ((10, signal.SIGKILL), (30, signal.SIGTERM)):
            wait_for(lambda n_rows=n_rows: len(rows(out)) >= n_rows)
            code, printed = watch.stop(number)
            assert code == (-9 if number == signal.SIGKILL else 0), printed
            if number != signal.SIGKILL:
                assert "images judged:" in printed
            watch = Process(folder, detector, out)
        wait_for(lambda: len(rows(out)) >= 60)
    finally:
        dropper.join()
        code, printed = watch.stop(signal.SIGINT)
    assert code == 0, printed
    found = rows(out)
    assert sorted(row["name"] for row in found) == sorted(expected)
    scores = skanomaly.load(detector).decision_function([expected[row["name"]] for row in found])
    np.testing.assert_allclose([float(row["score"]) for row in found], scores, rtol=1e-5, atol=1e-6)


def test_a_row_that_is_cut_off_is_written_again(images, detector, folder, out):
    for path in images[:3]:
        shutil.copy(path, folder)
    assert run("watch", folder, detector, "-o", out, *ONCE) == 0
    (file,) = out.glob("*.csv")
    whole = file.read_bytes()
    for left in (len(whole) - 5, whole.find(b"\r\n") - 3):  # of the last row, of the header
        file.write_bytes(whole[:left])
        assert run("watch", folder, detector, "-o", out, *ONCE) == 0
        assert sorted(row["name"] for row in rows(out)) == sorted(p.name for p in images[:3])
        assert file.read_bytes().count(b"\r\n") == 4


def test_a_row_is_written_whole_though_the_disk_takes_parts(tmp_path):
    class Disk:
        def __init__(self, file):
            self.file, self.fileno, self.close = file, file.fileno, file.close

        def write(self, content):
            return self.file.write(content[:7])

    journal = _journal.Journal(tmp_path, None)
    row = _journal.Row("2031-05-01T00:00:00+00:00", *"abcdefg", 1, 2, "h")._replace(score=0.5)
    journal.start_period()
    journal.file = Disk(journal.file)
    for _ in range(2):
        journal.append(row)
    assert journal.read() == [row, row]
    journal.close()


def test_a_full_disk_loses_no_row(images, detector, folder, out, monkeypatch, capsys):
    for path in images[:4]:
        shutil.copy(path, folder)
    n_left, fsync = [2], os.fsync

    def full(number):
        n_left[0] -= 1
        if n_left[0] < 0:
            raise OSError(28, "No space left on device")
        fsync(number)

    monkeypatch.setattr(_journal.os, "fsync", full)
    assert run("watch", folder, detector, "-o", out, *ONCE, "--maps", "none") == 2
    error = capsys.readouterr().err
    assert ".csv: " in error or "free disk space" in error
    monkeypatch.undo()
    assert run("watch", folder, detector, "-o", out, *ONCE) == 0
    assert sorted(row["name"] for row in rows(out)) == sorted(path.name for path in images[:4])


def test_two_do_not_write_into_one_folder(images, detector, folder, out, capsys):
    shutil.copy(images[0], folder)
    out.mkdir()
    lock = _journal._lock(out / _journal._LOCK)
    assert run("watch", folder, detector, "-o", out, *ONCE) == 2
    assert "another skanomaly watch writes there" in capsys.readouterr().err
    lock.close()
    assert run("watch", folder, detector, "-o", out, *ONCE) == 0


def test_a_folder_that_vanishes(images, detector, folder, out, capsys, monkeypatch):
    shutil.copy(images[0], folder)
    judge = _watch._Line.judge

    def judge_and_remove(line, batch):
        shutil.rmtree(folder)
        return judge(line, batch)

    monkeypatch.setattr(_watch._Line, "judge", judge_and_remove)
    assert run("watch", folder, detector, "-o", out, *FAST) == 2
    assert "the watched folder is gone" in capsys.readouterr().err
    assert len(rows(out)) == 1


def test_a_file_that_vanishes_is_no_error(images, detector, folder, out, monkeypatch):
    for path in images[:2]:
        shutil.copy(path, folder)
    stat, gone = os.stat, folder / images[0].name

    def stat_and_remove(path, *rest, **options):
        if str(path) == str(gone):
            gone.unlink(missing_ok=True)
        return stat(path, *rest, **options)

    monkeypatch.setattr("skanomaly.cli._arrivals.os.stat", stat_and_remove)
    assert run("watch", folder, detector, "-o", out, *ONCE) == 0
    assert [row["name"] for row in rows(out)] == [images[1].name]


def test_bad_input(images, detector, folder, out, capsys):
    def error(*arguments):
        assert run("watch", *arguments) == 2
        return capsys.readouterr().err

    assert "expected a folder to watch" in error(folder / "gone", detector, "-o", out)
    assert "no such detector file" in error(folder, folder / "gone", "-o", out)
    assert "not a file of skanomaly.dump" in error(folder, images[0], "-o", out)
    assert '--roll must be "day"' in error(folder, detector, "-o", out, "--roll", 0)
    assert "--settle must be at least 0" in error(folder, detector, "-o", out, "--settle", -1)
    options = ["-o", out, "--monitor", "--monitor-rate", 2]
    assert "false_alarm_rate" in error(folder, detector, *options)
    (out / "2020-01-01.csv").write_text("name,score\r\n")
    assert "not a file of skanomaly watch" in error(folder, detector, "-o", out)
    for header in ("name,score", ",".join(_journal.COLUMNS)):  # of somebody else: not emptied
        (out / "2020-01-01.csv").write_bytes(f"{header}\na,b\n".encode())
        assert "not a file of skanomaly watch" in error(folder, detector, "-o", out)
        assert (out / "2020-01-01.csv").read_bytes() == f"{header}\na,b\n".encode()
    for line, words in ((b"a,b", "expected 11 columns, got 2"), (b"\xff", "can't decode")):
        content = ",".join(_journal.COLUMNS).encode() + b"\r\n" + line + b"\r\n"
        (out / "2020-01-01.csv").write_bytes(content)
        message = error(folder, detector, "-o", out)
        assert "2020-01-01.csv: line " in message and words in message


def test_a_second_signal_interrupts():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with _watch._stopping() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        stop.wait(300)  # no longer
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_models_of_folds_say_nothing_about_scores_that_rise(monkeypatch):
    monkeypatch.setattr("skanomaly.model_selection._monitor.N_RUNS", 2000)

    class Options:
        monitor, monitor_rate = True, 0.5

    class Model:
        method_ = "folds"

    scores = np.arange(20.0)
    assert _monitor_options.make_monitor(Options, Model, scores).alternative == "less"
    Model.method_ = "leave_one_out"
    assert _monitor_options.make_monitor(Options, Model, scores).alternative == "two-sided"
