"""A signal is heard whichever thread gets it, also while the main thread waits for a lock."""

from __future__ import annotations

import queue
import signal
import threading

from storage_ledger.system.signals import signals_heard


def test_signal_of_another_thread_is_heard_while_the_main_thread_waits():
    heard: queue.SimpleQueue[signal.Signals] = queue.SimpleQueue()
    before = signal.getsignal(signal.SIGUSR1)
    ended = threading.Event()
    try:
        with signals_heard((signal.SIGUSR1,), heard.put):

            def gets_it() -> None:
                signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
                ended.wait(60)

            thread = threading.Thread(target=gets_it)
            thread.start()
            assert heard.get(timeout=30) is signal.SIGUSR1  # Python's own handler would run only after this
            ended.set()
            thread.join()
        assert heard.empty()
    finally:
        signal.signal(signal.SIGUSR1, before)
