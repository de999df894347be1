"""Fits that are put together from parts, as a cluster does."""

import pickle
from itertools import pairwise

from sklearn.base import clone


def fit_in_parts(detector, X, edges, together=3):
    """What a cluster does: a plan, each part by a copy of it, a tree of joins; all as pickles."""
    plan = clone(detector)
    plan._plan_parts(X[plan._plan_places(len(X))], len(X))
    plan = pickle.dumps(plan)
    states = [
        pickle.dumps(pickle.loads(plan)._learn_part(X[first:end], first))
        for first, end in pairwise(edges)
    ]
    while len(states) > 1:
        groups = [states[i : i + together] for i in range(0, len(states), together)]
        states = [
            pickle.dumps(pickle.loads(plan)._join_parts([pickle.loads(one) for one in few]))
            for few in groups
        ]
    fitted = pickle.loads(plan)
    fitted._fit_from(pickle.loads(states[0]))
    return fitted
