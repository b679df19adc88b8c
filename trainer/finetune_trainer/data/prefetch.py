"""Work done ahead, in order, in one background thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def prefetched(work: Callable[[Task], Result], tasks: Iterable[Task], ahead: int) -> Generator[tuple[Task, Result]]:
    """`work(task)` for every task, in order, up to `ahead` tasks before they are asked for.

    An exception of `work` is raised here, at its task's turn. Closing the iterator waits for the task that is running.
    """
    coming = iter(tasks)
    pending: deque[tuple[Task, Future[Result]]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="data-prefetch") as pool:
        try:
            pending.extend((task, pool.submit(work, task)) for task in islice(coming, ahead))
            while pending:
                task, future = pending.popleft()
                result = future.result()
                pending.extend((task, pool.submit(work, task)) for task in islice(coming, 1))
                yield task, result
        finally:
            for _, future in pending:
                future.cancel()
