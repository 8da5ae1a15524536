"""Work that blocks on the disk, in a thread that ends with it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable


async def in_thread[T](work: Callable[[], T]) -> T:
    """Runs `work` in a thread of its own that ends with it: the shim keeps no thread, so that it may fork."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def finish(value: T | None, error: BaseException | None) -> None:
        if result.cancelled():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type]

    def run() -> None:
        try:
            value = work()
        except Exception as error:  # noqa: BLE001  (handed to the waiter as it is)
            loop.call_soon_threadsafe(finish, None, error)
        else:
            loop.call_soon_threadsafe(finish, value, None)

    threading.Thread(target=run, daemon=True).start()
    return await result
