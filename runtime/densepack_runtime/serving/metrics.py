"""What a server counts, for Prometheus.

metrics = Metrics()
Batcher(answerer, grid, ran=metrics.batch, waits=metrics.waits)
metrics.page()                                           # text of /metrics
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0
from prometheus_client.multiprocess import MultiProcessCollector

from densepack_runtime.serving.batcher import Seconds
from densepack_runtime.sessions.session import Batch

CONTENT_TYPE = CONTENT_TYPE_PLAIN_1_0_0
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters in a registry of their own. Thread-safe.

    With `shared`, the folder that PROMETHEUS_MULTIPROC_DIR named when the process began, the page has the sums over all
    processes that count there, also over those that have ended.
    """

    def __init__(self, shared: Path | None = None) -> None:
        self._shared = shared
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
        self._waiting_tokens, self._waiting_questions = (
            Gauge(name, text, registry=registry, multiprocess_mode="livesum")
            for name, text in (
                ("densepack_queue_tokens", "Tokens that wait"),
                ("densepack_queue_questions", "Questions that are not answered yet"),
            )
        )
        self._reloads = Counter("densepack_reloads", "Bundles that were to take over", ("outcome",), registry=registry)

    def batch(self, batch: Batch, seconds: float) -> None:
        """A batch was run."""
        rows, length = batch.shape
        tokens = sum(window.length for window in batch.windows)
        self._rows.observe(rows)
        self._model.observe(seconds)
        self._tokens.inc(tokens)
        self._padding.inc(rows * length - tokens)

    def waits(self, tokens: int, questions: int) -> None:
        """What waits became so much more, or less."""
        self._waiting_tokens.inc(tokens)
        self._waiting_questions.inc(questions)

    def reloaded(self, outcome: str) -> None:
        """A reload has "swapped" the model, or was "refused"."""
        self._reloads.labels(outcome).inc()

    def answered(self, seconds: Seconds) -> None:
        """A question was answered."""
        for step in fields(seconds):
            self._steps.labels(step.name).observe(getattr(seconds, step.name))

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        """A request got its response; `endpoint` is a name, so that there are few of them."""
        self._requests.labels(endpoint, str(status)).inc()
        self._whole.labels(endpoint).observe(seconds)

    def page(self) -> bytes:
        if self._shared is None:
            return generate_latest(self._registry)
        everybodys = CollectorRegistry()
        MultiProcessCollector(everybodys, str(self._shared))  # type: ignore[no-untyped-call]
        return generate_latest(everybodys)
