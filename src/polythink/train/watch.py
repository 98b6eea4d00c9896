"""Notices processes that are neither at work nor gone: a machine without power, a process that was stopped.

A process that ends closes its connections, which the others notice at once. One that merely falls silent would be
waited for. So each says, every few seconds and from a thread of its own, that it is there, in the store through which
all have met; when one has said nothing for too long, the others end.
"""

from __future__ import annotations

import os
import sys
import threading
from datetime import timedelta

import torch.distributed as dist

EVERY = 5.0  # seconds between two signs of life
SILENT = 120.0  # seconds without one, after which a process counts as lost
STATUS = 2  # that this process then ends with


class Watch:
    """Begins when it is made, in a daemon thread; `leave` says that this process ends as it should."""

    def __init__(self, rank: int, world: int, sentence: str) -> None:
        self.rank, self.sentence = rank, sentence
        self.next = (rank + 1) % world  # each watches one other: when one ends, the rest notices
        self.address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self.store: dist.Store | None = None
        self.met = threading.Event()  # the store has been reached, or never will be
        self.over = threading.Event()
        # looks at the other since it was last heard. Counted, not timed: a suspended job has heard nobody
        self.unheard = 0
        self.lock = threading.Lock()  # of the store, which one thread at a time may use
        # two: the store itself may fall silent, while it is reached already
        for work in (self._beat, self._judge):
            threading.Thread(target=work, name="watch", daemon=True).start()

    def leave(self) -> None:
        """Nobody need wait for this process any more."""
        self.over.set()
        self.met.wait(SILENT)
        try:
            with self.lock:
                if self.store is not None:
                    self.store.add(f"left/{self.rank}", 1)
        except (dist.DistError, RuntimeError):
            pass  # the process that keeps the store has ended before: nobody asks it any more

    def _reach(self) -> None:
        """Reach the store. Whoever keeps it and does not answer counts as silent, as `_judge` will say."""
        try:
            store = dist.TCPStore(
                *self.address, is_master=False, timeout=timedelta(seconds=SILENT), wait_for_workers=False
            )
            self.store = dist.PrefixStore(f"polythink/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        except (dist.DistError, RuntimeError):
            pass
        finally:
            self.met.set()

    def _beat(self) -> None:
        self._reach()
        last = -1
        while self.store is not None and not self.over.wait(EVERY):
            try:
                with self.lock:
                    self.store.add(f"beat/{self.rank}", 1)
                    now = self.store.add(f"beat/{self.next}", 0)
                    gone = self.store.add(f"left/{self.next}", 0)
            except (dist.DistError, RuntimeError):
                now, gone = last, True  # the store has ended with the process that keeps it, whose connections say so
            if gone:
                self.over.set()
            if now != last:
                last, self.unheard = now, 0

    def _judge(self) -> None:
        while not self.over.wait(EVERY):
            self.unheard += 1
            if self.unheard * EVERY > SILENT:
                # the main thread may be waiting in C++, where no exception reaches it
                print(f"polythink: {self.sentence}", file=sys.stderr, flush=True)
                os._exit(STATUS)
