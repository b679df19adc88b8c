"""What Prometheus can ask this process. A metric belongs to the process, so each one is a global, as is usual."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

_FAST = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_WAITS = (0.001, 0.01, 0.1, 0.5, 1, 5, 10, 30, 60, 300)

RECONCILE_SECONDS = Histogram(
    "finetune_reconcile_seconds",
    "Duration of a reconcile, by controller and result: success, conflict, error.",
    ["controller", "result"],
    buckets=_FAST,
    registry=REGISTRY,
)
QUEUE_WAIT_SECONDS = Histogram(
    "finetune_queue_wait_seconds",
    "Time that a key waited for a worker.",
    buckets=_WAITS,
    registry=REGISTRY,
)
QUEUE_DEPTH = Gauge("finetune_queue_depth", "Keys that wait for a worker.", registry=REGISTRY)
API_REQUESTS = Counter(
    "finetune_api_requests",
    "Requests to the API server, by verb, resource and HTTP status; 0 is no answer.",
    ["verb", "resource", "code"],
    registry=REGISTRY,
)
API_REQUEST_SECONDS = Histogram(
    "finetune_api_request_seconds",
    "Duration of requests to the API server other than watches.",
    ["verb"],
    buckets=_FAST,
    registry=REGISTRY,
)
WATCH_RESTARTS = Counter(
    "finetune_watch_restarts",
    "Ends of a watch or list of the API server, by resource and by what ended it.",
    ["resource", "reason"],
    registry=REGISTRY,
)
CACHED_OBJECTS = Gauge("finetune_cached_objects", "Objects in the cache.", ["resource"], registry=REGISTRY)
LOOP_LAG_SECONDS = Gauge("finetune_loop_lag_seconds", "How late the event loop was last.", registry=REGISTRY)
LEADER = Gauge("finetune_leader", "1 on the replica that holds the lease.", registry=REGISTRY)
EVENTS = Counter("finetune_events", "Kubernetes events, by result: written, dropped.", ["result"], registry=REGISTRY)
ATTEMPTS_ENDED = Counter("finetune_attempts_ended", "Attempts that ended, by reason.", ["reason"], registry=REGISTRY)
PROGRESS_REPORTS = Counter(
    "finetune_progress_reports",
    "Progress reports, by result: accepted, forwarded, or why they were refused.",
    ["result"],
    registry=REGISTRY,
)


class Jobs(Collector):
    """FineTuneJobs by phase, as `count` gives them when they are asked for: by one replica, so that sums are right."""

    def __init__(self) -> None:
        self.count: Callable[[], Mapping[str, int]] = dict

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What Prometheus reads."""
        found = GaugeMetricFamily("finetune_jobs", "FineTuneJobs, by phase; told by the leader only.", labels=["phase"])
        for phase, number in self.count().items():
            found.add_metric([phase], number)
        yield found


JOBS = Jobs()
REGISTRY.register(JOBS)


def api_request(verb: str, resource: str, code: int, seconds: float) -> None:
    """Count a request; what `Client.connect` takes as `observe`."""
    API_REQUESTS.labels(verb, resource, str(code)).inc()
    if verb != "watch":
        API_REQUEST_SECONDS.labels(verb).observe(seconds)
