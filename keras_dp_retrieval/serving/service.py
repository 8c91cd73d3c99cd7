"""Service: the model that is served now, and what asks it."""

import contextlib
import logging
import threading
import time

import keras

from keras_dp_retrieval.serving.batching import Batcher
from keras_dp_retrieval.serving.questions import Question
from keras_dp_retrieval.serving.request_limits import Limits
from keras_dp_retrieval.serving.request_metrics import Metrics
from keras_dp_retrieval.serving.row_searches import EXACT
from keras_dp_retrieval.serving.served_model import ServedModel, file_version

_log = logging.getLogger(__name__)


class Service:
    """Answers requests by a model, which another may replace.

    Args:
        served: `ServedModel`.
        limits: Optional `Limits`.
        path: Optional path of the model's file, for `reload`.
        search: One of `SEARCHES`, for `reload`.
    """

    def __init__(
        self, served: ServedModel, limits=None, path=None, search=EXACT
    ):
        self.limits = limits or Limits()
        self.metrics = Metrics()
        self.served = served
        self.is_ready = self.is_draining = False
        self._path, self._search = path, search
        self._tried_version = served.version
        self._reloading = threading.Lock()
        self._compiling = _CompileClock()
        self._batcher = Batcher(self._answers, self.limits.users)

    def warm_up(self) -> None:
        """Compiles what answers need; before it, nothing is ready."""
        self.served.retriever.warm_up()
        self.metrics.loaded.set(self.served.loaded_at)
        self.is_ready = True

    async def ask(self, question: Question):
        """Returns `(answers, model)`: one for each user, and who said so."""
        return await self._batcher.ask(question)

    def reload(self) -> bool:
        """Replaces the model by that in its file; returns whether it did.

        Questions go on being answered by the present one until the new one
        has compiled everything. A file that cannot be read leaves it as it is.
        """
        with self._reloading:
            try:
                served = ServedModel.load(self._path, self.limits, self._search)
                served.retriever.warm_up()
            except Exception as error:
                self.metrics.reloads.labels("failed").inc()
                _log.error("The model stays as it is: %s", _one_line(error))
                return False
            self.served = served  # The next batch is asked of it.
            self.metrics.reloads.labels("loaded").inc()
            self.metrics.loaded.set(served.loaded_at)
            _log.info("Now serving %s.", served.version)
            return True

    def reload_if_changed(self) -> bool:
        """`reload`, if the file is another one."""
        with contextlib.suppress(OSError):  # It may be replaced this moment.
            version = file_version(self._path)
            if version != self._tried_version:
                self._tried_version = version
                return self.reload()
        return False

    def close(self) -> None:
        """Answers what waits, then nothing more."""
        self._batcher.close()

    def _answers(self, questions) -> list:
        served, metrics = self.served, self.metrics
        started = time.perf_counter()
        self._compiling.start()
        answers = served.retriever.answers(questions)
        metrics.compile_seconds.inc(self._compiling.seconds())
        metrics.batch_seconds.observe(time.perf_counter() - started)
        metrics.batch_users.observe(sum(map(len, questions)))
        for of_question in answers:
            for answer in of_question:
                metrics.answers.labels(answer.source).inc()
                metrics.unknown_ids.inc(answer.num_unknown)
        return [(one, served) for one in answers]


class _CompileClock:
    """Seconds that this thread compiles; 0 where nobody counts them."""

    def __init__(self):
        self._jax = None
        if keras.backend.backend() == "jax":
            from keras_dp_retrieval._jax import compilation

            self._jax = compilation
            compilation.listen()

    def start(self) -> None:
        self._before = 0.0 if self._jax is None else self._jax.seconds()

    def seconds(self) -> float:
        if self._jax is None:
            return 0.0
        return self._jax.seconds() - self._before


def _one_line(error) -> str:
    return " ".join(str(error).split()) or type(error).__name__
