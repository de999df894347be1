"""Checks that a detector or an extractor keeps the contract, for those who write one.

``check_detector(MyDetector())`` raises an error that names the rule that is broken and how to mend
it; ``parametrize_with_checks`` makes a pytest test of each rule.
"""

from skanomaly.estimator_checks._runner import (
    check_detector,
    check_extractor,
    parametrize_with_checks,
)

__all__ = ["check_detector", "check_extractor", "parametrize_with_checks"]
