"""Files that someone might send to do harm: each is refused, quickly, and runs nothing."""

import gzip
import hashlib
import io
import json
import os
import pickle
import zipfile

import joblib


class _Runs:
    """Unpickled, it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def signed(content, tail=b""):
    """A file of our format with this JSON and these bytes, all checksums right."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    head = b"skanomaly 1 %d %s\n" % (len(text), hashlib.sha256(text).hexdigest().encode())
    return (head + text).ljust(-(-len(head + text) // 64) * 64, b"\0") + tail


def estimator(content, arrays=(), tail=b""):
    """A file that says that its estimator is this."""
    return signed({"kind": "estimator", "head": {"estimator": content}, "arrays": arrays}, tail)


def an_object(name, **state):
    return {"object": name, "number": 0, "state": [list(item) for item in state.items()]}


def an_array(shape, dtype="<f8", name="0"):
    return {"name": name, "dtype": dtype, "shape": shape, "order": "C", "checksum": "0" * 32}


def hostile_files(victim):
    """{name: content}; one that is run makes the folder `victim`."""
    runs = _Runs(str(victim))
    squeezed, archive = io.BytesIO(), io.BytesIO()
    joblib.dump(runs, squeezed, compress=3)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../escaped.json", "{}")
        file.writestr("schema.json", json.dumps({"__class__": "system", "__module__": "os"}))
    bomb = gzip.compress(bytes(1 << 26), 9)
    call = {"partial": [{"function": "os.mkdir"}, {"tuple": [str(victim)]}, {"dict": []}]}
    return {
        "pickle": pickle.dumps(runs),
        "pickle of protocol 0": pickle.dumps(runs, protocol=0),
        "joblib": joblib_bytes(runs),
        "compressed joblib": squeezed.getvalue(),
        "zip with a path out of its folder": archive.getvalue(),
        "gzip bomb": bomb,
        "class of os": estimator(an_object("os.system")),
        "class of subprocess": estimator(an_object("subprocess.Popen", args=["true"])),
        "builtin": estimator(an_object("builtins.eval")),
        "private class of skanomaly": estimator(an_object("skanomaly.cli._main.main")),
        "function of scikit-learn": estimator(an_object("sklearn.utils.Bunch")),
        "class in a test module": estimator(an_object("sklearn.tests.test_base.MyEstimator")),
        "unknown class": estimator(an_object("somebody.Detector")),
        "call": estimator(call),
        "function of torch": estimator({"function": "torch.nn.functional.__builtins__"}),
        "class by path": estimator({"class": "torch.nn.modules.module.os"}),
        "huge shape": estimator({"array": 0}, [an_array([1 << 40])]),
        "many huge shapes": estimator(None, [an_array([1 << 30], name=str(i)) for i in range(99)]),
        "empty shape of huge sides": estimator({"array": 0}, [an_array([0, 1 << 47, 1 << 47])]),
        "negative shape": estimator({"array": 0}, [an_array([-1, -8])]),
        "objects": estimator({"array": 0}, [an_array([1], "|O")], bytes(64)),
        "huge items": estimator({"array": 0}, [an_array([0], "|S2147483647")]),
        "nested JSON": signed(b"[" * 200_000),
        "long JSON": b"skanomaly 1 99999999999 " + b"0" * 64 + b"\n",
        "endless first line": b"skanomaly" * 100_000,
        "huge number": estimator({"scalar": "|V1000000000", "value": 0}),
        "array that is not there": estimator({"array": "../../etc/passwd"}),
        "own reference": estimator({"again": 0}),
        "state without names": estimator({"object": "ImageFit", "number": 0, "state": [[1, 2]]}),
    }


def joblib_bytes(value):
    """What joblib.dump writes without compression."""
    file = io.BytesIO()
    joblib.dump(value, file)
    return file.getvalue()
