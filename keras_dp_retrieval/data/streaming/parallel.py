"""Work on one block after the other, some of it ahead, in threads."""

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

# Reading and decoding need not hold Python's lock. More threads than this
# wait for it, and each has a block in memory.
NUM_THREADS = min(4, os.cpu_count() or 1)


def results_in_order(
    function: Callable, items: Iterable, num_threads: int = NUM_THREADS
) -> Iterator[Any]:
    """Yields `function(item)` of each, in the order of the items.

    Not more than two items a thread are worked on or wait to be taken.
    """
    with concurrent.futures.ThreadPoolExecutor(num_threads) as threads:
        waiting: collections.deque = collections.deque()
        try:
            for item in items:
                waiting.append(threads.submit(function, item))
                if len(waiting) >= 2 * num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
