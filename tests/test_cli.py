"""The command line as a whole: help, exit codes, the registry, bad input, and Ctrl-C."""

import os
import pickle
import signal
import subprocess
import sys
import time
import tomllib
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pytest
from cli_parts import NEW_DETECTORS, SIZE, fit, make_part, run, unfinished

import skanomaly
from skanomaly import registry
from skanomaly.cli import _check, _main
from skanomaly.io import atomic_file, atomic_folder

ROOT = Path(skanomaly.__file__).parents[1]


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    return make_part(tmp_path_factory.mktemp("cli") / "part")


@pytest.fixture(scope="module")
def detector(part):
    return fit(part)


def test_fit_uses_the_good_training_images(part, detector):
    model = skanomaly.load(detector)
    assert len(model.good_images_) == 30
    assert model.target_fpr == 0.1 and model.cv == 2 and model.verbose == 0
    assert len(model.seen_images_) == 30
    assert str(part).encode() not in pickle.dumps(model)  # no path of the machine that made it


@pytest.mark.parametrize("name", ["padim", "spade", "regad"])
def test_fit_with_other_detectors(part, name, tmp_path):
    file = tmp_path / "part.skanomaly"
    options = ["--image-size", "64", "--target-fpr", "0.1", "--folds", "2"]
    assert run("fit", part, "-o", file, "--detector", name, *options) == 0
    detector = skanomaly.load(file).estimator_[-1]
    assert type(detector).__name__.lower() == name
    assert run("inspect", file, part / "test" / "hole", "-o", tmp_path / "out") == 1


def test_the_commands_defaults_are_those_of_the_detectors_but_for_a_few():
    from skanomaly.cli._pipelines import detector_defaults, make_detector

    changed = {"SPADE": {"n_neighbors": 20, "image_score": "map_max"}}
    assert detector_defaults(20) == changed
    assert detector_defaults(99)["SPADE"]["n_neighbors"] == 50
    for entry in registry.DETECTORS:
        detector = make_detector(entry.command, 3, 20)
        assert type(detector) is entry.load()
        expected = type(detector)().get_params(deep=False) | changed.get(entry.name, {})
        if "random_state" in expected:
            expected["random_state"] = 3
        assert detector.get_params(deep=False) == expected


def test_options_reach_detectors_that_take_images(part, tmp_path):
    file = tmp_path / "part.skanomaly"
    options = ["--image-size", SIZE, "--resize", "pad", "--target-fpr", "0.1", "--folds", "2"]
    assert run("fit", part, "-o", file, "--detector", "regad", *options) == 0
    model = skanomaly.load(file)
    assert model.estimator_[-1].resize == "pad" and model.estimator_[-1].image_size == SIZE
    assert set(model.estimator_.named_steps) == {"detector"}


@pytest.mark.parametrize("entry", NEW_DETECTORS, ids=lambda entry: entry.command)
def test_a_detector_needs_nothing_but_a_line_in_the_registry(
    part, entry, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(registry, "DETECTORS", (*registry.DETECTORS, entry))
    file = tmp_path / "part.skanomaly"
    options = ["--image-size", SIZE, "--target-fpr", "0.1", "--folds", "2", "--random-state", "7"]
    assert run("fit", part, "-o", file, "--detector", entry.command, *options) == 0
    model = skanomaly.load(file)
    detector = model.estimator_.named_steps["detector"]
    assert type(detector) is entry.load() and detector.image_score == "paper"
    assert getattr(detector, "random_state", 7) == 7
    steps = ["detector"] if entry.takes == "images" else ["features", "detector"]
    assert list(model.estimator_.named_steps) == steps
    assert model.estimator_[0].image_size == SIZE
    assert run("inspect", file, part / "test" / "hole", "-o", tmp_path / "out") in (0, 1)

    grid, best = tmp_path / "grid.toml", tmp_path / "best.skanomaly"
    text = f'detector = "{entry.command}"\ncv = 2\nsynthetic = true\ntarget_fpr = 0.2\n'
    grid.write_text(text + f"[grid.{steps[0]}]\nimage_size = [{SIZE}]\n")
    with open(grid, "a") as file:
        file.write("sigma = [0, 4]\n" if len(steps) == 1 else "[grid.detector]\nsigma = [0, 4]\n")
    assert run("tune", part, "--grid", grid, "-o", best) == 0
    assert type(skanomaly.load(best).estimator_[-1]) is entry.load()

    capsys.readouterr()
    for option in ("--coreset-ratio", "0.1"), ("--resize", "pad"), ("--features", "resnet18"):
        if option[0] == "--coreset-ratio" or entry.takes == "images":
            arguments = ["fit", part, "--detector", entry.command, *option]
            assert run(*arguments, "-o", tmp_path / "no.skanomaly") == 2
            expected = f"{option[0]} is not an option of --detector {entry.command}"
            assert expected in capsys.readouterr().err


def test_an_unknown_detector_is_refused(part, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run("fit", part, "--detector", "patchwork", "-o", tmp_path / "part.skanomaly")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "invalid choice: 'patchwork'" in error and "global_local" in error


def test_demo(tmp_path, capsys):
    assert run("demo", "-o", tmp_path / "demo") == 0
    printed = capsys.readouterr().out
    image_auroc = float(printed.split("image AUROC ")[1].split()[0])
    pixel_auroc = float(printed.split("pixel AUROC ")[1].split()[0])
    assert image_auroc > 0.95 and pixel_auroc > 0.9
    assert (tmp_path / "demo" / "overview.png").is_file()
    assert len(list((tmp_path / "demo").glob("*_*.png"))) == 40


def test_errors_are_one_sentence_and_code_2(part, detector, tmp_path, capsys):
    not_one = tmp_path / "text.skanomaly"
    not_one.write_text("no detector")
    foreign, pickled = tmp_path / "foreign.skanomaly", tmp_path / "part.joblib"
    skanomaly.dump({"a": 1}, foreign)
    joblib.dump(skanomaly.load(detector), pickled)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    new, out = part / "test" / "hole", tmp_path / "o"
    cases = [
        (("inspect", not_one, new), "damaged, or not a file of skanomaly.dump"),
        (("inspect", pickled, new), "is a pickle, as joblib.dump writes it"),
        (("inspect", foreign, new), "expected a detector written by fit or tune, got dict"),
        (("inspect", tmp_path / "none", new), "no such detector file"),
        (("inspect", detector, tmp_path / "gone.png", "-o", out), "no such image file"),
        (("inspect", detector, new, broken, "-o", out, "--strict"), "broken.png: not an image"),
        (("inspect", detector, new, "-o", in_the_way / "x"), "cannot be created"),
        (("inspect", detector, new, "--good", part, "-o", out), "add --report out.html"),
        (("evaluate", detector, tmp_path / "nowhere"), "nowhere: expected a folder"),
        (("evaluate", detector, part / "train"), "expected good and defective test images"),
        (("evaluate", foreign, part), "expected a detector written by fit or tune"),
        (("check", tmp_path / "nowhere"), "nowhere: expected a folder"),
        (("demo", "-o", in_the_way), "cannot be created"),
        (("demo", "-o", tmp_path / "d", "--kind", "felt"), "felt"),
        (("fit", tmp_path / "nowhere"), "nowhere: expected a folder"),
        (("fit", part.parent, "-o", out), "Supported layouts: 1. train/good"),
        (("fit", part, "-o", tmp_path / "no" / "folder.skanomaly"), "there is no folder"),
        (("fit", part, "-o", tmp_path), "got a folder"),
        (("fit", part, "--features", "resnet19", "-o", out), "torchvision classification"),
        (("fit", part, "--target-fpr", "2", "-o", out), "'target_fpr' parameter"),
        (("fit", part, "--folds", "1", "-o", out), "n_splits"),
        (("fit", part, "--image-size", "0", "-o", out), "image_size"),
        (("fit", tmp_path / "no.csv", "-o", out), "no.csv"),
        (
            ("fit", part, "--features", "filter_bank", "--weights", "a.pth", "-o", out),
            "weights are those of a network",
        ),
        (("fit", part, "--detector", "regad", "--features", "x", "-o", out), "--features is not"),
        (("fit", part, "--detector", "regad", "--weights", "x", "-o", out), "--weights is not"),
        (
            ("fit", part, "--detector", "padim", "--coreset-ratio", "1", "-o", out),
            "--coreset-ratio is not an option of --detector padim",
        ),
    ]
    capsys.readouterr()
    for arguments, message in cases:
        assert run(*arguments) == 2, arguments
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
        assert message in captured.err, arguments
        assert not out.exists() and not (tmp_path / "d").exists(), arguments
    assert not unfinished(tmp_path)
    assert in_the_way.read_text() == ""


@pytest.mark.parametrize("command", _main.COMMANDS)
def test_help_has_examples_and_exit_codes(command, capsys):
    with pytest.raises(SystemExit) as stop:
        run(command, "--help")
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert f"  skanomaly {command} " in text and "exit codes: 0 " in text
    assert max(map(len, text.splitlines())) <= 100


def test_unknown_commands_and_the_version(capsys):
    for arguments, code in ((["--help"], 0), (["--version"], 0), (["polish"], 2), ([], 2)):
        with pytest.raises(SystemExit) as stop:
            run(*arguments)
        assert stop.value.code == code
    assert "skanomaly " in capsys.readouterr().out


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom skanomaly.cli import main\n"
        "try:\n    main(['tune', '--help'])\nexcept SystemExit:\n"
        "    print([m for m in ('torch', 'sklearn', 'numba', 'matplotlib') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert found.stdout.rstrip().endswith("[]"), found.stderr


def test_the_script_is_the_same_program():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"skanomaly": "skanomaly.__main__:main"}


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (ValueError("a\n  b"), 2, "error: a b\n"),
        (MemoryError(), 2, "error: MemoryError\n"),
    ],
)
def test_exceptions_become_exit_codes(error, code, said, monkeypatch, capsys):
    def stop(options):
        raise error

    monkeypatch.setattr(_check, "run", stop)
    assert run("check", "anything") == code
    assert capsys.readouterr() == ("", said)


def test_a_bug_prints_a_traceback_and_exits_with_2(monkeypatch, capsys):
    monkeypatch.setattr(_check, "run", lambda options: {}["missing"])
    assert run("check", "anything") == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_warning_is_a_note(part, detector, tmp_path, capsys, recwarn):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        options = ["--image-size", "64", "--target-fpr", "0.01", "-o", tmp_path / "few.skanomaly"]
        assert run("fit", part, *options) == 0  # 30 images are too few for 1 %
    assert "note: " in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to send to a process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_nothing_half_written(number, part, tmp_path):
    command = [sys.executable, "-m", "skanomaly", "fit", part, "-o", "part.skanomaly"]
    path = {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        list(map(str, command)), cwd=tmp_path, stderr=subprocess.PIPE, env={**os.environ, **path},
        # A shell's background jobs, and all that they start, ignore the first of the signals.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while not unfinished(tmp_path) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    # python -m ends itself by the signal, 130 for a shell, if it came while a string was executed.
    assert process.returncode in (130, -signal.SIGINT)
    assert said == b"interrupted\n"
    assert list(tmp_path.iterdir()) == []


def test_atomic_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as unfinished_file:
        unfinished_file.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"] and path.read_text() == "old"
    with atomic_file(path) as unfinished_file:
        unfinished_file.write_text("new")
        assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"] and path.read_text() == "new"


def test_atomic_folder(tmp_path):
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "new") as folder:
        (folder / "a").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(tmp_path / "new") as folder:
        (folder / "a").write_text("whole")
        assert not (tmp_path / "new" / "a").exists()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a"]
    with atomic_folder(tmp_path / "new") as folder:
        (folder / "b").write_text("whole")
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"a", "b"}


def test_progress_is_shown_on_terminals_only(part, detector, monkeypatch, capsys):
    new = part / "test" / "good"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert run("inspect", detector, new, "--json") == 0
    shown = capsys.readouterr().err
    assert "images" in shown and "6/6" in shown
    assert run("inspect", detector, new, "--json", "--quiet") == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert run("inspect", detector, new, "--json") == 0
    assert capsys.readouterr().err == ""


def test_long_trainings_show_bars_that_the_file_does_not_ask_for(part, capsys):
    from skanomaly import GlobalLocal, Pipeline
    from skanomaly.cli._pipelines import fit_model
    from skanomaly.model_selection import HeldOutThreshold

    images = sorted(map(str, (part / "train" / "good").iterdir()))[:4]
    pipe = Pipeline([("detector", GlobalLocal(image_size=64, n_iter=1))])
    model = HeldOutThreshold(pipe, target_fpr=0.5, cv=2)
    fit_model(model, images, bars=True)
    assert "folds" in (shown := capsys.readouterr().err) and "distillation" in shown
    for estimator in (model, model.estimator[-1], model.estimator_[-1]):
        assert estimator.verbose == 0
    fit_model(model, images, bars=False)
    assert capsys.readouterr().err == ""


def test_colors_of_scores_below_zero():
    """GlobalLocal has such scores; 0 is another special case."""
    from skanomaly.cli._predictions import color_limits

    class Model:
        def __init__(self, maxima, offset):
            self.oof_map_maxima_, self.map_offset_ = np.array(maxima), offset

    assert color_limits(Model([1.0, 2.0, 3.0], 4.0)) == (2.0, 5.0)
    assert color_limits(Model([-4.0, -3.0], -2.0)) == (-3.5, -1.5)
    vmin, vmax = color_limits(Model([0.0, 0.0], 0.0))
    assert vmin < vmax
