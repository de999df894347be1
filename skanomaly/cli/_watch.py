"""watch: new images of a folder, judged as they arrive."""

import hashlib
import signal
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from queue import Empty, SimpleQueue

from skanomaly.cli._model_files import add_detector, load_detector
from skanomaly.cli._monitor_options import add_monitor, make_monitor, note_drift
from skanomaly.cli._printing import print_note

OUTPUT = Path("skanomaly-watch")
POLL, SETTLE, PATIENCE = 0.5, 1.0, 60.0  # seconds
BATCH_IMAGES, BATCH_BYTES = 16, 64 << 20  # judged at a time
_SCAN_SHARE = 0.2  # of the time that looking at a large folder may take
_DIGITS = 12  # of a detector file's SHA-256

SUMMARY = "judge the images of a folder as they arrive"
DESCRIPTION = """\
Watch a folder and its subfolders, and judge each image that is in there or arrives, until
Ctrl-C or SIGTERM. A row for each image is appended to a CSV file in OUTPUT.
"""
EPILOG = """\
examples:
  skanomaly watch incoming/ my_part.skanomaly -o out
  skanomaly watch incoming/ my_part.skanomaly -o out --report defects --monitor
  skanomaly watch incoming/ my_part.skanomaly -o out --once

An image is judged when its file has not changed for --settle seconds and can be read; one
that cannot be read is tried again, and after --patience seconds has the verdict "error".
Files whose names begin with a dot or do not end as those of images do are no images, and
links to folders are not followed.

Each image is judged once, also when watch is stopped or killed and started again: the rows
in OUTPUT tell what is done. A file that is replaced by one with another content counts as
new. A row has time, name (relative to the folder), score, verdict, heat_map, error, drift
("lower" or "higher" where --monitor raised an alarm), the first digits of the detector
file's SHA-256, and n_bytes, modified_ns and sha256 of the image file.

OUTPUT has a CSV file for each day (2025-06-01.csv) or, with --roll N, for N images
(000001.csv), a folder of heat maps and a report of the same name. A report grows for a
day or N images, 500 images at most, and is saved each minute and at the end.

exit codes: 0 ended by Ctrl-C or SIGTERM, or all done with --once; 2 an error, such as a
folder that is gone: what was judged until then is written.
"""


def add_arguments(parser):
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder that images arrive in")
    add_detector(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=OUTPUT,
        help="folder to write to (default: %(default)s)",
    )
    parser.add_argument(
        "--roll",
        metavar="N",
        default="day",
        help='images of a CSV file and a report, or "day" (default)',
    )
    for name, default, what in (("maps", "defects", "a heat map"), ("report", "none", "a report")):
        parser.add_argument(
            f"--{name}",
            choices=("none", "defects", "all"),
            default=default,
            help=f"the images of which {what} is written (default: %(default)s)",
        )
    add_monitor(parser)
    seconds = {
        "poll": (POLL, "between two looks at the folder"),
        "settle": (SETTLE, "for which a file must not have changed"),
        "patience": (PATIENCE, "until a file that cannot be read counts as damaged"),
    }
    for name, (default, text) in seconds.items():
        parser.add_argument(
            f"--{name}",
            metavar="SECONDS",
            type=float,
            default=default,
            help=f"seconds {text} (default: %(default)s)",
        )
    parser.add_argument(
        "--once", action="store_true", help="end when all images that are there are judged"
    )


def run(options):
    """Judge what is ready, batch by batch, until a signal says stop."""
    from skanomaly.cli._arrivals import Arrivals
    from skanomaly.cli._journal import Journal

    roll = _check(options)
    model = load_detector(options.detector, options.trust_pickle)
    options.output.mkdir(parents=True, exist_ok=True)
    counts = Counter()
    journal = Journal(options.output, roll)
    try:
        line = _Line(options, model, journal)
        arrivals = Arrivals(
            options.folder,
            line.done,
            settle=options.settle,
            patience=options.patience,
            left_out=options.output,
        )
        with _stopping() as stop:
            print(f"watching {options.folder}, Ctrl-C ends it", flush=True)
            try:
                _watch(arrivals, line, stop, options, counts)
            finally:
                line.save()
    finally:
        journal.close()
    print(
        f"{counts.total()} images judged: {counts['defect']} defects, {counts['error']} could not "
        f"be read; rows in {options.output}"
    )
    return 0


def _check(options):
    """The number of rows of a file, or None for a file for each day."""
    if not options.folder.is_dir():
        raise NotADirectoryError(f"{options.folder}: expected a folder to watch; create it first")
    if options.output.resolve() == options.folder.resolve():
        raise ValueError(
            f"{options.output}: expected another folder than the watched one, as heat maps are "
            "images as well; choose one with -o"
        )
    for name in ("poll", "settle", "patience"):
        if not 0 <= getattr(options, name) < threading.TIMEOUT_MAX:
            raise ValueError(
                f"--{name} must be at least 0 seconds and finite, got {getattr(options, name):g}"
            )
    if options.roll == "day":
        return None
    if not options.roll.isdecimal() or int(options.roll) < 1:
        raise ValueError(f'--roll must be "day" or a number of images, got {options.roll!r}')
    return int(options.roll)


def _watch(arrivals, line, stop, options, counts):
    while not stop.is_set():
        began = time.monotonic()
        arrivals.scan()
        seconds = time.monotonic() - began
        for batch in _batches(arrivals.ready()):
            counts.update(line.judge(batch))
            line.save_if_due()
            if stop.is_set():
                return
        line.save_if_due()
        if options.once and not arrivals.waiting:
            return
        stop.wait(max(options.poll, seconds / _SCAN_SHARE))


def _batches(arrivals):
    """Lists of arrivals that fit into memory together."""
    batch, n_bytes = [], 0
    for arrival in arrivals:
        batch.append(arrival)
        n_bytes += 0 if arrival.image is None else arrival.image.nbytes
        if len(batch) == BATCH_IMAGES or n_bytes >= BATCH_BYTES:
            yield batch
            batch, n_bytes = [], 0
    if batch:
        yield batch


class _Line:
    """What is done with each image: heat map, monitor, row, report; in this order."""

    def __init__(self, options, model, journal):
        from skanomaly.cli._journal import judged
        from skanomaly.cli._predictions import color_limits
        from skanomaly.cli._reports import RollingReports

        self.options = options
        self.model = model
        self.journal = journal
        self.limits = dict(zip(("vmin", "vmax"), color_limits(model), strict=True))
        with open(options.detector, "rb") as file:
            self.detector = hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS]
        rows = journal.read()
        self.done = judged(rows)
        self.monitor = make_monitor(options, model, model.oof_scores_ - model.offset_)
        if self.monitor is not None:  # it goes on where it was
            scores = [row.score for row in rows if row.detector == self.detector]
            self.monitor.update([score for score in scores if score is not None])
        self.reports = None
        if options.report != "none":
            note = f"detector: {options.detector.name}"
            self.reports = RollingReports(options.output, model, note, options.report == "all")

    def judge(self, batch):
        """The verdicts of a batch of Arrivals, each of which is written when this returns."""
        verdicts = []
        for arrival, prediction in zip(batch, self._predict(batch), strict=True):
            self._write(arrival, prediction)
            verdicts.append(prediction.verdict)
        return verdicts

    def save_if_due(self):
        if self.reports is not None:
            self.reports.save_if_due()

    def save(self):
        if self.reports is not None:
            self.reports.save()

    def _predict(self, batch):
        """A Prediction for each arrival."""
        from skanomaly.cli._predictions import Prediction, predict_readable

        images = [arrival.image for arrival in batch if arrival.image is not None]
        found = (one for some in predict_readable(self.model, images) for one in some)
        for arrival in batch:
            if arrival.image is None:
                yield Prediction(arrival.path, None, None, [], [], arrival.error)
                continue
            prediction = next(found)
            if prediction.error:  # of an image without a name, such as one with other channels
                error = prediction.error.removeprefix("image 0: ")
                prediction = prediction._replace(error=f"{arrival.path}: {error}")
            yield prediction

    def _write(self, arrival, prediction):
        from skanomaly.cli._arrivals import escaped
        from skanomaly.cli._journal import Row

        period = self.journal.start_period()
        heat_map = self._draw(period, arrival, prediction)
        drift = self._drift(arrival, prediction)
        now = datetime.now().astimezone()
        row = Row(
            now.isoformat(timespec="milliseconds"),
            arrival.name,
            prediction.decision,
            prediction.verdict,
            heat_map,
            escaped(prediction.error),
            drift,
            self.detector,
            *arrival.stamp,
            arrival.digest,
        )
        self.journal.append(row)
        self.done[arrival.name] = arrival.stamp, arrival.digest
        if self.reports is not None and not prediction.error:
            self.reports.add(period, row.name, arrival.path, prediction)
        if not self.options.quiet:
            score = "" if row.score is None else f"{row.score:+.4g}"
            print(f"{now:%H:%M:%S} {row.verdict:<6} {score:>9} {row.name}", flush=True)
        if prediction.error:
            print_note(row.error)
        if drift:
            note_drift(drift, row.name)

    def _draw(self, period, arrival, prediction):
        """Write the heat map, if it is wanted; its name in the folder, or an empty one."""
        from skanomaly.cli._results import portable
        from skanomaly.images import save_score_map
        from skanomaly.io import atomic_file

        wanted = {"none": (), "defects": ("defect",), "all": ("defect", "good")}
        if prediction.verdict not in wanted[self.options.maps]:
            return ""
        stem = portable(Path(arrival.name).stem)
        name = f"{period}/{stem}-{arrival.digest[:8]}.png"  # of a killed process: overwritten
        path = self.options.output / name
        path.parent.mkdir(exist_ok=True)
        with atomic_file(path) as unfinished:
            save_score_map(unfinished, prediction.image, prediction.score_map, **self.limits)
        return name

    def _drift(self, arrival, prediction):
        """The direction of an alarm that this image raises, or an empty text."""
        if self.monitor is None or prediction.decision is None:
            return ""
        return self.monitor.alarms_[-1][1] if self.monitor.update([prediction.decision]) else ""


class _Stop:
    """A flag to wait for that a signal handler may set: in there, setting an Event may deadlock."""

    def __init__(self):
        self._signals = SimpleQueue()

    def set(self):
        self._signals.put(None)

    def is_set(self):
        return not self._signals.empty()

    def wait(self, seconds):
        with suppress(Empty):
            self._signals.get(timeout=seconds)
            self.set()  # it stays set


@contextmanager
def _stopping():
    """Context with a _Stop that Ctrl-C and SIGTERM set; a second one interrupts as usual."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def set_stop(number, frame):
        signal.signal(number, signal.default_int_handler)
        stop.set()

    before = {number: signal.signal(number, set_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
