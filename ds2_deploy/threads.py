"""Threads that do a call's work side by side."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Threads(ThreadPoolExecutor):
    """A pool that serves threads which outlive the main one, when Python's pools take no more work: what such a thread
    submits is done in that thread."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        try:
            return super().submit(call, *args, **options)
        except RuntimeError as error:
            if "cannot schedule" not in str(error):  # the system has no thread left: the work is queued already
                raise
        future: Future[Any] = Future()
        try:
            future.set_result(call(*args, **options))
        except Exception as error:
            future.set_exception(error)
        return future
