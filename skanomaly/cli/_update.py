"""update: let the detector in a file learn from further good images, or forget some."""

from pathlib import Path

import numpy as np

from skanomaly.cli._model_files import (
    add_detector,
    find_images,
    fingerprint,
    load_detector,
    save_detector,
    seen_images,
)
from skanomaly.cli._printing import print_json, print_note, shorten
from skanomaly.cli._reviews import add_review, read_review
from skanomaly.io import atomic_file

SUMMARY = "let a detector learn from good images that were flagged"
DESCRIPTION = """\
Let a detector learn from further good images, such as good parts that were flagged by
mistake, without the images that it was fitted on; or let it forget images that should not
have been among these. PatchCore, SPADE and PaDiM can; the features stay as they are.

PatchCore adds the patches that lie outside of its bank's covering radius. The threshold
stays where it is, unless the images are a fair sample of good ones (--representative).
"""
EPILOG = """\
examples:
  skanomaly update my_part.skanomaly false_alarms/
  skanomaly update my_part.skanomaly monday/good -o tuesday.skanomaly --representative
  skanomaly update my_part.skanomaly --forget my_part/good/017.png
  skanomaly update my_part.skanomaly --review review.json

A review file names images whose verdict was wrong: those that are good are learned, and
defects are forgotten if they are among the images learned from. The HTML report of inspect,
evaluate or watch writes one: open an image, mark it with x, and save.

exit codes: 0 done, 2 an error (nothing is written).
"""


def add_arguments(parser):
    add_detector(parser)
    parser.add_argument(
        "images", metavar="GOOD_IMAGES", type=Path, nargs="*", help="images of good parts, folders"
    )
    parser.add_argument(
        "-o", "--output", type=Path, help="the file to write (default: DETECTOR is replaced)"
    )
    parser.add_argument(
        "--forget",
        metavar="IMAGE",
        type=Path,
        nargs="+",
        default=[],
        help="images that the detector was fitted on, told by their content",
    )
    add_review(parser, "verdicts that were wrong")
    parser.add_argument(
        "--representative",
        action="store_true",
        help="the images are a fair sample of good ones, not chosen by their verdicts: the "
        "threshold is set anew with their scores",
    )
    parser.add_argument("--json", action="store_true", help="print what was done as JSON on stdout")


def run(options):
    """Forget, learn, and write the file."""
    model = load_detector(options.detector, options.trust_pickle)
    known = _Known(model)
    review = {} if options.review is None else read_review(options.review)
    good = [image for image, label in review.items() if label == 1]
    good += find_images(options.images) if options.images else []
    forgotten = known.places_of(options.forget)
    forgotten |= known.places_of([i for i, label in review.items() if label == -1], strict=False)
    new = known.new_ones(good)
    if not new and not forgotten:
        raise ValueError(
            "expected good images that the detector does not know, or images to --forget, got none"
        )
    path = options.output or options.detector
    facts = {"file": str(path), "n_flagged": _count_flagged(model, new)}
    facts["offset_before"] = float(model.offset_)
    with atomic_file(path) as unfinished:
        if forgotten:
            model.forget(np.array(list(forgotten)), list(forgotten.values()))
        if new:
            model.update(new, representative=options.representative)
        known.note(model, new, forgotten)
        save_detector(model, unfinished, None)
    facts |= {"n_learned": len(new), "n_forgotten": len(forgotten), "offset": float(model.offset_)}
    facts["n_flagged_after"] = _count_flagged(model, new)
    if options.json:
        print_json(facts)
    else:
        _print_facts(facts)
    return 0


class _Known:
    """The images that a detector file knows: by place among those of fit, and all of them."""

    def __init__(self, model):
        learned = getattr(model, "learned_images_", None)
        self.learned = None if learned is None else learned.tolist()
        self.seen = seen_images(model)

    def places_of(self, images, strict=True):
        """{place: image} of images that were learned from; others raise, or give a note."""
        found, missing = {}, []
        if images and self.learned is None:
            raise ValueError(
                "expected a detector file with the order of its images, which skanomaly fit "
                "writes without --cluster, got one without; fit it again, or forget images by "
                "their places in Python"
            )
        for image in map(str, images):
            one = fingerprint(image)
            places = [i for i, known in enumerate(self.learned) if known == one]
            found |= dict.fromkeys(places, image)
            missing += [] if places else [image]
        if missing and strict:
            raise ValueError(
                f"--forget: expected images that the detector was fitted on, got "
                f"{shorten(missing)}, which it does not know"
            )
        if missing:
            print_note(
                f"missed defects teach nothing, as they were not learned from: {shorten(missing)}"
            )
        return found

    def new_ones(self, images):
        """The images that are not known, each once."""
        known = set(self.learned or self.seen or ())
        new = {}
        for image in images:
            if (one := fingerprint(image)) not in known:
                new.setdefault(one, image)
        if len(new) < len(images):
            print_note(f"{len(images) - len(new)} of {len(images)} images are known already")
        return list(new.values())

    def note(self, model, new, forgotten):
        """Fingerprints of what the model knows now, on the model."""
        prints = [fingerprint(image) for image in new]
        gone = {fingerprint(image) for image in forgotten.values()}
        if self.learned is not None:
            left = [b"" if i in forgotten else one for i, one in enumerate(self.learned)]
            model.learned_images_ = np.array(left + prints, dtype="S")
        if self.seen is not None:
            model.seen_images_ = np.array(sorted((self.seen - gone) | set(prints)), dtype="S")


def _count_flagged(model, images):
    return int((model.predict(images) == -1).sum()) if images else 0


def _print_facts(facts):
    print(
        f"learned from {facts['n_learned']} good images, of which {facts['n_flagged']} were "
        f"flagged before and {facts['n_flagged_after']} are now; forgot {facts['n_forgotten']}"
    )
    is_same = facts["offset"] == facts["offset_before"]
    was = "as before" if is_same else f"before: {facts['offset_before']:.6g}"
    print(f"threshold: offset {facts['offset']:.6g} ({was})")
    print(f"\nwritten to {facts['file']}")
