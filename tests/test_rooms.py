"""The small rooms of the hub: clock, index, servers."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import types

import pytest

from quart_mercure.hub import index as index_module
from quart_mercure.hub import servers
from quart_mercure.hub.broker import Broker
from quart_mercure.hub.clock import Clock, Overdue
from quart_mercure.hub.matchers import parse_selector
from quart_mercure.hub.policies import QueueRules
from quart_mercure.hub.protocol import SubscribeRequest
from quart_mercure.hub.transport.memory import MemoryTransport
from quart_mercure.tokens import ANONYMOUS
from quart_mercure.update import Update

# The clock --------------------------------------------------------------------------------------


async def test_alarms_ring_in_order_and_not_before_their_time():
    clock, rung, done = Clock(granularity=0.01), [], asyncio.Event()
    begun = asyncio.get_running_loop().time()

    def ring(name):
        rung.append((name, asyncio.get_running_loop().time() - begun))
        if name == "last":
            done.set()

    clock.call_later(0.06, lambda: ring("last"))
    clock.call_later(0.0, lambda: ring("first"))
    clock.call_later(0.03, lambda: ring("second"))
    clock.call_later(0.03, lambda: ring("third"))
    clock.call_later(0.03, lambda: ring("never")).cancel()
    await asyncio.wait_for(done.wait(), 10)
    assert [name for name, _ in rung] == ["first", "second", "third", "last"]
    assert rung[1][1] >= 0.03


async def test_a_stopped_clock_forgets():
    clock, rung = Clock(granularity=0.01), []
    clock.call_later(0, lambda: rung.append(1))
    clock.stop()
    clock.stop()
    await asyncio.sleep(0.03)
    assert rung == []


async def test_what_stays_too_long_is_overdue():
    clock, late, done = Clock(granularity=0.01), [], asyncio.Event()
    now = asyncio.get_running_loop().time

    def note(name):
        late.append(name)
        if name == "last":
            done.set()

    overdue = Overdue(clock, 0.05, note)
    for name in ("first", "leaves", "last"):
        overdue.enter(name, now())
    overdue.leave("leaves")
    overdue.leave("nobody")
    await asyncio.wait_for(done.wait(), 10)
    assert late == ["first", "last"]
    assert len(overdue) == 0
    overdue.enter("again", now())
    overdue.leave("again")
    overdue.enter("last", now())
    done.clear()
    await asyncio.wait_for(done.wait(), 10)
    assert late == ["first", "last", "last"]


async def test_nothing_is_overdue_without_a_timeout():
    clock = Clock(granularity=0.01)
    overdue = Overdue(clock, 0, lambda _entry: pytest.fail("overdue"))
    overdue.enter("a", 0.0)
    await asyncio.sleep(0.03)
    assert len(overdue) == 1


# A broker ---------------------------------------------------------------------------------------


async def subscribe(broker, count, topic):
    request = SubscribeRequest((parse_selector(topic),), None)
    return [(await broker.subscribe(request, ANONYMOUS))[0] for _ in range(count)]


def make_broker(events):
    return Broker(MemoryTransport(0), QueueRules(events, 10_000), max_flush_interval=0)


async def publish(broker, topic):
    await broker.publish([Update(topics=(topic,), data="x")])


# The index --------------------------------------------------------------------------------------


async def test_the_cache_of_patterns_is_bounded_and_current(monkeypatch):
    monkeypatch.setattr(index_module, "MAX_REMEMBERED_TOPICS", 3)
    broker = make_broker(100)
    [first] = await subscribe(broker, 1, "/{x}")
    for number in range(10):
        await publish(broker, f"/{number}")
    assert len(broker.index._remembered) <= 3
    [second] = await subscribe(broker, 1, "/{x}{/y}")
    await publish(broker, "/9")
    broker.unsubscribe(second)
    await publish(broker, "/9")
    assert len(first.queue) == 12
    assert broker.subscriber(first.id) is first
    assert list(broker) == [first]


async def test_a_subscriber_is_removed_when_its_replay_fails():
    class Failing(MemoryTransport):
        async def replay(self, after, until):
            raise OSError("the disk is gone")

    broker = Broker(Failing(10), QueueRules(10, 100))
    with pytest.raises(OSError, match="disk"):
        await broker.subscribe(SubscribeRequest((parse_selector("a"),), "x"), ANONYMOUS)
    assert len(broker) == 0


# What servers offer -----------------------------------------------------------------------------


async def test_signals_are_heard_and_handed_on():
    heard, server, received = asyncio.Event(), [], []
    listener = servers.SignalListener(heard.set, asyncio.get_running_loop())

    def servers_own(number, frame):
        server.append(number)

    before = signal.signal(signal.SIGTERM, servers_own)
    try:
        listener.start()
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(heard.wait(), 10)
        assert server == [signal.SIGTERM]
        listener.stop()
        assert signal.getsignal(signal.SIGTERM) is servers_own
        del received
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_the_default_of_ending_at_once_is_left_alone():
    before = signal.getsignal(signal.SIGTERM)
    listener = servers.SignalListener(lambda: None, asyncio.get_running_loop())
    listener.start()
    assert signal.getsignal(signal.SIGTERM) is before
    listener.stop()


async def test_outside_the_main_thread_there_are_no_signals():
    listener = servers.SignalListener(lambda: None, asyncio.get_running_loop())
    thread = threading.Thread(target=lambda: (listener.start(), listener.stop()))
    thread.start()
    thread.join()


def bound(owner):
    return types.SimpleNamespace(__self__=owner)


def test_a_servers_connection_is_found_under_its_send():
    class Transport:
        aborted = False

        def abort(self):
            self.aborted = True

        def get_extra_info(self, name):
            return None

    class H11Protocol:
        pass

    class H2Protocol:
        pass

    transport = Transport()
    uvicorn = bound(types.SimpleNamespace(transport=transport))
    servers.abort(uvicorn)
    assert transport.aborted
    servers.limit_silence(uvicorn)
    connection = types.SimpleNamespace(writer=types.SimpleNamespace(transport=transport))
    for protocol, found in ((H11Protocol(), transport), (H2Protocol(), None)):
        protocol.send = bound(connection)
        stream = types.SimpleNamespace(send=bound(protocol))
        assert servers.transport_of(bound(stream)) is found
    servers.abort(lambda message: None)
    assert servers.termination_event(lambda message: None) is None


async def test_the_kernel_gives_up_clients_that_are_silent():
    serving = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*serving.sockets[0].getsockname())
    servers.limit_silence(bound(types.SimpleNamespace(transport=writer.transport)))
    own = writer.get_extra_info("socket")
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
    writer.close()
    serving.close()


@pytest.mark.parametrize(
    ("arguments", "environment", "workers"),
    [
        (["hypercorn", "app:app"], {}, 1),
        (["hypercorn", "--workers", "4", "app:app"], {}, 4),
        (["hypercorn", "-w", "3", "app:app"], {}, 3),
        (["uvicorn", "app:app", "--workers=2"], {}, 2),
        (["uvicorn", "app:app", "--workers"], {}, 1),
        (["x", "-w", "many"], {}, 1),
        (["uvicorn", "app:app"], {"WEB_CONCURRENCY": "5"}, 5),
        (["granian", "app:app"], {"GRANIAN_WORKERS": "6"}, 6),
    ],
)
def test_the_number_of_workers_is_seen(arguments, environment, workers):
    assert servers.configured_workers(arguments, environment) == workers
