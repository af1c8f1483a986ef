"""Several servers as one: work goes to the least busy, and what one loses goes to another."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from queue import Empty, SimpleQueue

from winnow.engines.vllm.delivery import Delivery
from winnow.engines.vllm.member import FAILURES, Job, Killed, Member, WrongVersion
from winnow.engines.vllm.protocol import Completion
from winnow.engines.weights.outbox import Dropped, held
from winnow.errors import NoServer, UserError, WinnowError, number_of

MOST_JOINS = 3
"""Times that a server that failed is taken back."""
_TICK = 0.5


class _Round:
    """What is sampled together.

    Attributes:
        made: Jobs and their completions; ``None`` at the end, or when it cannot go on.
    """

    def __init__(self, jobs: Sequence[Job], ends: Collection[int]) -> None:
        self.pending = deque((job, 0) for job in jobs)
        self.left, self.ends = len(jobs), ends
        self.made: SimpleQueue[tuple[Job, Completion] | None] = SimpleQueue()
        self.error: WinnowError | None = None
        self.over = False


class Pool:
    """Servers that have the same weights.

    Args:
        members: Not there yet: `give` has them join.
        retries: Times that a job which failed is sent again.
        tell: Hears of servers that fail and come back, from any thread.
        meanwhile: Called again and again where completions are waited for.

    Attributes:
        resent: Requests that were sent again, by why.
        failed, back: Times that a server failed, and that one which had took part again.
    """

    def __init__(
        self,
        members: Sequence[Member],
        retries: int,
        tell: Callable[[str], None],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        self.members = members
        self.resent: Counter[str] = Counter()
        self.failed = self.back = 0
        self._retries, self._tell, self._meanwhile = retries, tell, meanwhile
        self._changed = threading.Condition()
        self._delivery: Delivery | None = None
        self._round: _Round | None = None
        self._closed = False
        self._joining: list[threading.Thread] = []

    @property
    def up(self) -> list[Member]:
        """Those that sample."""
        return [member for member in self.members if member.state == "up"]

    def give(self, delivery: Delivery) -> None:
        """Have every server take weights; returns when those that can have them.

        Raises:
            NoServer: none of them can, or they are ended meanwhile.
        """
        with self._changed:
            first = self._delivery is None
            self._delivery = delivery
            up = self.up
        threads = [
            threading.Thread(target=self._given, args=(one, delivery), daemon=True) for one in up
        ]
        if first:
            self._joining = threads = [self._joiner(member) for member in self.members]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with self._changed:
            self._check()
            while not self.up:
                self._changed.wait(_TICK)
                self._check()

    def run(
        self, jobs: Sequence[Job], ends: Collection[int]
    ) -> Generator[tuple[Job, Completion], None, None]:
        """Completions as they come. Closing it ends what is under way.

        Raises:
            NoServer: no server is left.
            UserError: a server refuses a job, or one fails everywhere.
        """
        work = self._round = _Round(jobs, ends)
        number = min(len(jobs), sum(member.slots for member in self.members))
        threads = [
            threading.Thread(target=self._work, args=(work,), daemon=True) for _ in range(number)
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in jobs:
                item = self._awaited(work)
                if item is None:
                    assert work.error is not None
                    raise work.error
                yield item
        finally:
            with self._changed:
                work.over = True
                self._changed.notify_all()
            for thread in threads:
                while thread.is_alive():  # a server stops sampling what nobody waits for
                    for member in self.members if work.left else ():
                        if member.busy:
                            member.link.cut()
                    thread.join(_TICK / 10)
            self._round = None

    def close(self) -> None:
        """End the servers that were started here."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._joining:
            while thread.is_alive():  # it may ask for more, having been cut
                for member in self.members:
                    member.link.cut()
                thread.join(_TICK / 10)
        for member in self.members:
            member.link.cut()
        closers = [threading.Thread(target=member.close) for member in self.members]
        for thread in closers:
            thread.start()
        for thread in closers:
            thread.join()

    def notes(self) -> list[str]:
        """What went wrong, and how near the servers' log-probs are, in sentences."""
        said = []
        if self.resent:
            why = ", ".join(f"{count} {cause}" for cause, count in self.resent.most_common())
            said.append(f"{number_of(self.resent.total(), 'request')} sent again ({why})")
        again = {member.name: member.epoch - 1 for member in self.members if member.epoch > 1}
        said += [f"{name} joined again {number_of(n, 'time')}" for name, n in again.items()]
        gap = max((member.gap for member in self.members), default=0.0)
        if any(member.epoch for member in self.members):
            said.append(
                f"canaries: the servers' log-probs are at most {gap:.2g} nats from the learner's"
            )
        return said

    def _awaited(self, work: _Round) -> tuple[Job, Completion] | None:
        while True:
            try:
                return work.made.get(timeout=_TICK)
            except Empty:
                self._meanwhile()

    def _work(self, work: _Round) -> None:
        """Take jobs, one at a time, each to the least busy server."""
        while (taken := self._taken(work)) is not None:
            job, tries, member = taken
            epoch = member.epoch
            try:
                made = member.ask(job, work.ends)
            except (*FAILURES, WrongVersion) as error:
                self._failed(work, job, tries, member, epoch, error)
                continue
            except Exception as error:  # noqa: BLE001 (as in `_given`)
                with self._changed:
                    member.busy -= 1
                    self._end(work, WinnowError(f"{member.name}: {_told(error)}"))
                return
            with self._changed:
                member.busy -= 1
                if made.reason is None:  # given up for new weights
                    self.resent["for new weights"] += 1
                    work.pending.appendleft((job, tries))
                else:
                    work.left -= 1
                self._changed.notify()
            if made.reason is not None:
                work.made.put((job, made))

    def _taken(self, work: _Round) -> tuple[Job, int, Member] | None:
        """The next job and its server; ``None`` where there is nothing left to do."""
        with self._changed:
            while not work.over and work.pending:
                free = [member for member in self.up if member.busy < member.slots]
                if free:
                    member = min(free, key=lambda one: one.busy / one.slots)
                    member.busy += 1
                    job, tries = work.pending.popleft()
                    return job, tries, member
                try:
                    self._check()
                except NoServer as error:
                    self._end(work, error)
                    return None
                self._changed.wait(_TICK)
            return None

    def _failed(
        self,
        work: _Round,
        job: Job,
        tries: int,
        member: Member,
        epoch: int,
        error: Exception,
    ) -> None:
        """Put a job back, and take its server out of the pool until it has joined again."""
        with self._changed:
            member.busy -= 1
            if work.over or self._closed:
                return
            self.resent[f"that {member.name} lost"] += 1
            work.pending.appendleft((job, tries + 1))
            if tries + 1 > self._retries:
                problem = f"a request failed {tries + 1} times, the last time on {member.name}"
                self._end(work, UserError("engine.retries", f"{problem}: {error}"))
            if member.state == "up" and member.epoch == epoch:
                self._lost(member, error)
            self._changed.notify_all()

    def _end(self, work: _Round, error: WinnowError) -> None:
        if work.error is None:
            work.error = error
            work.over = True
            work.made.put(None)
        self._changed.notify_all()

    def _lost(self, member: Member, error: Exception) -> None:
        self.failed += 1
        member.failures += 1
        member.reason = _told(error)
        if member.failures > MOST_JOINS:
            member.state = "out"
            self._tell(f"{member.name} is given up: {member.reason}")
            threading.Thread(target=member.close, daemon=True).start()
            return
        member.state = "down"
        self._tell(f"{member.name} failed, and others take its requests: {member.reason}")
        thread = self._joiner(member)
        self._joining.append(thread)
        thread.start()

    def _joiner(self, member: Member) -> threading.Thread:
        return threading.Thread(target=self._join, args=(member,), daemon=True)

    def _join(self, member: Member) -> None:
        """Bring a server up with the present weights, whatever they are by then."""
        again, there = member.epoch > 0, False
        member.link.cut()
        while not self._closed:
            delivery = self._delivery
            assert delivery is not None
            try:
                # The run goes on, and drops earlier versions. Adapters are read again later, so
                # theirs has to be the folder that stays.
                hold = held if delivery.base is None else nullcontext
                with hold(delivery.folder) as folder:
                    own = replace(delivery, folder=folder)
                    if there:  # newer weights came while it joined
                        member.give(own)
                    else:
                        member.join(own, lambda: not self._closed)
            except (*FAILURES, Dropped) as error:
                gone = delivery.base is not None and not delivery.folder.is_dir() and member.runs
                if delivery is not self._delivery and (gone or isinstance(error, Dropped)):
                    there = there or gone
                    continue
                if self._to_start_anew(member, error):
                    there = False
                    continue
                self._out(member, error)
                return
            except Exception as error:  # noqa: BLE001 (as in `_given`)
                self._out(member, error)
                return
            there = True
            with self._changed:
                if delivery is self._delivery:
                    member.state, member.epoch = "up", member.epoch + 1
                    self._changed.notify_all()
                    if again:
                        self.back += 1
                        self._tell(f"{member.name} is back")
                    return

    def _to_start_anew(self, member: Member, error: Exception) -> bool:
        """Whether one that failed on its way is tried again: its command is known to work, or was
        not what ended it."""
        with self._changed:
            known = member.epoch > 0 or isinstance(error, Killed)
            if self._closed or member.start is None or not known or member.failures >= MOST_JOINS:
                return False
            self.failed += 1
            member.failures += 1
            self._tell(f"{member.name} failed before it took part, and is started anew: {error}")
            return True

    def _given(self, member: Member, delivery: Delivery) -> None:
        epoch = member.epoch
        try:
            member.give(delivery)
        except Exception as error:  # noqa: BLE001 (else the thread would end, and be waited for)
            with self._changed:
                # Closing cuts what is under way, and so does a request that failed before.
                if not self._closed and member.state == "up" and member.epoch == epoch:
                    self._lost(member, error)
                self._changed.notify_all()

    def _out(self, member: Member, error: Exception) -> None:
        with self._changed:
            if self._closed:
                return
            self.failed += 1
            member.reason, member.state = _told(error), "out"
            self._tell(f"{member.name} is given up: {member.reason}")
            self._changed.notify_all()
        member.close()

    def _check(self) -> None:
        """Raise `NoServer` if none is up, and none will be."""
        if self._closed:
            raise NoServer("the servers were ended")
        if all(member.state == "out" for member in self.members):
            why = ", ".join(f"{member.name}: {member.reason}" for member in self.members)
            raise NoServer(f"no server is left to sample ({why})")


def _told(error: Exception) -> str:
    """What is wrong, also where that has no words."""
    known = isinstance(error, (*FAILURES, WrongVersion))
    return str(error) if known else f"{type(error).__name__} {error}".rstrip()
