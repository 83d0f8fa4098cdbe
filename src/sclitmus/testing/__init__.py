"""The public conformance kit: what a method, metric, task or dataset must hold to take part.

In your own test suite::

    from sclitmus.testing import check_method

    def test_my_model():
        report = check_method(MyModel())
        assert report.ok, report

The ids of the checks do not change between versions; new ones may be added.
"""

from sclitmus.testing.dataset import check_dataset
from sclitmus.testing.method import check_method
from sclitmus.testing.metric import check_metric
from sclitmus.testing.report import Check, Report
from sclitmus.testing.task import check_task

__all__ = ["Check", "Report", "check_dataset", "check_method", "check_metric", "check_task"]
