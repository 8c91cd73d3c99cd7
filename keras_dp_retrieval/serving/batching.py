"""Batcher: requests that wait are put to the device together."""

import asyncio
import collections
import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

from keras_dp_retrieval.serving.questions import Question

# How long a batch waits for others, as a share of the time of the last.
PATIENCE = 0.1
PATIENCE_SECONDS = 0.01


@dataclasses.dataclass(eq=False)
class _Waiting:
    question: Question
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future


class Batcher:
    """Asks questions one batch at a time, in a thread of its own.

    A batch is what waits when the device is free: under little load that is
    one question, at once, and under much load a full batch. Those who were
    answered last are likely to ask again at once, so where fewer wait than
    were in the last batch, they wait for others to come, for a tenth of the
    time that it took at most. Without it, eight clients that ask one question
    after the other would be answered as seven and one in turn.

    Args:
        ask: Function of `Question`s of one group that returns an answer for
            each. If it raises a ValueError, it is asked each question by
            itself, so that the error is that of who asked.
        most: int. Users of one batch.
        patience_seconds: float. The longest wait for others.
        clock: Function that returns seconds.
    """

    def __init__(
        self,
        ask: Callable[[list[Question]], list],
        most: int,
        patience_seconds: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._ask, self._most = ask, most
        self._patience_seconds, self._clock = patience_seconds, clock
        self._last_users, self._last_seconds = 0, 0.0
        self._waiting: collections.deque[_Waiting] = collections.deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(
            target=self._run, name="device", daemon=True
        )
        self._thread.start()

    async def ask(self, question: Question) -> Any:
        """Returns the answer; who stops waiting is not answered."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(question, loop, loop.create_future())
        with self._changed:
            if self._is_closed:
                raise RuntimeError("The batcher is closed.")
            self._waiting.append(waiting)
            self._changed.notify()
        return await waiting.future

    def close(self) -> None:
        """Answers what waits, and ends the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self):
        while batch := self._next_batch():
            started = self._clock()
            answers = self._answers([one.question for one in batch])
            self._last_users = sum(len(one.question) for one in batch)
            self._last_seconds = self._clock() - started
            by_loop = collections.defaultdict(list)
            for one, answer in zip(batch, answers, strict=True):
                by_loop[one.loop].append((one.future, answer))
            for loop, answered in by_loop.items():
                # The loop is gone if nobody waits any more.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(_deliver, answered)

    def _next_batch(self) -> list[_Waiting]:
        """The first that waits, and others of its group; [] at the end."""
        with self._changed:
            while True:
                self._wait_for_others()
                batch = self._taken()
                if batch or self._is_closed:
                    return batch
                self._changed.wait()

    def _wait_for_others(self) -> None:
        wait = min(PATIENCE * self._last_seconds, self._patience_seconds)
        self._changed.wait_for(
            lambda: (
                self._is_closed
                or not self._waiting
                or sum(len(one.question) for one in self._waiting)
                >= self._last_users
            ),
            wait,
        )

    def _taken(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        others = []
        number = 0
        for one in self._waiting:
            if one.future.done():  # Nobody waits for it.
                continue
            fits = number + len(one.question) <= self._most
            alike = not batch or one.question.group == batch[0].question.group
            if not batch or (fits and alike):
                batch.append(one)
                number += len(one.question)
            else:
                others.append(one)
        self._waiting = collections.deque(others)
        return batch

    def _answers(self, questions) -> list:
        """The answers, or the errors."""
        try:
            return self._ask(questions)
        except Exception as error:
            if len(questions) == 1 or not isinstance(error, ValueError):
                return [error] * len(questions)
        return [self._answers([question])[0] for question in questions]


def _deliver(answered):
    for future, answer in answered:
        if future.done():
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
