"""Redis and PostgreSQL servers for the tests: each on its own port, with its own data folder."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class StoreServer:
    """A server that can be killed and started again on the same port and data."""

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="quart-mercure-"))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = self._launch()
        deadline = time.monotonic() + 30
        while not self.is_ready():
            if self.process.poll() is not None:
                self.process = self._launch()  # its predecessor had not let go of the data yet
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.02)

    def _launch(self) -> subprocess.Popen[bytes]:
        raise NotImplementedError

    def is_ready(self) -> bool:
        raise NotImplementedError

    def kill(self) -> None:
        """End it, and all its processes, as a power failure does."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def remove(self) -> None:
        if self.process is not None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _spawn(self, command: list[str], **options: object) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
                command, stdout=log, stderr=log, start_new_session=True, **options
            )


class RedisServer(StoreServer):
    """Redis, told to lose nothing that it has acknowledged."""

    def __init__(self, *options: str) -> None:
        super().__init__()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._options = options

    def _launch(self) -> subprocess.Popen[bytes]:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self.folder), "--save", "", "--appendonly", "yes"]
        return self._spawn([*command, "--appendfsync", "always", *self._options])

    def is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False


class Sentinel(RedisServer):
    """A Redis Sentinel that knows one master, called `ours`."""

    def __init__(self, master_port: int) -> None:
        super().__init__()
        self._configuration = self.folder / "sentinel.conf"
        self._configuration.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n"
            f"sentinel monitor ours 127.0.0.1 {master_port} 1\n"
        )

    def _launch(self) -> subprocess.Popen[bytes]:
        return self._spawn(["redis-server", str(self._configuration), "--sentinel"])


def postgresql_folder() -> Path | None:
    """Return where PostgreSQL's programs are, which are not always on the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    return Path(on_path).parent if on_path else None


class PostgreSQLServer(StoreServer):
    """PostgreSQL, which refuses to run as root."""

    def __init__(self) -> None:
        super().__init__()
        programs = postgresql_folder()
        assert programs is not None, "PostgreSQL is not installed"
        self._programs = programs
        self._user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        self.url = f"postgresql://{self._user}@127.0.0.1:{self.port}/postgres"
        self._data = self.folder / "data"
        if os.getuid() == 0:
            shutil.chown(self.folder, self._user)
        initialize = [str(programs / "initdb"), "-D", str(self._data), "-A", "trust", "-N"]
        subprocess.run(initialize, check=True, capture_output=True, **self._identity())

    def _identity(self) -> dict[str, object]:
        if os.getuid() != 0:
            return {}
        return {"user": self._user, "group": self._user, "extra_groups": [], "cwd": self.folder}

    def _launch(self) -> subprocess.Popen[bytes]:
        command = [str(self._programs / "postgres"), "-D", str(self._data)]
        command += ["-p", str(self.port), "-c", "listen_addresses=127.0.0.1"]
        command += ["-c", f"unix_socket_directories={self.folder}"]
        return self._spawn(command, **self._identity())

    def is_ready(self) -> bool:
        ready = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1"]
        return subprocess.run([*ready, "-p", str(self.port)], check=False).returncode == 0
