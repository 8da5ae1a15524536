"""Many processes, threads and pipes: $PROCESSES workers (3) of $THREADS threads (4) each behind one web page.

`GET /` on port 8080 makes every thread of every worker count once and returns the sum of all counts: requests
so far times PROCESSES times THREADS, as long as nobody was lost.
"""

import os
import queue
import threading

from service import serve

_PROCESSES = int(os.environ.get("PROCESSES", "3"))
_THREADS = int(os.environ.get("THREADS", "4"))


class _Worker:
    """A child process that answers each byte on its pipe with the sum of its threads' counts."""

    def __init__(self) -> None:
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        if os.fork() == 0:
            os.close(self._orders)
            _work(orders, answers)
        os.close(orders)
        os.close(answers)

    def count(self) -> int:
        os.write(self._orders, b"+")
        return int.from_bytes(os.read(self._answers, 8), "big")


def _work(orders: int, answers: int) -> None:
    counts = [0] * _THREADS
    orders_of: list[queue.SimpleQueue[None]] = [queue.SimpleQueue() for _ in range(_THREADS)]
    done: queue.SimpleQueue[None] = queue.SimpleQueue()

    def thread(number: int) -> None:
        while True:
            orders_of[number].get()
            counts[number] += 1
            done.put(None)

    for number in range(_THREADS):
        threading.Thread(target=thread, args=(number,), daemon=True).start()
    while os.read(orders, 1):
        for waiting in orders_of:
            waiting.put(None)
        for _ in orders_of:
            done.get()
        os.write(answers, sum(counts).to_bytes(8, "big"))
    os._exit(0)


if __name__ == "__main__":
    workers = [_Worker() for _ in range(_PROCESSES)]
    one_at_a_time = threading.Lock()

    def count(_: dict[str, str], __: str) -> str:
        with one_at_a_time:
            return f"{sum(worker.count() for worker in workers)}\n"

    serve({"/": count})
