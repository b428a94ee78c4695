"""What a server counts, for Prometheus.

metrics = Metrics(waiting_tokens=lambda: batcher.tokens, waiting_questions=lambda: batcher.questions)
metrics.page()                                           # text of /metrics
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0

from densepack_runtime.serving.batcher import Seconds
from densepack_runtime.sessions.session import Batch

CONTENT_TYPE = CONTENT_TYPE_PLAIN_1_0_0
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters in a registry of their own. Thread-safe."""

    def __init__(self, *, waiting_tokens: Callable[[], int], waiting_questions: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("densepack_requests", "Requests", ("endpoint", "status"), registry=registry)
        self._whole = Histogram(
            "densepack_request_seconds",
            "From a request to its response",
            ("endpoint",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._steps = Histogram(
            "densepack_step_seconds", "Where a question's time went", ("step",), buckets=_SECONDS, registry=registry
        )
        self._rows = Histogram("densepack_batch_rows", "Windows of a batch", buckets=_ROWS, registry=registry)
        self._model = Histogram("densepack_batch_seconds", "Time of a batch", buckets=_SECONDS, registry=registry)
        self._tokens = Counter("densepack_tokens", "Tokens that the model ran", registry=registry)
        self._padding = Counter("densepack_padding_tokens", "Padding that it ran beside them", registry=registry)
        for name, text, source in (
            ("densepack_queue_tokens", "Tokens that wait", waiting_tokens),
            ("densepack_queue_questions", "Questions that are not answered yet", waiting_questions),
        ):
            Gauge(name, text, registry=registry).set_function(source)

    def batch(self, batch: Batch, seconds: float) -> None:
        """A batch was run."""
        rows, length = batch.shape
        tokens = sum(window.length for window in batch.windows)
        self._rows.observe(rows)
        self._model.observe(seconds)
        self._tokens.inc(tokens)
        self._padding.inc(rows * length - tokens)

    def answered(self, seconds: Seconds) -> None:
        """A question was answered."""
        for step in fields(seconds):
            self._steps.labels(step.name).observe(getattr(seconds, step.name))

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        """A request got its response; `endpoint` is a name, so that there are few of them."""
        self._requests.labels(endpoint, str(status)).inc()
        self._whole.labels(endpoint).observe(seconds)

    def page(self) -> bytes:
        return generate_latest(self._registry)
