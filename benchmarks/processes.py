"""Server and load processes, and what the operating system says that they used."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Worker:
    """A process of load (see `benchmarks.load`): a command in, its answer out."""

    def __init__(self, role: str, setup: Mapping[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load", role, json.dumps(setup)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def tell(self, **command: Any) -> None:
        """Give a command without waiting for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Wait for the answer to the oldest command that has none."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a load process has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, **command: Any) -> dict[str, Any]:
        """Give a command and return its answer."""
        self.tell(**command)
        return self.answer()

    def stop(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class ServerProcess:
    """A server under test, which may be several processes."""

    def __init__(self, command: list[str], port: int, environment: Mapping[str, str]) -> None:
        self.port = port
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._wait_until_it_listens()

    def cpu_seconds(self) -> float:
        """Return the processor time used so far, of user and system, by all its processes."""
        times = [process.cpu_times() for process in self._processes()]
        return sum(each.user + each.system for each in times)

    def resident_bytes(self) -> int:
        """Return the memory of its largest process: the one that serves."""
        return max(process.memory_info().rss for process in self._processes())

    def connections(self) -> list[Any]:
        """Return the TCP connections that are open to it."""
        found = [each for process in self._processes() for each in process.net_connections("tcp")]
        return [each for each in found if each.status == psutil.CONN_ESTABLISHED]

    def _processes(self) -> list[psutil.Process]:
        parent = psutil.Process(self._process.pid)
        return [parent, *parent.children(recursive=True)]

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"{self._process.args!r} ended with {self._process.returncode}")
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
            except OSError:
                time.sleep(0.05)
            else:
                time.sleep(0.3)
                return
        raise RuntimeError(f"{self._process.args!r} does not listen")

    def stop(self) -> None:
        family = self._processes()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for process in family[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@contextlib.contextmanager
def running(start: Callable[[], ServerProcess]) -> Iterator[ServerProcess]:
    """Run a server for the time of a block."""
    server = start()
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def workers(*described: tuple[str, Mapping[str, Any]]) -> Iterator[list[Worker]]:
    """Run load processes for the time of a block."""
    started = [Worker(role, setup) for role, setup in described]
    try:
        yield started
    finally:
        for worker in started:
            worker.stop()
