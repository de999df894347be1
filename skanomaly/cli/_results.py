"""Where the results of inspect go: a folder with scores and heat maps, a report, JSON."""

import csv
from collections import Counter
from pathlib import Path

from skanomaly._heat_maps import save_score_map
from skanomaly._images import titles
from skanomaly.cli._files import fingerprint, load_data
from skanomaly.cli._judging import colour_limits
from skanomaly.cli._printing import print_json
from skanomaly.pipeline import check_nearest_good, outermost
from skanomaly.report._reasons import Reasons

SCORES_FILE = "scores.csv"
N_PEAKS = 3  # hot spots of a picture that a report explains, at most


class FolderResults:
    """scores.csv, and a heat map of each picture."""

    def __init__(self, folder, model, images, *, has_maps):
        self.folder = folder
        self.limits = dict(zip(("vmin", "vmax"), colour_limits(model), strict=True))
        self.names = iter(_heat_map_names(images) if has_maps else [""] * len(images))
        self.rows = []

    def add(self, pictures):
        for picture in pictures:
            heat_map = next(self.names)
            if heat_map:
                path = self.folder / heat_map
                save_score_map(path, picture.image, picture.score_map, **self.limits)
            self.rows.append([picture.image, f"{picture.decision:.6g}", picture.verdict, heat_map])

    def finish(self):
        with open(self.folder / SCORES_FILE, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["name", "score", "verdict", "heat_map"], *self.rows])


class HtmlResults:
    """One HTML file; with the good pictures at hand it says what a hot spot was compared with."""

    def __init__(self, path, model, good, note):
        from skanomaly.report import Report  # what it needs may not be installed

        vmin, vmax = colour_limits(model)
        threshold = float(model.map_offset_)
        self.report = Report(note=note, map_threshold=threshold, vmin=vmin, vmax=vmax)
        self.path, self.reasons = path, None
        if good is not None:
            self.reasons = Reasons(model, _good_pictures(model, good), None, N_PEAKS)

    def add(self, pictures):
        images = [picture.image for picture in pictures]
        names, neighbours = titles(images, None), [[] for _ in images]
        if self.reasons is not None:
            defects = [i for i, picture in enumerate(pictures) if picture.decision < 0]
            neighbours = self.reasons.of(images, defects)
        for picture, name, spots in zip(pictures, names, neighbours, strict=True):
            image, decision, score_map, regions = picture
            about = {"name": name, "regions": regions, "neighbours": spots}
            self.report.add(image, score_map, decision, **about)

    def finish(self):
        self.report.save(self.path)


class JsonResults:
    """A list of records, to be printed."""

    def __init__(self):
        self.records = []

    def add(self, pictures):
        self.records += [
            {
                "name": one.image,
                "score": one.decision,
                "verdict": one.verdict,
                "regions": one.regions,
            }
            for one in pictures
        ]

    def finish(self):
        """Nothing is printed before all files are in their places."""

    def print(self):
        print_json(self.records)


def _good_pictures(model, folder):
    """The pictures that the detector has learned from, in its own order."""
    try:
        check_nearest_good(model)
    except TypeError as error:
        raise ValueError(f"--good: {error}; leave --good out") from error
    images, n_learned = load_data(folder).train.images, len(outermost(model, "memory_frames_"))
    seen = getattr(model, "seen_pictures_", None)
    n_known = len(images) if seen is None else sum(fingerprint(image) in seen for image in images)
    if len(images) != n_learned or n_known < n_learned:
        raise ValueError(
            f"--good {folder}: expected the {n_learned} pictures that the detector has learned "
            f"from, got {len(images)} good ones, of which it knows {n_known}; name the folder "
            "that fit or tune was given"
        )
    return images


def _heat_map_names(images):
    """File names of heat maps: with the folder's name where two are alike, and then numbered."""
    paths = list(map(Path, images))
    n_alike = Counter(path.stem for path in paths)
    names = {}
    for path in paths:
        stem = f"{path.parent.name}_{path.stem}" if n_alike[path.stem] > 1 else path.stem
        name, number = f"{stem}.png", 1
        while name in names:
            number += 1
            name = f"{stem}-{number}.png"
        names[name] = path
    return list(names)
