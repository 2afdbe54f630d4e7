"""What the service counts, in Prometheus's format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one service; each has a registry of its own.

    Args:
        waiting: Posts that wait for the model now.
    """

    def __init__(self, waiting: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        all_ = self.registry
        ProcessCollector(registry=all_)
        PlatformCollector(registry=all_)
        self.requests = Counter("mner_requests", "Requests, by path and status.", ["path", "status"], registry=all_)
        self.refusals = Counter("mner_refusals", "Requests that were refused, by code.", ["code"], registry=all_)
        self.seconds = Histogram(
            "mner_request_seconds", "From a request to its answer.", ["path"], buckets=_SECONDS, registry=all_
        )
        self.posts = Counter("mner_posts", "Posts that were tagged.", registry=all_)
        self.entities = Counter("mner_entities", "Entities that were found, by type.", ["type"], registry=all_)
        self.batch_posts = Histogram(
            "mner_batch_posts", "Posts that were tagged together.", buckets=[2**n for n in range(9)], registry=all_
        )
        self.batch_seconds = Histogram(
            "mner_batch_seconds", "Tagging what was taken together.", buckets=_SECONDS, registry=all_
        )
        self.reloads = Counter("mner_reloads", "Models that were loaded again, by result.", ["result"], registry=all_)
        self.model = Info("mner_model", "The model that answers.", registry=all_)
        Gauge("mner_waiting_posts", "Posts that wait for the model.", registry=all_).set_function(waiting)

    def page(self) -> bytes:
        """All of it as text."""
        return generate_latest(self.registry)
