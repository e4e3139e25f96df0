"""The small rooms of the hub: queue, clock, history, waiting publishers, servers."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import types

import pytest

from quart_mercure.hub import broker as broker_module
from quart_mercure.hub import index as index_module
from quart_mercure.hub import servers
from quart_mercure.hub.broker import Broker
from quart_mercure.hub.clock import Clock
from quart_mercure.hub.matchers import parse_selector
from quart_mercure.hub.protocol import SubscribeRequest
from quart_mercure.hub.queue import ClientQueue
from quart_mercure.hub.transport.memory import MemoryTransport
from quart_mercure.tokens import ANONYMOUS
from quart_mercure.update import Update

# The queue --------------------------------------------------------------------------------------


async def test_what_was_put_is_taken_at_once_and_in_order():
    queue = ClientQueue(10, 100)
    for event in (b"a", b"b", b"c"):
        assert queue.put(event)
    assert len(queue) == 3
    assert await queue.get_all() == b"abc"
    assert len(queue) == 0


async def test_a_reader_waits_for_what_comes():
    queue = ClientQueue(10, 100)
    reader = asyncio.create_task(queue.get_all())
    await asyncio.sleep(0)
    assert not reader.done()
    queue.put(b"a")
    assert await reader == b"a"


@pytest.mark.parametrize(
    ("bounds", "events", "accepted"),
    [
        ((2, 100), [b"a", b"b", b"c"], [True, True, False]),
        ((9, 3), [b"aa", b"b", b"c"], [True, True, False]),
        ((9, 3), [b"too large", b"a"], [True, False]),
    ],
)
async def test_bounds(bounds, events, accepted):
    queue = ClientQueue(*bounds)
    assert [queue.put(event) for event in events] == accepted
    taken = [event for event, put in zip(events, accepted, strict=True) if put]
    assert await queue.get_all() == b"".join(taken)
    assert queue.put(b"a"), "there is room again"


async def test_closing_lets_the_reader_take_what_is_left():
    queue = ClientQueue(10, 100)
    queue.put(b"a")
    queue.close()
    assert queue.closed
    assert not queue.put(b"b")
    assert [await queue.get_all(), await queue.get_all()] == [b"a", b""]


async def test_discarding_leaves_nothing():
    queue = ClientQueue(10, 100)
    queue.put(b"a")
    queue.put(b"b")
    assert queue.discard() == 2
    assert await queue.get_all() == b""


async def test_a_reader_that_is_cancelled_leaves_the_queue_as_it_was():
    queue = ClientQueue(10, 100)
    reader = asyncio.create_task(queue.get_all())
    await asyncio.sleep(0)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    queue.put(b"a")
    assert await queue.get_all() == b"a"


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


# Publishers that wait ---------------------------------------------------------------------------


def make_broker(events=10):
    return Broker(MemoryTransport(0), events, 10_000)


async def subscribe(broker, count, topic="a"):
    request = SubscribeRequest((parse_selector(topic),), None)
    return [(await broker.subscribe(request, ANONYMOUS))[0] for _ in range(count)]


async def publish(broker, count=1, topic="a"):
    for _ in range(count):
        await broker.publish(Update(topics=(topic,), data="x"))


async def test_a_publisher_waits_when_most_clients_fall_behind():
    broker = make_broker()
    subscribers = await subscribe(broker, 4)
    publishing = asyncio.create_task(publish(broker, 6))
    await asyncio.sleep(0)
    assert not publishing.done()
    for subscriber in subscribers[:2]:
        assert not publishing.done()
        await subscriber.queue.get_all()
    await publishing
    assert [len(subscriber.queue) for subscriber in subscribers] == [0, 0, 6, 6]


async def test_a_publisher_waits_for_no_minority():
    broker = make_broker()
    subscribers = await subscribe(broker, 3)
    for _ in range(12):
        await publish(broker)
        for subscriber in subscribers[1:]:
            await subscriber.queue.get_all()
    assert broker.counters.slow_clients == 1


async def test_a_publisher_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(broker_module, "_LONGEST_WAIT", 0.01)
    broker = make_broker()
    [stalled] = await subscribe(broker, 1)
    await publish(broker, 12)
    assert broker.counters.slow_clients == 1
    assert stalled.queue.closed


async def test_a_client_that_leaves_lets_the_publisher_go_on():
    broker = make_broker()
    [leaving] = await subscribe(broker, 1)
    publishing = asyncio.create_task(publish(broker, 6))
    await asyncio.sleep(0)
    broker.unsubscribe(leaving)
    await publishing
    assert not broker.unsubscribe(leaving)


# The index --------------------------------------------------------------------------------------


async def test_the_cache_of_patterns_is_bounded_and_current(monkeypatch):
    monkeypatch.setattr(index_module, "MAX_REMEMBERED_TOPICS", 3)
    broker = make_broker(100)
    [first] = await subscribe(broker, 1, "/{x}")
    for number in range(10):
        await publish(broker, topic=f"/{number}")
    assert len(broker.index._remembered) <= 3
    [second] = await subscribe(broker, 1, "/{x}{/y}")
    await publish(broker, topic="/9")
    broker.unsubscribe(second)
    await publish(broker, topic="/9")
    assert len(first.queue) == 12
    assert broker.subscriber(first.id) is first
    assert list(broker) == [first]


async def test_a_subscriber_is_removed_when_its_replay_fails():
    class Failing(MemoryTransport):
        async def replay(self, after, until):
            raise OSError("the disk is gone")

    broker = Broker(Failing(10), 10, 100)
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
