"""What other thresholds would give on labeled images: false alarms against defects found."""

import numpy as np

_RATES = (0.0, 0.01, 0.02, 0.05, 0.1)  # of false alarms
OWN, BALANCE = "detector", "balance"


def operating_points(target, decisions, offset):
    """Records of the detector's threshold and of others, from the lowest to the highest.

    The others are chosen on these images: for some rates of false alarms, the highest threshold
    that flags no more good images; and the threshold with the smallest mean of both rates of
    errors. A score is one of ``decision_function``.
    """
    good, defective = np.sort(decisions[target == 1]), np.sort(decisions[target == -1])
    n_flagged = dict.fromkeys(int(rate * len(good) + 1e-9) for rate in _RATES)
    thresholds = [(OWN, 0.0), *(("false_alarms", good[n]) for n in n_flagged)]
    ordered = np.unique(decisions)
    between = np.append(ordered[:1], (ordered[:-1] + ordered[1:]) / 2)
    errors = _share_below(good, between) + 1 - _share_below(defective, between)
    thresholds.append((BALANCE, between[np.argmin(errors)]))
    return [
        {
            "chosen_by": chosen_by,
            "score": float(score),
            "offset": float(score + offset),
            "good_flagged": float(_share_below(good, score)),
            "defects_found": float(_share_below(defective, score)),
        }
        for chosen_by, score in sorted(thresholds, key=lambda one: one[1])
    ]


def _share_below(ordered, thresholds):
    return np.searchsorted(ordered, thresholds, side="left") / len(ordered)
