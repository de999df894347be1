"""tune: which settings suit these pictures, found by cross-validation."""

from pathlib import Path
from tempfile import TemporaryDirectory

from skanomaly._files import whole_file
from skanomaly.cli._files import load_data, save_detector
from skanomaly.cli._grid import make_candidates, read_grid
from skanomaly.cli._printing import print_json, print_note, print_table, progress, shows_progress

FOLDS = 5  # for the threshold, as fit has it

SUMMARY = "find the settings that suit a folder of pictures, and fit them"
DESCRIPTION = """\
Try settings by cross-validation and write a detector with the best of them. Each
candidate learns from good pictures only and is judged on those held out and on the
defects. The best one learns from all good pictures for training, and its threshold is
set as fit sets it.

With labels (good, scratch, ...) the known defects decide; with synthetic = true no
defects are needed: they are painted into good pictures for training, and nothing else
in FOLDER is looked at.
"""
EPILOG = """\
grid.toml:
  detector = "patchcore"              # padim, spade, regad, global_local
  features = "filter_bank"            # or a torchvision backbone, with weights = "file.pth"
  cv = 3                              # folds
  scoring = ["image_auroc", "aupro"]  # the first decides, then the next
  synthetic = false                   # true: paint the defects
  target_fpr = 0.01                   # as fit has it
  random_state = 0

  [grid.features]
  image_size = [128, 224]
  [grid.detector]
  coreset_ratio = [0.02, 0.1]
  sigma = [2, 4, 8]

examples:
  skanomaly tune my_part --grid grid.toml -o best.joblib
  skanomaly tune my_part/good --grid synthetic.toml -o best.joblib --json

The figures of the winner flatter it, for they made it win. Never report them, nor what
evaluate says of the same defects: keep a folder that tune has not seen.

exit codes: 0 the file is written, 2 an error (nothing is written).
"""


def add_arguments(parser):
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help="labelled pictures, or good ones alone"
    )
    parser.add_argument("--grid", type=Path, required=True, help="TOML file, see below")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("best.joblib"),
        help="the detector file to write (default: best.joblib)",
    )
    parser.add_argument("--json", action="store_true", help="the ranking as JSON on stdout")


def run(options):
    """Search, print the ranking, and write the winner."""
    from sklearn.base import clone

    from skanomaly.cli._models import learn, with_threshold

    grid = read_grid(options.grid)
    with whole_file(options.output) as unfinished:
        data = load_data(options.folder)
        images, truth = _material(options.folder, data, grid)
        with TemporaryDirectory(prefix="skanomaly-") as cache:
            pipe, parameters = make_candidates(grid, _n_learned(data, grid), cache)
            ranking = _search(options, grid, pipe, parameters, images, truth)
        best = clone(pipe).set_params(**ranking[0]["parameters"])
        if "features" in best.named_steps:
            best.set_params(features__cache=None)
        model = with_threshold(best, grid.target_fpr, FOLDS, grid.random_state)
        learn(model, data.train.images, grid.detector, bars=shows_progress(options))
        save_detector(model, unfinished, images)
    if options.json:
        print_json({"output": str(options.output), "ranking": ranking})
    else:
        _print_ranking(options, grid, ranking)
    return 0


def _n_learned(data, grid):
    """Good pictures that the smallest training of all sees."""
    n_good, folds = len(data.train.images), min(grid.cv, FOLDS)
    return n_good - -(-n_good // folds)


def _material(folder, data, grid):
    """What candidates learn from and are judged by: images, and masks or labels, or None."""
    from skanomaly.model_selection._scorers import PIXEL_METRICS

    if grid.synthetic:
        return data.train.images, None
    if not (data.test.target == -1).any():
        raise ValueError(
            f"{folder}: expected defects to judge by, found none; add a folder of them beside "
            f"good, or say synthetic = true in {grid.path}"
        )
    images, n_train = [*data.train.images, *data.test.images], len(data.train.images)
    if data.test.masks is not None:
        masks = [mask if mask.any() else None for mask in data.test.masks]
        for name, label, mask in zip(data.test.names, data.test.target, masks, strict=True):
            if label == -1 and mask is None:
                raise ValueError(f"{folder}: the mask of {name} is empty; see skanomaly check")
        return images, [None] * n_train + masks
    of_pixels = [name for name in grid.scoring if name in PIXEL_METRICS]
    if of_pixels:
        raise ValueError(f"{folder}: {of_pixels[0]} needs masks of the defects, there are none")
    return images, [1] * n_train + data.test.target.tolist()


def _search(options, grid, pipe, parameters, images, truth):
    """Records of all candidates, the best first."""
    from sklearn.model_selection import GridSearchCV

    from skanomaly.model_selection import GoodOnlyKFold, scorers

    score = scorers(*grid.scoring, synthetic=grid.synthetic, random_state=grid.random_state)
    with progress(options, grid.n_candidates * grid.cv, "fits") as bar:

        def counted(estimator, X, y=None):
            values = score(estimator, X, y)
            bar.update()
            return values

        search = GridSearchCV(
            pipe,
            parameters,
            cv=GoodOnlyKFold(grid.cv, shuffle=True, random_state=grid.random_state),
            scoring=counted,
            refit=False,
            error_score="raise",
        ).fit(images, truth)
    found = search.cv_results_
    records = [
        {
            "rank": int(found[f"rank_test_{grid.scoring[0]}"][i]),
            "parameters": candidate,
            "scores": {
                name: {
                    "mean": float(found[f"mean_test_{name}"][i]),
                    "std": float(found[f"std_test_{name}"][i]),
                }
                for name in grid.scoring
            },
        }
        for i, candidate in enumerate(found["params"])
    ]
    return sorted(records, key=_goodness, reverse=True)


def _goodness(record):
    """The deciding metric first; of equals the one that is better by the next."""
    return tuple(score["mean"] for score in record["scores"].values())


def _print_ranking(options, grid, ranking):
    table = [["settings", "rank", *grid.scoring]]
    for record in ranking:
        settings = ", ".join(
            f"{name.partition('__')[2]}={value}"
            for name, value in record["parameters"].items()
            if len(grid.grid[name]) > 1
        )
        scores = [f"{s['mean']:.3f} ± {s['std']:.3f}" for s in record["scores"].values()]
        table.append([settings or "as they are", str(record["rank"]), *scores])
    print_table(table)
    print(f"\nthe first one is written to {options.output}")
    judge_by = "real defects" if grid.synthetic else "pictures that are not in this folder"
    print_note(f"these figures chose the winner and flatter it; measure it on {judge_by}")
