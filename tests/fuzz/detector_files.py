"""Changed detector files: what becomes of them when they are loaded.

    python tests/fuzz/detector_files.py [--n 100000] [--seed 0]

Three kinds of changes, by turns: bytes (bits, blocks, truncation, joints), so that checksums are
wrong; the description, with its digest made right again, as only a hostile author would; and the
first line. A file may load only if it holds the same bytes of arrays and the same description.
"""

import argparse
import collections
import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np

import skanomaly
from skanomaly.datasets import make_textures
from skanomaly.exceptions import DamagedFileError, NotTrustedError

# What someone may write where a value, a class or an attribute stands.
POISON = (
    None, True, -1, 1 << 70, 0.5, "", "x", [], {}, [[]], {"x": 1}, {"tuple": 3}, {"array": 999},
    {"array": 0}, {"object": "os.system", "number": 0, "state": []}, {"again": 0}, {"float": "x"},
    {"object": "PatchCore", "number": 0, "state": [["fit", 1]]}, {"class": "builtins.eval"},
    {"function": "torch.nn.functional.relu"}, {"partial": [1, 2, 3]}, {"dtype": "O"}, {"bytes": 0},
    {"scalar": "|V99999999", "value": 1}, {"object": "ImageFit", "number": 9, "state": None},
)  # fmt: skip


def small_detector():
    """A fitted pipeline of a few kilobytes, and images to score."""
    images = make_textures(4, size=64, random_state=0)
    features = skanomaly.FilterBank(n_filters=4, image_size=64, random_state=0)
    detector = skanomaly.PatchCore(coreset_ratio=0.05, random_state=0)
    return skanomaly.Pipeline([("features", features), ("detector", detector)]).fit(images), images


def change_bytes(content, rng):
    """The bytes with one kind of damage."""
    changed, kind = bytearray(content), rng.integers(6)
    a, b = sorted(rng.integers(0, len(content), 2))
    n = int(rng.integers(1, 200))
    if kind == 0:
        for place in rng.integers(0, len(content), rng.integers(1, 4)):
            changed[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        changed[a : a + n] = bytes(len(changed[a : a + n]))
    elif kind == 2:
        changed[a : a + n] = rng.bytes(len(changed[a : a + n]))
    elif kind == 3:
        del changed[a:]
    elif kind == 4:
        changed[a : a + n], changed[b : b + n] = changed[b : b + n], changed[a : a + n]
    else:
        changed[a:a] = changed[b : b + n] or b"\0"
    return bytes(changed)


def change_description(content, rng):
    """Another description whose digest is right."""
    line, _, rest = content.partition(b"\n")
    length = int(line.split()[2])
    description = json.loads(rest[:length])
    spots = list(_spots(description))
    place, key = spots[rng.integers(len(spots))]
    if rng.integers(4) == 0:
        other, other_key = spots[rng.integers(len(spots))]
        place[key] = json.loads(json.dumps(other[other_key]))
    elif rng.integers(4) == 0 and isinstance(place, dict):
        place[str(rng.integers(9))] = place.pop(key)
    else:
        place[key] = POISON[rng.integers(len(POISON))]
    text = json.dumps(description).encode()
    digest = hashlib.sha256(text).hexdigest().encode()
    head = b"skanomaly 1 %d %s\n" % (len(text), digest) + text
    body = rest[-(-(len(line) + 1 + length) // 64) * 64 - len(line) - 1 :]
    return head.ljust(-(-len(head) // 64) * 64, b"\0") + body


def change_first_line(content, rng):
    """Another first line."""
    words = content.partition(b"\n")[0].split(b" ")
    words[rng.integers(len(words))] = (b"", b"0", b"-5", b"1e9", b"9" * 40, b"\0")[rng.integers(6)]
    return b" ".join(words) + content[content.index(b"\n") :]


def _spots(value):
    """(container, key) of everything in a JSON value."""
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _spots(value[key])


def outcome(content, original, file):
    """What loading such a file does, in a word."""
    file.write_bytes(content)
    try:
        skanomaly.load(file)
    except (DamagedFileError, NotTrustedError) as error:
        return "refused" if str(file) in str(error) else "refused without its name"
    except Exception as error:
        return f"foreign exception {type(error).__name__}"
    return "the same" if content == original else "loaded"


def run(n, seed):
    """{(kind of change, outcome): count}."""
    rng, counts = np.random.default_rng(seed), collections.Counter()
    changes = change_bytes, change_bytes, change_description, change_first_line
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "part.skanomaly")
        skanomaly.dump(small_detector()[0], file)
        original = file.read_bytes()
        for i in range(n):
            change = changes[i % len(changes)]
            counts[change.__name__, outcome(change(original, rng), original, file)] += 1
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for (change, result), count in sorted(run(options.n, options.seed).items()):
        print(f"{change:20} {result:40} {count:8}")
