"""tune: a grid search with cross-validation over settings."""

from pathlib import Path

from skanomaly.cli._grid import default_grid, make_candidates, read_grid
from skanomaly.cli._model_files import load_data, save_detector
from skanomaly.cli._printing import print_json, print_note, print_table, shows_progress
from skanomaly.io import atomic_file

FOLDS = 5  # of the held-out images for the threshold, where the detector takes folds

SUMMARY = "search the settings for a folder of images, and fit the best"
DESCRIPTION = """\
Search settings by cross-validation and write a detector with the best ones. Candidates
are fitted on good images only and scored on the held-out ones and on the defects. The
best one is then fitted on all good training images, with a threshold as in fit.

Without --grid no defects are needed: features, image sizes, detectors and smoothing are
compared by synthetic defects, painted into good images that are held out.

The known defects of a labeled folder (good, scratch, ...) are used for scoring. With
synthetic = true none are needed: synthetic defects are added to good training images,
and the other images in FOLDER are not used.
"""
EPILOG = """\
grid.toml:
  detector = "patchcore"              # or a list; as in fit
  features = "filter_bank"            # or a backbone, or a list of both
  cv = 3                              # folds
  scoring = ["image_auroc", "aupro"]  # further metrics break ties
  synthetic = false                   # true: synthetic defects
  target_fpr = 0.06                   # as in fit
  random_state = 0

  [grid.features]
  image_size = [128, 224]
  [grid.detector]
  coreset_ratio = [0.02, 0.1]
  sigma = [2, 4, 8]

examples:
  skanomaly tune my_part/good -o best.skanomaly
  skanomaly tune my_part --grid grid.toml -o best.skanomaly
  skanomaly tune my_part/good --grid synthetic.toml -o best.skanomaly --json

The scores of the best candidate are optimistically biased: it was selected by them.
Report neither them nor the results of evaluate on the same defects, but those on a
folder that tune has not used.

exit codes: 0 the file is written, 2 an error (nothing is written).
"""


def add_arguments(parser):
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help="labeled images, or only good ones"
    )
    parser.add_argument(
        "--grid", type=Path, help="TOML file, see below; without it the usual candidates"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("best.skanomaly"),
        help="the detector file to write (default: best.skanomaly)",
    )
    parser.add_argument("--json", action="store_true", help="print the ranking as JSON on stdout")


def run(options):
    """Search, print the ranking, and write the best candidate."""
    from skanomaly.cli._pipelines import fit_model, with_threshold

    grid = default_grid() if options.grid is None else read_grid(options.grid)
    with atomic_file(options.output) as unfinished:
        data = load_data(options.folder)
        images, target = _images_and_target(options.folder, data, grid)
        candidates = make_candidates(grid, _n_fitted(data, grid))
        ranking, best = _search(options, grid, candidates, images, target)
        model = with_threshold(best, grid.target_fpr, None, grid.random_state)
        fit_model(model, data.train.images, bars=shows_progress(options))
        save_detector(model, unfinished, images, data.train.images)
    if options.json:
        print_json({"output": str(options.output), "ranking": ranking})
    else:
        _print_ranking(options, grid, ranking)
    return 0


def _n_fitted(data, grid):
    """Smallest number of good images that a model is fitted on."""
    n_good, folds = len(data.train.images), min(grid.cv, FOLDS)
    return n_good - -(-n_good // folds)


def _images_and_target(folder, data, grid):
    """Images of the search, and their masks or labels, or None for synthetic defects."""
    from skanomaly.model_selection import PIXEL_METRICS

    if grid.synthetic:
        return data.train.images, None
    if not (data.test.target == -1).any():
        raise ValueError(
            f"{folder}: expected images of defects, got none; add a folder of them beside good, "
            f"or set synthetic = true in {grid.path}"
        )
    images, n_train = [*data.train.images, *data.test.images], len(data.train.images)
    if data.test.masks is not None:
        masks = [mask if mask.any() else None for mask in data.test.masks]
        for name, label, mask in zip(data.test.names, data.test.target, masks, strict=True):
            if label == -1 and mask is None:
                raise ValueError(
                    f"{folder}: expected the defect of {name} in its mask, got an empty mask; "
                    "find such masks with skanomaly check"
                )
        return images, [None] * n_train + masks
    pixel_metrics = [name for name in grid.scoring if name in PIXEL_METRICS]
    if pixel_metrics:
        raise ValueError(
            f"{folder}: {pixel_metrics[0]} needs masks of the defects, got none; add masks, or "
            f"leave it out of scoring in {grid.path}"
        )
    return images, [1] * n_train + data.test.target.tolist()


def _search(options, grid, candidates, images, target):
    """Records of all candidates, the best one first, and the pipeline of the best one."""
    from skanomaly.model_selection import DetectorSearchCV, GoodOnlyKFold, scorers

    score = scorers(*grid.scoring, synthetic=grid.synthetic, random_state=grid.random_state)
    search = DetectorSearchCV(
        [(str(i), pipe) for i, (_, pipe) in enumerate(candidates)],
        scoring=score,
        cv=GoodOnlyKFold(grid.cv, shuffle=True, random_state=grid.random_state),
        refit=False,
        verbose=int(shows_progress(options)),
    ).fit(images, target)
    found, several = search.cv_results_, len(grid.scoring) > 1
    keys = {name: name if several else "score" for name in grid.scoring}
    records = [
        {
            "rank": int(found[f"rank_test_{keys[grid.scoring[0]]}"][i]),
            "parameters": parameters,
            "scores": {
                name: {
                    "mean": float(found[f"mean_test_{key}"][i]),
                    "std": float(found[f"std_test_{key}"][i]),
                }
                for name, key in keys.items()
            },
        }
        for i, (parameters, _) in enumerate(candidates)
    ]
    return sorted(records, key=_mean_scores, reverse=True), candidates[search.best_index_][1]


def _mean_scores(record):
    """Sort key: the first metric decides, further ones break ties."""
    return tuple(score["mean"] for score in record["scores"].values())


def _print_ranking(options, grid, ranking):
    table, several = [["settings", "rank", *grid.scoring]], _varied(ranking)
    for record in ranking:
        scores = [f"{s['mean']:.3f} ± {s['std']:.3f}" for s in record["scores"].values()]
        table.append([_settings(record, several), str(record["rank"]), *scores])
    print_table(table)
    by = "defects painted into held-out good images" if grid.synthetic else "known defects"
    chosen = _settings(ranking[0], several)
    print(f"\nchosen by {by}: {chosen}; written to {options.output}")
    others = "real defects" if grid.synthetic else "images that are not in this folder"
    print_note(
        f"the scores of the best candidate are optimistically biased; evaluate it on {others}"
    )


def _varied(ranking):
    """The parameters of which several values were tried."""
    values = {name: [r["parameters"][name] for r in ranking] for name in ranking[0]["parameters"]}
    return [name for name, found in values.items() if any(one != found[0] for one in found)]


def _settings(record, names):
    """What tells a candidate from the others, as text."""
    parameters = record["parameters"]
    texts = [f"{name.rpartition('__')[2]}={parameters[name]}" for name in names]
    return ", ".join(texts) or "defaults"
