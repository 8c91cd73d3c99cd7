"""What the server counts, for Prometheus."""

import prometheus_client
from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
USERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST


class Metrics:
    """The server's counters, in a registry of its own."""

    def __init__(self):
        self.registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self.registry)

        def made(kind, name, text, labels=(), **options):
            return kind(
                f"kdr_{name}", text, labels, registry=self.registry, **options
            )

        self.requests = made(
            Counter, "requests", "Requests answered.", ("path", "status")
        )
        self.request_seconds = made(
            Histogram,
            "request_seconds",
            "From the first byte of a request to the answer.",
            ("path",),
            buckets=SECONDS,
        )
        self.in_flight = made(Gauge, "requests_in_flight", "Being answered.")
        self.batch_users = made(
            Histogram,
            "batch_users",
            "Users of a batch on the device.",
            buckets=USERS,
        )
        self.batch_seconds = made(
            Histogram,
            "batch_seconds",
            "Time of a batch, in which others wait.",
            buckets=SECONDS,
        )
        self.answers = made(
            Counter, "answers", "Users answered, by source.", ("source",)
        )
        self.unknown_ids = made(
            Counter, "unknown_ids", "Ids that the model does not know."
        )
        self.compile_seconds = made(
            Gauge, "compile_seconds", "Compiling, since the model was ready."
        )
        self.reloads = made(
            Counter, "reloads", "Models loaded, by outcome.", ("outcome",)
        )
        self.loaded = made(
            Gauge,
            "model_loaded_timestamp_seconds",
            "When the model was loaded.",
        )

    def text(self) -> bytes:
        return prometheus_client.generate_latest(self.registry)
