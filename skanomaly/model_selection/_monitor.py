"""ScoreMonitor: whether scores still look like those that the threshold was set on."""

from numbers import Real

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, check_random_state, column_or_1d
from sklearn.utils.validation import check_is_fitted

from skanomaly.utils.validation import Interval, StrOptions, fitting

N_IMAGES = 1000  # that the rate of false alarms is stated for
N_RUNS = 10_000  # of so many images, simulated to find the limit
_CHUNK = 2000  # runs simulated at a time
# Drift that is tolerated per image, of which the best is chosen: a score counts from -1 to 1.
_ALLOWANCES = np.array([0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5])
# Mean that scores shifted by one of their standard deviations have as ranks, if they are normal:
# 2 Phi(1 / sqrt(2)) - 1. The limit and the allowance are those that find such a shift soonest.
_SHIFT = 0.5205
_DIRECTIONS = "lower", "higher"


class ScoreMonitor(BaseEstimator):
    """Sequential test of whether incoming scores still look like those of held-out good images.

    A lamp that ages, a camera that is moved or dirt on a lens changes the scores of good parts, and
    then neither the threshold nor the promised rate of false alarms holds any more. The monitor
    compares the scores of incoming images with those that the threshold was set on, and raises an
    alarm when they have drifted; a few defects among the images do not.

    Parameters
    ----------
    false_alarm_rate : float in [0.001, 0.5], default=0.01
        Largest probability of an alarm within 1,000 images if nothing has changed. Fewer false
        alarms take more images until a change is found.
    defect_rate : float in [0, 0.5), default=0.05
        Share of the images that may be defects without counting as a change.
    alternative : {"two-sided", "less"}, default="two-sided"
        What counts as a change. "less": scores that fall, that is images that look more abnormal.
        "two-sided": scores that rise as well, as those of images out of focus may. Take "less" if
        the scores in `fit` come from models of folds, which score images lower than the final one.
    random_state : int, RandomState instance or None, default=0
        Draws the simulation that the limit comes from.

    Attributes
    ----------
    reference_ : ndarray of shape (n,), float64
        The scores that were given to `fit`, sorted.
    allowance_ : float
        Mean drift of the ranks that is tolerated.
    limit_ : float
        An alarm is raised where an entry of `statistic_` reaches it.
    min_delay_ : int
        Fewest images after which an alarm can come, however large the change.
    statistic_ : ndarray of shape (2,), float64
        Evidence of scores that are lower, and of those that are higher; 0 without any.
    n_seen_ : int
        Number of scores seen since `fit`.
    alarms_ : list of tuple (int, str)
        Each alarm: the number of the image at which it was raised, counted from 1, and "lower" or
        "higher".

    See Also
    --------
    HeldOutThreshold : Its ``oof_scores_`` are the scores to fit on.

    Notes
    -----
    Each incoming score is replaced by its rank among the n held-out ones, scaled to (-1, 1): u is
    (2 r + 1) / (n + 1) - 1 where r of them are higher (ties count half), high for an abnormal
    image. A defect counts at most 1, however low its score is. The ranks are added up by Page's
    test, CUSUM [1]_: S = max(0, S + u - allowance), and the same for -u. An alarm is raised where S
    reaches the limit; S then starts again from 0, so that alarms are repeated while a drift lasts.

    Where incoming and held-out scores are of one continuous distribution, the distribution of S
    depends on n alone. Limit and allowance come from a simulation of 10,000 sets of n scores with
    1,000 further ones each: the share of runs in which S reaches the limit is at most
    `false_alarm_rate`, with a share `defect_rate` of defects or none. The few held-out scores
    that there are count as such: with fewer, the allowance is larger and small changes stay unseen.

    All this takes good images that are independent. Images of one batch of material resemble each
    other, and alarms at such changes are more frequent than stated.

    References
    ----------
    .. [1] Page, "Continuous inspection schemes", Biometrika 41 (1954).

    Examples
    --------
    >>> import numpy as np
    >>> from skanomaly.model_selection import ScoreMonitor
    >>> rng = np.random.default_rng(0)
    >>> monitor = ScoreMonitor().fit(rng.normal(size=100))
    >>> monitor.update(rng.normal(size=200))
    False
    >>> monitor.update(rng.normal(size=100) - 1)  # one standard deviation lower
    True
    >>> monitor.alarms_[0]
    (223, 'lower')
    """

    _parameter_constraints = {
        "false_alarm_rate": [Interval(Real, 0.001, 0.5, closed="both")],
        "defect_rate": [Interval(Real, 0, 0.5, closed="left")],
        "alternative": [StrOptions({"two-sided", "less"})],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        *,
        false_alarm_rate=0.01,
        defect_rate=0.05,
        alternative="two-sided",
        random_state=0,
    ):
        self.false_alarm_rate = false_alarm_rate
        self.defect_rate = defect_rate
        self.alternative = alternative
        self.random_state = random_state

    @fitting()
    def fit(self, scores, y=None):
        """Keep the scores of good images to compare with, and find the limit.

        Parameters
        ----------
        scores : array-like of shape (n,)
            Scores of at least 10 good images as if they were new, low for a defect, such as
            ``oof_scores_`` of a HeldOutThreshold.
        y : None
            Ignored.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            There are fewer than 10 scores, or some are not finite; or more defects are allowed for
            than can be told from a drift.
        """
        self.reference_ = np.sort(_check_scores(scores))
        if len(self.reference_) < 10:
            raise ValueError(
                f"expected the scores of at least 10 good images, got {len(self.reference_)}; fit "
                "the detector and its threshold on more images"
            )
        self.allowance_, self.limit_ = self._find_limit()
        n = len(self.reference_)
        self.min_delay_ = int(np.ceil(self.limit_ / (n / (n + 1) - self.allowance_)))
        self.n_seen_ = 0
        self.alarms_ = []
        self.statistic_ = np.zeros(2)
        return self

    def update(self, scores):
        """Take in the scores of further images, in the order in which they came.

        Parameters
        ----------
        scores : array-like of shape (n,)
            From ``score_samples``; good images and defects.

        Returns
        -------
        bool
            Whether an alarm was raised at one of them.

        Raises
        ------
        ValueError
            Some scores are not finite; then none is taken in.
        NotFittedError
            There is nothing to compare with yet.
        """
        check_is_fitted(self)
        ranks = _ranks(self.reference_, _check_scores(scores, allow_none=True))
        lower, higher = self.statistic_.tolist()
        is_two_sided, alarms = self.alternative == "two-sided", []
        for n, rank in enumerate(ranks.tolist(), start=self.n_seen_ + 1):
            lower = max(0.0, lower + rank - self.allowance_)
            higher = max(0.0, higher - rank - self.allowance_) if is_two_sided else 0.0
            if max(lower, higher) >= self.limit_:
                alarms.append((n, _DIRECTIONS[higher > lower]))
                lower = higher = 0.0
        self.statistic_ = np.array([lower, higher])
        self.n_seen_ += len(ranks)
        self.alarms_ = [*self.alarms_, *alarms]
        return bool(alarms)

    def _find_limit(self):
        """The allowance and the limit that find a shift soonest at the wanted rate."""
        rng = check_random_state(self.random_state)
        n, is_two_sided = len(self.reference_), self.alternative == "two-sided"
        maxima = np.concatenate(
            [
                _simulate(rng, _CHUNK, n, self.defect_rate, is_two_sided)
                for _ in range(N_RUNS // _CHUNK)
            ]
        )  # (N_RUNS, n_allowances)
        # The next larger value, so that at most the wanted share of runs reaches it.
        limits = np.quantile(maxima, 1 - self.false_alarm_rate, axis=0, method="higher")
        limits = np.nextafter(limits, np.inf)
        gain = _SHIFT - _ALLOWANCES
        delays = np.where(gain > 0, limits / np.where(gain > 0, gain, 1), np.inf)
        best = int(np.argmin(delays))
        if _ALLOWANCES[best] <= self.defect_rate:
            raise ValueError(
                f"expected a defect_rate that a drift can be told from, below "
                f"{_ALLOWANCES[best]:.2g}, got {self.defect_rate:g}"
            )
        return float(_ALLOWANCES[best]), float(limits[best])


def _check_scores(scores, allow_none=False):
    """(n,) float64, all finite."""
    scores = column_or_1d(scores)
    return check_array(
        scores, dtype=np.float64, ensure_2d=False, ensure_min_samples=int(not allow_none)
    )


def _ranks(reference, scores):
    """Ranks of scores among sorted ones, from above -1 to below 1; high for low scores."""
    lower = np.searchsorted(reference, scores, side="left")
    not_higher = np.searchsorted(reference, scores, side="right")
    return 1 - (lower + not_higher + 1) / (len(reference) + 1)


def _simulate(rng, n_runs, n_reference, defect_rate, is_two_sided):
    """Largest statistics within runs of N_IMAGES unchanged images, (n_runs, n_allowances)."""
    reference = np.sort(rng.uniform(size=(n_runs, n_reference)), axis=1)
    scores = rng.uniform(size=(n_runs, N_IMAGES))
    lower = [np.searchsorted(*run) for run in zip(reference, scores, strict=True)]  # no ties
    good = 1 - (2 * np.stack(lower, axis=1) + 1) / (n_reference + 1)  # (N_IMAGES, n_runs)
    lowest = n_reference / (n_reference + 1)
    mixed = np.where(rng.uniform(size=good.shape) < defect_rate, lowest, good)  # the same shape
    # Defects for scores that are lower and none for those that are higher: the worst of both.
    sides = [mixed[:, :, None], -good[:, :, None]] if is_two_sided else [mixed[:, :, None]]
    maxima = np.zeros((n_runs, len(_ALLOWANCES)))
    for side in sides:
        statistic = np.zeros_like(maxima)
        for ranks in side:  # (n_runs, 1)
            np.maximum(statistic + ranks - _ALLOWANCES, 0, out=statistic)
            np.maximum(maxima, statistic, out=maxima)
    return maxima
