"""What the scale bench counts: every promise of "no write" and "writes per job" rests on this."""

from __future__ import annotations

import pytest

from bench.scale_load import without_events, writes_in

METRICS = """
# TYPE apiserver_request_total counter
apiserver_request_total{code="200",group="ray.io",resource="rayjobs",subresource="",verb="LIST",version="v1"} 9
apiserver_request_total{code="201",group="ray.io",resource="rayjobs",subresource="",verb="POST",version="v1"} 3
apiserver_request_total{code="409",group="ray.io",resource="rayjobs",subresource="",verb="POST",version="v1"} 1
apiserver_request_total{code="200",group="ray.io",resource="rayjobs",subresource="status",verb="PATCH",version="v1"} 2
apiserver_request_total{code="201",group="events.k8s.io",resource="events",subresource="",verb="POST",version="v1"} 5
apiserver_request_total{code="200",group="",resource="leases",subresource="",verb="PUT",version="v1"} 7
"""


def test_writes_are_counted_refused_ones_too_and_leases_left_out() -> None:
    found = writes_in(METRICS)
    assert found == {"POST rayjobs": 4, "PATCH rayjobs/status": 2, "POST events": 5}
    assert without_events(found) == 6


def test_metrics_without_any_write_are_not_taken_for_no_writes() -> None:
    with pytest.raises(LookupError, match="apiserver_request_total"):
        writes_in(METRICS.replace("apiserver_request_total", "apiserver_requests"))
