"""fit and inspect on a cluster of Dask."""

from skanomaly.cli._printing import print_note, shows_progress
from skanomaly.exceptions import MissingImageError

N_FOLDS = 5


def add_cluster(parser):
    """Add the arguments of the commands that can run on a cluster."""
    parser.add_argument(
        "--cluster",
        metavar="local:N|tcp://HOST:PORT",
        help="run on a cluster of Dask: N processes on this machine, or that of a scheduler, whose "
        "workers can read the images under the same paths",
    )


def fit_on_cluster(options, pipe, images):
    """A fitted pipeline with a threshold from folds of whole partitions."""
    from skanomaly.cli._pipelines import with_threshold
    from skanomaly.distributed import Distributed, connect
    from skanomaly.utils.unwrapping import without_threshold

    if options.groups not in ("auto", "none"):
        raise ValueError(
            "--groups with a pattern is not an option with --cluster, where images that follow one "
            "another are held out together; leave it out"
        )
    if options.groups == "auto":
        print_note(
            "images of one object are not looked for on a cluster; images that follow one another "
            "by name are held out together"
        )
    folds = N_FOLDS if options.folds is None else options.folds
    model = with_threshold(without_threshold(pipe), options.target_fpr, folds, options.random_state)
    settings = {"coreset": options.coreset or "merged", "verbose": int(shows_progress(options))}
    with connect(options.cluster):
        return Distributed(model, **settings).fit(images).estimator_


def inspect_on_cluster(options, model):
    """Numbers of images, defects and errors; the rows are in Parquet files."""
    from skanomaly.cli._results import SCORES_FILE
    from skanomaly.distributed import connect, score_files

    for name in ("json", "report", "good"):
        if getattr(options, name):
            raise ValueError(
                f"--{name} is not an option with --cluster, which writes Parquet files for "
                "millions of images; leave it out, or inspect fewer images without --cluster"
            )
    for path in options.images:
        if not path.exists():
            raise MissingImageError(f"{path}: no such image file")
    if (options.output / SCORES_FILE).exists():
        raise ValueError(
            f"{options.output}: expected a folder without results of an inspection in one process, "
            f"got one with {SCORES_FILE}; choose another one with -o, or delete that file"
        )
    with connect(options.cluster):
        return score_files(
            model,
            _iterate(options.images, options.output),
            options.output,
            errors="raise" if options.strict else "record",
            restart=options.restart,
            verbose=int(shows_progress(options)),
        )


def _iterate(paths, output):
    """The given images and those in the given folders, listed as they are asked for."""
    from skanomaly.datasets import iterate_images

    for path in paths:
        if path.is_dir():
            yield from iterate_images(path, without=output)
        else:
            yield str(path)
