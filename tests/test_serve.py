"""serve: answers equal to the Python scores, under load, and within limits."""

import base64
import csv
import http.client
import io
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np
import pytest
from cli_parts import make_part, run
from doc_parts import blocks
from line_parts import quick_detector
from PIL import Image

import skanomaly
from skanomaly.cli import _serve, main
from skanomaly.images import overlay, pixel_limit, read_image
from skanomaly.model_selection import ScoreMonitor
from skanomaly.service import make_app

ROOT = Path(skanomaly.__file__).parents[1]
BOUNDARY = "4f2a"

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
pytest.importorskip("python_multipart")


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    return make_part(tmp_path_factory.mktemp("serve") / "part")


@pytest.fixture(scope="module")
def detector(part):
    return quick_detector(part)


@pytest.fixture(scope="module")
def model(detector):
    return skanomaly.load(detector)


@pytest.fixture(scope="module")
def images(part):
    """Contents of 6 good images and 4 defects."""
    return [path.read_bytes() for path in sorted((part / "test").rglob("*.png"))]


@contextmanager
def served(app):
    """Port of a running service."""
    with _serve.listen("127.0.0.1", 0) as sock:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            yield sock.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def port(model):
    with served(make_app(model, max_megabytes=1, n_threads=2)) as port:
        yield port


def ask(port, method, path, body=None, headers=None):
    """Status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def post(port, path, body, headers=None):
    """Status and JSON of an answer."""
    status, _, answer = ask(port, "POST", path, body, headers)
    return status, json.loads(answer)


def form(*parts):
    """Body and headers of a form with files, (field, file name or None, content)."""
    body = b""
    for field, name, content in parts:
        file = "" if name is None else f'; filename="{name}"'
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"{file}\r\n\r\n'
        body += head.encode() + content + b"\r\n"
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    return body + f"--{BOUNDARY}--\r\n".encode(), headers


def test_answers_are_the_python_results(port, model, images):
    decisions = model.decision_function(images)
    n_regions = 0
    for content, decision in zip(images, decisions, strict=True):
        status, record = post(port, "/score", content)
        assert status == 200 and record.keys() == {"name", "score", "verdict", "regions"}
        assert record["score"] == model.decision_function([content])[0]
        assert record["score"] == pytest.approx(decision, rel=1e-5, abs=1e-6)
        assert record["verdict"] == ("defect" if decision < 0 else "good")
        expected = skanomaly.score_regions(model, [content])
        assert [{"image": 0, **region} for region in record["regions"]] == expected
        n_regions += len(expected)
    assert n_regions > 0


def test_forms_and_maps(port, model, images):
    body, headers = form(("note", None, b"left"), ("image", "part 7.png", images[9]))
    status, record = post(port, "/score?map=true", body, headers)
    assert status == 200 and record["name"] == "part 7.png"
    assert record["score"] == model.decision_function([images[9]])[0]
    drawn = base64.b64decode(record["map_png"])
    status, headers, alone = ask(port, "POST", "/map", images[9])
    assert (status, headers["content-type"]) == (200, "image/png") and alone == drawn
    limits = skanomaly.images.limits_of_good(model.oof_map_maxima_, model.map_offset_)
    expected = overlay(read_image(images[9]), model.score_map([images[9]])[0], *limits)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(drawn))), expected)


def test_eight_clients_at_once(model, images):
    expected = [model.decision_function([content])[0] for content in images]
    with served(make_app(model, n_threads=4)) as port:

        def client(number):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            answers = []
            for i in range(20):
                which = (number * 7 + i) % len(images)
                connection.request("POST", "/score", images[which])
                record = json.loads(connection.getresponse().read())
                answers.append(record["score"] == expected[which])
            connection.close()
            return answers

        with ThreadPoolExecutor(8) as pool:
            answers = [one for some in pool.map(client, range(8)) for one in some]
        assert len(answers) == 160 and all(answers)
        health = json.loads(ask(port, "GET", "/health")[2])
    assert health["n_images"] == 160 and health["n_errors"] == 0


def test_health(port, model):
    status, _, before = ask(port, "GET", "/health")
    before = json.loads(before)
    assert status == 200 and before["status"] == "ok" and "drift" not in before
    post(port, "/score", b"no image")
    after = json.loads(ask(port, "GET", "/health")[2])
    assert after == {**before, "n_errors": before["n_errors"] + 1}
    assert before["detector"] == "detector" and before["version"] == skanomaly.__version__


def test_drift(model, images, monkeypatch):
    monkeypatch.setattr("skanomaly.model_selection._monitor.N_RUNS", 2000)
    monitor = ScoreMonitor(false_alarm_rate=0.5).fit(model.oof_scores_)
    dark = [png(np.asarray(Image.open(io.BytesIO(content))) // 2) for content in images[:6]]
    with served(make_app(model, monitor=monitor)) as port:
        records = [post(port, "/score", content)[1] for content in dark * 4]
        health = json.loads(ask(port, "GET", "/health")[2])
    other = ScoreMonitor(false_alarm_rate=0.5).fit(model.oof_scores_)
    other.update(np.concatenate([model.score_samples([content]) for content in dark * 4]))
    alarms = [(i, one["drift"]) for i, one in enumerate(records, start=1) if one["drift"]]
    assert alarms == other.alarms_ and alarms[0][1] == "lower"
    drift = health["drift"]
    assert drift["n_alarms"] == len(alarms) and drift["limit"] == monitor.limit_
    assert drift["last_alarm"] == {"image": alarms[-1][0], "direction": "lower"}


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def test_what_is_no_image_is_an_error_400(port, images):
    for content, words in (
        (b"no image", "not an image file"),
        (images[0][:-50], "the upload: "),
        (b"", "expected an image file as the body or in a form, got nothing"),
        (png(np.zeros((4, 4), np.uint8)), "expected at least 8 x 8 pixels"),
    ):
        status, record = post(port, "/score", content)
        assert status == 400 and words in record["error"], record
    assert post(port, "/score?map=perhaps", images[0])[0] == 400
    assert post(port, "/map", b"no image")[0] == 400


def test_forms_without_the_one_file(port, images):
    two = form(("a", "a.png", images[0]), ("b", "b.png", images[1]))
    for body, headers in (
        form(("image", None, images[0])),
        two,
        (b"nonsense", two[1]),
        (two[0], {"Content-Type": "multipart/form-data"}),
    ):
        status, record = post(port, "/score", body, headers)
        assert status == 400 and record["error"], record
    assert post(port, "/score", *form(("image", "a.txt", b"no image")))[0] == 400


def test_other_paths_and_methods(port):
    assert ask(port, "GET", "/score")[0] == 405
    status, _, body = ask(port, "GET", "/nothing")
    assert status == 404 and json.loads(body) == {"error": "Not Found"}


def pieces(n_bytes):
    """An upload, piece by piece."""
    block = bytes(1 << 16)
    for _ in range(n_bytes // len(block)):
        yield block


@pytest.mark.parametrize("is_declared", [True, False])
def test_an_upload_that_is_too_large_is_refused(port, images, is_declared, monkeypatch):
    """One of 200 MB, with its length said before or not: it is never held."""
    monkeypatch.setattr("skanomaly.service._app.LINGER_SECONDS", 300)  # of a busy machine
    n_bytes = 200 << 20
    headers = {"Content-Length": str(n_bytes)} if is_declared else {}
    before = resident_bytes()
    status, record = post(port, "/score", pieces(n_bytes), headers)
    assert status == 413 and "at most 1 MB" in record["error"]
    assert resident_bytes() - before < 60 << 20
    assert post(port, "/score", images[0])[0] == 200
    body, headers = form(("image", "a.png", bytes(2_000_000)))
    assert post(port, "/score", body, headers)[0] == 413


def resident_bytes():
    if not Path("/proc/self/statm").exists():
        pytest.skip("the memory of a process is not known here")
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_an_upload_without_end_is_cut_off(port, monkeypatch):
    monkeypatch.setattr("skanomaly.service._app.LINGER_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"POST /score HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        end, is_open = time.monotonic() + 30, True
        while is_open and time.monotonic() < end:
            try:
                client.sendall(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
            except OSError:
                is_open = False
        assert not is_open


def test_a_client_that_waits_is_told_before_it_sends(port):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(
            b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_slow_upload_and_a_client_that_leaves(port, images, monkeypatch):
    head = b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc"
    with monkeypatch.context() as patch:
        patch.setattr("skanomaly.service._app.UPLOAD_SECONDS", 0.2)
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(head)
            assert client.recv(100).startswith(b"HTTP/1.1 408 ")
            while client.recv(100):  # until the server has closed the connection
                pass
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(head)
    assert post(port, "/score", images[0])[0] == 200


def bomb(width, height):
    """A PNG file of some kilobytes that claims to be an image of many megapixels."""

    def chunk(kind, content):
        crc = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + crc

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    packed = zlib.compress(bytes(10_000))
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + bytes([8, 0, 0, 0, 0]))
    return start + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused(port):
    status, record = post(port, "/score", bomb(50_000, 50_000))
    assert status == 400 and "expected at most 268,435,456 pixels" in record["error"]


def test_a_bug_is_an_error_500(model, images):
    app = make_app(model)
    with served(app) as port:
        service = next(route for route in app.routes if route.path == "/score").endpoint.__self__
        service.scorer.detector = SimpleNamespace()  # without all that a detector has
        status, record = post(port, "/score", images[0])
    assert status == 500 and record == {"error": "internal error, see the log of the service"}


def test_an_application_can_be_started_again(model, images):
    app = make_app(model, n_threads=1)
    for _ in range(2):
        with served(app) as port:
            assert post(port, "/score", images[0])[0] == 200


def test_an_image_that_the_detector_does_not_take(model, images):
    class TwoChannels:
        oof_map_maxima_, map_offset_, offset_ = model.oof_map_maxima_, 0, 0

        def score_map(self, X):
            return np.zeros((1, 64, 64))

        def score_samples(self, X):
            raise skanomaly.exceptions.ImageError("image 0: expected 2 channels, got 3")

    with served(make_app(TwoChannels())) as port:
        for arguments, name in (
            (images[:1], "the upload"),
            (form(("a", "b.png", images[0])), "b.png"),
        ):
            status, record = post(port, "/score", *arguments)
            assert (status, record) == (400, {"error": f"{name}: expected 2 channels, got 3"})


def test_parameters(model):
    with pytest.raises(TypeError, match="expected a fitted HeldOutThreshold, got PatchCore"):
        make_app(skanomaly.PatchCore())
    with pytest.raises(TypeError, match="expected a fitted ScoreMonitor"):
        make_app(model, monitor=ScoreMonitor())
    with pytest.raises(ValueError, match="max_megabytes must be above 0 and finite, got 0"):
        make_app(model, max_megabytes=0)
    with pytest.raises(ValueError, match="n_threads must be an integer of at least 1"):
        make_app(model, n_threads=0)


def test_bad_input_of_the_command(detector, images, tmp_path, capsys):
    def error(*arguments):
        assert run("serve", *arguments) == 2
        return capsys.readouterr().err

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = error(detector, "--port", port)
        assert f"127.0.0.1:{port}: cannot listen there" in said and "in use" in said
        assert "choose another port with --port" in said
    assert "--port must be from 0 to 65535" in error(detector, "--port", 70_000)
    assert "cannot listen there" in error(detector, "--host", "no.such.host.invalid")
    assert "no such detector file" in error(tmp_path / "gone", "--port", 0)
    (tmp_path / "image").write_bytes(images[0])
    assert "not a file of skanomaly.dump" in error(tmp_path / "image", "--port", 0)
    assert "--max-megapixels must be above 0" in error(detector, "--max-megapixels", 0)
    assert "max_megabytes must be above 0" in error(detector, "--max-megabytes", 0, "--port", 0)
    assert pixel_limit() == 2**28


def test_without_the_extra(detector, monkeypatch, capsys):
    for module in ("uvicorn", "skanomaly.service._app"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            assert run("serve", detector, "--port", 0) == 2
        assert 'pip install "skanomaly[serve]"' in capsys.readouterr().err


def test_the_command(detector, model, images):
    command = [sys.executable, "-m", "skanomaly", "serve", detector, "--port", "0", "--monitor"]
    limits = ["--max-megapixels", "0.1", "--max-megabytes", "2", "--threads", "2"]
    process = subprocess.Popen(
        list(map(str, [*command, *limits])),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = process.stdout.readline()
        url = urlsplit(said.split()[2].rstrip(","))
        assert said.startswith(f"{detector} on http://127.0.0.1:"), said
        status, record = post(url.port, "/score", images[9])
        assert status == 200 and record["drift"] is None
        assert record["score"] == pytest.approx(model.decision_function([images[9]])[0], rel=1e-5)
        status, record = post(url.port, "/score", png(np.zeros((400, 400), np.uint8)))
        assert status == 400 and "expected at most 100,000 pixels" in record["error"]
        health = json.loads(ask(url.port, "GET", "/health")[2])
        assert (health["detector"], health["n_images"]) == (detector.name, 1)
    finally:
        process.send_signal(signal.SIGTERM)
        printed = process.communicate(timeout=60)
    assert process.returncode == 0 and printed == ("", "")


def test_the_page_is_right(part, detector, images, tmp_path, monkeypatch):
    """The shell blocks of docs/guide/line.md, tried as they stand."""
    text = (ROOT / "docs" / "guide" / "line.md").read_text(encoding="utf-8")
    watch, requests = blocks(text, "sh")
    monkeypatch.chdir(tmp_path)
    shutil.copy(detector, "my_part.skanomaly")
    Path("new").mkdir()
    Path("new/000.png").write_bytes(images[0])
    Path("new/019.png").write_bytes(images[9])
    assert main([*shlex.split(watch)[1:], "--settle", "0.05", "--poll", "0.02"]) == 0
    (file,) = Path("judged").glob("*.csv")
    with open(file, newline="", encoding="utf-8") as text_file:
        rows = list(csv.DictReader(text_file))
    found = {row["name"]: row["verdict"] for row in rows}
    assert found == {"000.png": "good", "019.png": "defect"}
    table = text[text.index("| column |") : text.index("`--report defects`")]
    assert all(f"`{column}`" in table for column in rows[0])

    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    with served(make_app(skanomaly.load("my_part.skanomaly"))) as port:
        answers = []
        for line in requests.replace("8765", str(port)).splitlines():
            done = subprocess.run(["bash", "-c", line], check=True, capture_output=True)
            answers.append(json.loads(done.stdout or "null"))
    score, with_map, _, health = answers
    assert score["verdict"] == with_map["verdict"] == "defect" and with_map["map_png"]
    assert with_map["name"] == "019.png" and health["n_images"] == 2
    assert Path("map.png").read_bytes() == base64.b64decode(with_map["map_png"])
