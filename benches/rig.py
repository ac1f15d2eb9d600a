"""What the benchmarks share in one run: the subjects, started when first needed, and the turn of one of them."""

from __future__ import annotations

import gc
import importlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import dataset
import installations
import libxmtp_rival
import native_limits
import plan
import pytest
import python_rival
import servers
from clock import CLOCK
from h2 import Refused
from lines import Unavailable
from nodes import Node

if TYPE_CHECKING:
    import sqlite3

    from pytest_benchmark.fixture import BenchmarkFixture

_T = TypeVar("_T")
STORE_KEY = bytes(reversed(range(32)))


class Rig:
    """The subjects of a run and the folder they work in, which is on the same disk as the archives."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="run-", dir=plan.cache()))
        self._stores: dict[int, Path] = {}
        self._imported_by_libxmtp: int | None = None
        self._nodes: dict[str, Node | Unavailable] = {}
        self._servers: dict[str, servers.Server | Unavailable] = {}

    def close(self) -> None:
        """Ends what was started and removes what was written."""
        started = self.__dict__
        for name in ("_libxmtp", "_limits", "_native"):
            kinds = libxmtp_rival.Libxmtp | native_limits.Limits | installations.Native
            if isinstance(subject := started.get(name), kinds):
                subject.close()
        for running in (*self._nodes.values(), *self._servers.values(), started.get("load")):
            if isinstance(running, Node | servers.Server | servers.Load):
                running.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @cached_property
    def _library(self) -> ModuleType | Unavailable:
        try:
            return importlib.import_module("xmtp_history")
        except ImportError as reason:
            return Unavailable(f"xmtp_history does not import: {reason}")

    @cached_property
    def _libxmtp(self) -> libxmtp_rival.Libxmtp | Unavailable:
        try:
            return libxmtp_rival.Libxmtp()
        except Unavailable as reason:
            return reason

    @cached_property
    def _limits(self) -> native_limits.Limits | Unavailable:
        try:
            return native_limits.Limits(native_limits.build(), self.folder)
        except Unavailable as reason:
            return reason

    @cached_property
    def _native(self) -> installations.Native | Unavailable:
        try:
            return installations.Native(self.folder)
        except Unavailable as reason:
            return reason

    @property
    def native(self) -> installations.Native:
        """What an installation does by itself, and its limits."""
        return _found(self._native)

    @property
    def library(self) -> Any:
        """The package under test."""
        return _found(self._library)

    @property
    def libxmtp(self) -> libxmtp_rival.Libxmtp:
        """The reference."""
        return _found(self._libxmtp)

    @property
    def limits(self) -> native_limits.Limits:
        """The limits."""
        return _found(self._limits)

    def node(self, subject: str) -> Node:
        """A node that runs as long as the rig."""
        if subject not in self._nodes:
            try:
                self._nodes[subject] = Node(subject, self.folder)
            except Unavailable as reason:
                self._nodes[subject] = reason
        return _found(self._nodes[subject])

    def new_node(self, subject: str) -> Node:
        """A node that the caller closes."""
        return _answer(lambda: Node(subject, self.folder))

    def server(self, subject: str) -> servers.Server:
        """A history server that runs as long as the rig."""
        if subject not in self._servers:
            try:
                self._servers[subject] = servers.Server(subject, self.folder)
            except Unavailable as reason:
                self._servers[subject] = reason
        return _found(self._servers[subject])

    def new_server(self, subject: str) -> servers.Server:
        """A history server that the caller closes."""
        return _answer(lambda: servers.Server(subject, self.folder))

    @cached_property
    def load(self) -> servers.Load:
        """The clients of history servers."""
        return servers.Load(self.folder)

    @cached_property
    def bodies(self) -> servers.Bodies:
        """What history servers are to keep."""
        return servers.Bodies(self.folder, plan.server_mib() * servers.MIB)

    def new_path(self, name: str) -> Path:
        """A path where nothing is; whatever is there now, or beside it, is removed."""
        for left in self.folder.glob(f"{name}*"):
            left.unlink()
        return self.folder / name

    def library_store(self, size: int) -> Path:
        """A store of the library with an archive of this size in it."""
        if size not in self._stores:
            path = self.folder / f"export-{size}.db"
            with self.library.History.open(path, STORE_KEY) as history:
                history.import_archive(dataset.dataset(size).path, dataset.KEY)
            self._stores[size] = path
        return self._stores[size]

    def python_store(self, size: int) -> sqlite3.Connection:
        """A connection to a store of the Python rival with an archive of this size in it."""
        path = self.folder / f"python-export-{size}.db"
        if path.exists():
            return python_rival.connect(path)
        connection = python_rival.create_store(path)
        python_rival.import_archive(connection, dataset.dataset(size).path, dataset.KEY)
        return connection

    def libxmtp_import(self, size: int) -> float:
        """Imports an archive of this size into a new installation of libxmtp; returns the time it took."""
        self._imported_by_libxmtp = None
        seconds = _answer(lambda: self.libxmtp.import_archive(dataset.dataset(size).path, dataset.KEY)).seconds
        self._imported_by_libxmtp = size
        return seconds

    def libxmtp_export(self, size: int, target: Path) -> float:
        """Exports the installation of libxmtp that imported an archive of this size; returns the time it took."""
        if self._imported_by_libxmtp != size:
            self.libxmtp_import(size)
        return _answer(lambda: self.libxmtp.create_archive(target, dataset.KEY)).seconds


def _found(subject: _T | Unavailable) -> _T:
    """The subject, or the end of this test with the reason why there is none."""
    if isinstance(subject, Unavailable):
        pytest.skip(str(subject))
    return subject


def _answer(ask: Callable[[], _T]) -> _T:
    """What a subject answers, or the end of this test with the reason why it does not."""
    try:
        return ask()
    except Unavailable as reason:
        pytest.skip(str(reason))


class Turn:
    """One subject's turn: its case, its data, and the stopwatch."""

    def __init__(self, rig: Rig, case: plan.Case, benchmark: BenchmarkFixture) -> None:
        self.rig = rig
        self.case = case
        self.subject = case.subject
        self._benchmark = benchmark
        benchmark.group = f"{case.operation} {case.size}"
        benchmark.extra_info.update(
            operation=case.operation, size=case.size, cycle=case.cycle, subject=case.subject, correct=False
        )

    @property
    def data(self) -> dataset.Dataset:
        """The archive of this turn."""
        return dataset.dataset(self.case.size)

    def named(self, operation: str) -> None:
        """Gives what is measured another name than the case has."""
        self._benchmark.group = f"{operation} {self.case.size}"
        self._benchmark.extra_info.update(operation=operation)

    def need_library(self) -> None:
        """Skips this turn if there is no library."""
        _found(self.rig._library)  # noqa: SLF001 the public name would be an expression without effect

    def time(
        self,
        work: Callable[..., Any],
        prepare: Callable[[], tuple[Any, ...]] = tuple,
        clear: Callable[..., Any] | None = None,
    ) -> Any:
        """Times the work; each round gets what ``prepare`` returns, and ``clear`` gets it afterwards, both untimed."""

        def setup() -> tuple[tuple[Any, ...], dict[str, Any]]:
            arguments = prepare()
            # Nobody shall pay for the garbage of the one before.
            gc.collect()
            return arguments, {}

        benchmark: Any = self._benchmark
        return benchmark.pedantic(work, setup=setup, teardown=clear, rounds=self.case.rounds, iterations=1)

    def time_elsewhere(self, work: Callable[[], float]) -> None:
        """Times work in another process, which says itself how long it took.

        The work is done before the stopwatch runs, because it may end the test; the stopwatch gets its figures.
        """
        figures = iter([work() for _ in range(self.case.rounds)])

        def replay() -> None:
            with CLOCK.shows(next(figures)):
                pass

        self.time(replay)

    def record(self, seconds: float, *, right: bool, also: dict[str, float] | None = None, **facts: Any) -> None:
        """Stores a time that was taken elsewhere, and what else was found out in the same turn, each under its name."""
        self.time_elsewhere(lambda: seconds)
        self.correct(right=right, also=also or {}, **facts)

    @contextmanager
    def called(self) -> Iterator[None]:
        """Around calls to a node: if a rival refuses one, only its turn is lost."""
        try:
            yield
        except Refused as reason:
            if self.subject == plan.LIBRARY:
                raise
            pytest.skip(str(reason))

    def time_limit(self) -> bool:
        """Times a limit if it is a limit's turn; says whether it was."""
        if not self.subject.startswith("limit:"):
            return False
        limits, name = self.rig.limits, self.subject.removeprefix("limit:")
        _answer(lambda: limits.load(self.data))
        figures: list[native_limits.Figure] = []

        def work() -> float:
            figures.append(_answer(lambda: limits.figure(self.data, name)))
            return figures[-1].seconds

        self.time_elsewhere(work)
        self.correct(right=all(figure.rows >= self.data.messages for figure in figures), bytes=figures[-1].bytes)
        return True

    def correct(self, *, right: bool, **facts: Any) -> None:
        """Stores beside the time whether the result was right, and facts about it."""
        self._benchmark.extra_info.update(correct=bool(right), **facts)
