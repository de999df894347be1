"""The options of watch and serve that watch the scores for drift."""

from skanomaly.cli._printing import print_note

RATE = 0.01
CAUSES = "look at the light, the camera and its lens, and fit again if the parts themselves differ"


def add_monitor(parser):
    """Add --monitor and --monitor-rate."""
    parser.add_argument(
        "--monitor",
        action="store_true",
        help="say when scores drift from those of the good images that the threshold was set on",
    )
    parser.add_argument(
        "--monitor-rate",
        metavar="RATE",
        type=float,
        default=RATE,
        help="largest probability of a false alarm within 1,000 images (default: %(default)s)",
    )


def make_monitor(options, model, scores):
    """A monitor fitted on scores of held-out images; None without --monitor."""
    from skanomaly.model_selection import ScoreMonitor

    if not options.monitor:
        return None
    # Models of folds score images lower than the one in use: that scores rise then means nothing.
    alternative = "less" if getattr(model, "method_", "folds") == "folds" else "two-sided"
    rate = options.monitor_rate
    return ScoreMonitor(false_alarm_rate=rate, alternative=alternative).fit(scores)


def note_drift(direction, name):
    """Print a note on an alarm."""
    print_note(
        f"drift: at {name} the scores are {direction} than those of the good images that the "
        f"threshold was set on; {CAUSES}"
    )
