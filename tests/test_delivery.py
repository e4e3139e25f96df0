"""From a publication to the clients' connections: queues, policies, flushes, waiting publishers."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quart_mercure.hub import broker as broker_module
from quart_mercure.hub import delivery as delivery_module
from quart_mercure.hub.broker import Broker, Subscriber
from quart_mercure.hub.events import Batch, Event
from quart_mercure.hub.matchers import parse_selector
from quart_mercure.hub.options import HubOptions
from quart_mercure.hub.policies import QueueRules, SlowClientPolicy, queue_rules
from quart_mercure.hub.protocol import SubscribeRequest
from quart_mercure.hub.queue import ClientQueue
from quart_mercure.hub.transport.memory import MemoryTransport
from quart_mercure.tokens import ANONYMOUS
from quart_mercure.update import Update

DISCONNECT, DROP_OLDEST, DROP_NEWEST, CONFLATE = SlowClientPolicy


class Network:
    """A client's connection as far as a queue sees it: it can be stalled, and it can be dropped.

    What was written last to a stalled one is on its way, and is received when it goes on.
    """

    def __init__(self, queue: ClientQueue) -> None:
        self.queue = queue
        self.received: list[Event] = []
        self.on_its_way: list[Event] = []
        self.writes = 0
        self.stalled = False
        self.ended = self.dropped = False
        self.last = b""
        queue.outlet = self

    def write(self, batch: Batch) -> bool:
        assert not self.on_its_way, "nothing is written to a connection that takes no more"
        self.writes += 1
        if self.stalled:
            self.on_its_way = list(batch.events)
            return False
        self.received.extend(batch.events)
        return True

    def go_on(self) -> None:
        self.stalled = False
        if self.on_its_way:
            self.received.extend(self.on_its_way)
            self.on_its_way = []
            self.queue.resume()

    def finish(self, last: Batch | None) -> None:
        self.ended = True
        self.last = last.wire if last else b""

    def drop(self) -> None:
        self.dropped = True

    @property
    def data(self) -> list[str]:
        return [event.update.data for event in self.received]


def rules(events: int = 3, size: int = 10_000, policy: SlowClientPolicy = DISCONNECT, **options):
    return QueueRules(events, size, policy, **options)


def event(position: int, data: str = "", topic: str = "a") -> Event:
    return Event(position, Update(topics=(topic,), data=data or str(position), id=f"id-{position}"))


def offered(queue: ClientQueue, *events: Event) -> list[int]:
    return [queue.offer(Batch([each])) for each in events]


def connected(queue: ClientQueue, *, stalled: bool = False) -> Network:
    network = Network(queue)
    network.stalled = stalled
    queue.resume()
    return network


# The queue --------------------------------------------------------------------------------------


def test_a_client_that_keeps_up_is_handed_the_shared_batch():
    network = connected(ClientQueue(rules()))
    for position in range(1, 10):
        assert network.queue.offer(Batch([event(position)])) == 0
        assert len(network.queue) == 0
    assert network.data == [*map(str, range(1, 10))]


def test_nothing_is_sent_before_the_outlet_is_there():
    queue = ClientQueue(rules())
    offered(queue, event(1), event(2))
    network = connected(queue)
    assert (network.data, network.writes) == (["1", "2"], 1)


def test_events_up_to_the_position_after_which_it_begins_are_not_for_a_client():
    queue = ClientQueue(rules(), after=2)
    network = connected(queue)
    queue.offer(Batch([event(1), event(2), event(3)]))
    queue.offer(Batch([event(1), event(2)]))
    network.stalled = True
    queue.offer(Batch([event(4)]))
    queue.offer(Batch([event(2), event(5)]))
    network.go_on()
    assert network.data == ["3", "4", "5"]


@pytest.mark.parametrize(
    ("bounds", "data", "fits"),
    [
        ((2, 10_000), ["a", "b", "c"], [True, True, False]),
        ((9, 40), ["a", "b", "c"], [True, True, False]),
        ((9, 30), ["too large" * 10, "a"], [True, False]),
    ],
)
def test_bounds(bounds, data, fits):
    queue = ClientQueue(rules(*bounds))
    events = [event(position, each) for position, each in enumerate(data, 1)]
    assert [lost == 0 for lost in offered(queue, *events)] == fits
    network = connected(queue)
    assert network.data == [each for each, fitting in zip(data, fits, strict=True) if fitting]
    assert offered(queue, event(9)) == [0], "there is room again"


def test_what_does_not_fit_of_a_batch_is_told():
    queue = ClientQueue(rules(3))
    assert queue.offer(Batch([event(position) for position in range(1, 8)])) == 4


@pytest.mark.parametrize(
    ("policy", "received", "dropped", "conflated"),
    [
        (DROP_OLDEST, ["1", "5", "6", "7"], 3, 0),
        (DROP_NEWEST, ["1", "2", "3", "4"], 3, 0),
        (CONFLATE, ["1", "7"], 0, 5),
    ],
)
def test_policies_for_a_client_that_stalls(policy, received, dropped, conflated):
    shared = rules(3, policy=policy)
    network = connected(ClientQueue(shared), stalled=True)
    lost = offered(network.queue, *(event(position) for position in range(1, 8)))
    assert lost == [0] * 7
    network.go_on()
    assert network.data == received
    assert (shared.counters.dropped, shared.counters.conflated) == (dropped, conflated)
    assert not network.dropped


def test_conflating_keeps_the_newest_of_each_topic_in_order():
    network = connected(ClientQueue(rules(3, policy=CONFLATE)), stalled=True)
    topics = "xababcb"
    lost = offered(
        network.queue,
        *(event(position, topic=topic) for position, topic in enumerate(topics, 1)),
    )
    network.go_on()
    assert lost == [0] * 7
    assert network.data == ["1", "4", "6", "7"]


def test_more_topics_than_fit_disconnect_a_conflating_client():
    queue = ClientQueue(rules(2, policy=CONFLATE))
    events = [event(position, topic=f"t{position}") for position in range(1, 4)]
    assert offered(queue, *events) == [0, 0, 1]


def test_a_policy_can_be_for_topics():
    policies = [(parse_selector("price/{x}"), CONFLATE), (parse_selector("log"), DROP_OLDEST)]
    shared = rules(3, policies=policies)
    queue = ClientQueue(shared)
    sequence = ["log", "price/1", "chat", "price/1", "log", "log", "chat", "chat"]
    lost = offered(
        queue, *(event(position, topic=topic) for position, topic in enumerate(sequence, 1))
    )
    assert lost == [0, 0, 0, 0, 0, 0, 1, 1], "chat may not be dropped"
    assert (shared.counters.dropped, shared.counters.conflated) == (2, 1)
    assert connected(queue).data == ["3", "4", "6"]


def test_options_name_policies():
    options = HubOptions(
        slow_client_policy="drop_newest", slow_client_policies=(("a/{b}", "conflate"),)
    )
    built = queue_rules(options)
    assert built.policy_of(("x", "a/1")) is CONFLATE
    assert built.policy_of(("x",)) is DROP_NEWEST
    with pytest.raises(ValueError, match="sometimes"):
        queue_rules(HubOptions(slow_client_policy="sometimes"))


def test_finishing_lets_the_client_have_what_waits():
    network = connected(ClientQueue(rules()), stalled=True)
    offered(network.queue, event(1), event(2))
    network.queue.finish(Batch((), b"last"))
    network.queue.finish()
    assert offered(network.queue, event(3)) == [0]
    assert not network.ended
    network.go_on()
    assert (network.data, network.ended, network.last) == (["1", "2"], True, b"last")


def test_an_idle_client_is_finished_at_once():
    network = connected(ClientQueue(rules()))
    network.queue.finish()
    assert network.ended
    assert network.queue.closed


def test_discarding_leaves_nothing():
    network = connected(ClientQueue(rules()), stalled=True)
    offered(network.queue, event(1), event(2), event(3))
    assert network.queue.discard() == 2
    network.go_on()
    assert network.data == ["1"]
    assert network.ended


def test_a_long_queue_is_sent_in_parts():
    queue = ClientQueue(rules(1000, 100_000))
    offered(queue, *(event(position) for position in range(1, 601)))
    network = connected(queue)
    assert network.data == [*map(str, range(1, 601))]
    assert network.writes == 3


# Flushes ----------------------------------------------------------------------------------------


def make_broker(events=10, size=100_000, interval=0.0, policy=DISCONNECT, history=0):
    return Broker(MemoryTransport(history), rules(events, size, policy), interval)


async def everything(replay) -> list[Event]:
    return [event async for chunk in replay.chunks for event in chunk] if replay else []


async def join(broker: Broker, topic="a", count=1, last=None) -> list[Network]:
    request = SubscribeRequest((parse_selector(topic),), last)
    networks = []
    for _ in range(count):
        subscriber, replay = await broker.subscribe(request, ANONYMOUS)
        network = Network(subscriber.queue)
        network.subscriber = subscriber
        network.received.extend(await everything(replay))
        subscriber.queue.resume()
        networks.append(network)
    return networks


async def publish(broker, count=1, topic="a", first=0):
    for number in range(first, first + count):
        await broker.publish([Update(topics=(topic,), data=str(number))])


async def settled(broker: Broker) -> None:
    """Wait until nothing is unsent and no flush is under way."""
    delivery = broker._delivery
    while delivery._runs or delivery._work is not None:
        await asyncio.sleep(0.001)


async def test_an_idle_hub_sends_at_once():
    broker = make_broker(interval=10)
    [client] = await join(broker)
    await broker.publish([Update(topics=("a",), data="x")])
    assert client.data == ["x"], "before anything else has had a turn"


async def test_a_busy_hub_sends_what_came_meanwhile_together():
    broker = make_broker(interval=0.05)
    clients = await join(broker, count=3)
    await publish(broker, 50)
    assert [client.data for client in clients] == [["0"]] * 3
    await settled(broker)
    assert [client.data for client in clients] == [[*map(str, range(50))]] * 3
    assert [client.writes for client in clients] == [2] * 3


async def test_events_of_different_recipients_keep_their_order():
    broker = make_broker(interval=0.05)
    [a], [b], [both] = [await join(broker, topic) for topic in ("a", "b", "{x}")]
    for number in range(20):
        await publish(broker, topic="ab"[number % 2], first=number)
    await settled(broker)
    assert both.data == [*map(str, range(20))]
    assert (a.data, b.data) == (both.data[::2], both.data[1::2])


async def test_who_joins_between_publication_and_flush_receives_nothing_twice():
    broker = make_broker(interval=0.05, history=100)
    [early] = await join(broker)
    await publish(broker, 2)
    [late] = await join(broker)
    [replaying] = await join(broker, last="earliest")
    await publish(broker, first=2)
    await settled(broker)
    assert early.data == replaying.data == ["0", "1", "2"]
    assert late.data == ["2"]


async def test_other_tasks_have_their_turn_during_a_large_flush(monkeypatch):
    monkeypatch.setattr(delivery_module, "_SLICE", 10)
    broker = make_broker()
    clients = await join(broker, count=35)
    asyncio.get_running_loop().call_soon(
        lambda: turns.append(sum(len(client.received) for client in clients))
    )
    turns: list[int] = []
    await publish(broker)
    await settled(broker)
    assert turns == [10]
    assert all(client.data == ["0"] for client in clients)


async def test_publishers_wait_when_more_is_unsent_than_a_flush_should_hold(monkeypatch):
    monkeypatch.setattr(delivery_module, "_MOST_EVENTS", 20)
    broker = make_broker(interval=0.05, events=10_000)
    [client] = await join(broker)
    await publish(broker, 1000)
    await settled(broker)
    assert client.data == [*map(str, range(1000))]
    assert client.writes >= 1000 // 20


async def test_a_broker_that_is_stopped_lets_publishers_go(monkeypatch):
    monkeypatch.setattr(delivery_module, "_MOST_EVENTS", 2)
    broker = make_broker(interval=10)
    await join(broker)
    publishing = asyncio.create_task(publish(broker, 1))
    await asyncio.sleep(0)
    broker.stop()
    await asyncio.wait_for(publishing, 10)


# Publishers that wait for subscribers -----------------------------------------------------------


async def test_a_publisher_waits_when_most_clients_fall_behind():
    broker = make_broker()
    clients = await join(broker, count=4)
    for client in clients:
        client.stalled = True
    publishing = asyncio.create_task(publish(broker, 7))
    await asyncio.sleep(0)
    assert broker.waiting == 1
    for client in clients[:2]:
        assert not publishing.done()
        client.go_on()
    await publishing
    assert broker.waiting == 0
    assert [len(client.queue) for client in clients] == [0, 0, 6, 6]


async def test_a_publisher_waits_for_no_minority():
    broker = make_broker()
    clients = await join(broker, count=3)
    clients[0].stalled = True
    await publish(broker, 13)
    assert broker.counters.slow_clients == 1
    assert clients[0].dropped


async def test_a_publisher_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(broker_module, "_LONGEST_WAIT", 0.01)
    broker = make_broker()
    [stalled] = await join(broker)
    stalled.stalled = True
    await publish(broker, 13)
    assert broker.counters.slow_clients == 1
    assert stalled.queue.closed


async def test_a_client_that_leaves_lets_the_publisher_go_on():
    broker = make_broker()
    [leaving] = await join(broker)
    leaving.stalled = True
    publishing = asyncio.create_task(publish(broker, 7))
    await asyncio.sleep(0)
    broker.unsubscribe(leaving.subscriber)
    await publishing
    assert not broker.unsubscribe(leaving.subscriber)


@pytest.mark.parametrize("policy", [DROP_OLDEST, DROP_NEWEST, CONFLATE])
async def test_nobody_waits_for_clients_whose_updates_may_be_dropped(policy):
    broker = make_broker(policy=policy)
    [stalled] = await join(broker)
    stalled.stalled = True
    async with asyncio.timeout(0.5):
        await publish(broker, 100)
    assert broker.waiting == 0


# Against a model --------------------------------------------------------------------------------

TOPICS = ["a", "b", "c"]
MOST = 4


@dataclass
class Modelled:
    """A client as it should be: what it wants, what has arrived, what waits for it."""

    topics: frozenset[str]
    arrived: list[str] = field(default_factory=list)
    wanted: list[str] = field(default_factory=list)
    on_its_way: str | None = None
    waiting: list[tuple[str, str]] = field(default_factory=list)
    stalled: bool = False
    connected: bool = True

    def publish(self, topic: str, data: str, policy: SlowClientPolicy) -> None:
        if topic not in self.topics:
            return
        self.wanted.append(data)
        if not self.connected:
            return
        if not self.stalled:
            self.arrived.append(data)
        elif self.on_its_way is None:
            self.on_its_way = data
        else:
            self._wait(topic, data, policy)

    def _wait(self, topic: str, data: str, policy: SlowClientPolicy) -> None:
        if policy is CONFLATE:
            self.waiting = [each for each in self.waiting if each[0] != topic]
        if len(self.waiting) == MOST:
            if policy in (DISCONNECT, CONFLATE):
                self.disconnect()
                return
            if policy is DROP_NEWEST:
                return
            del self.waiting[0]
        self.waiting.append((topic, data))

    def go_on(self) -> None:
        if self.stalled and self.connected:
            self.arrived += [self.on_its_way] if self.on_its_way is not None else []
            self.arrived += [data for _, data in self.waiting]
            self.on_its_way, self.waiting = None, []
        self.stalled = False

    def disconnect(self) -> None:
        self.connected = self.stalled = False
        self.on_its_way, self.waiting = None, []


clients = st.integers(0, 3)
steps = st.one_of(
    st.tuples(st.just("join"), clients, st.sets(st.sampled_from(TOPICS), min_size=1)),
    st.tuples(st.just("publish"), st.sampled_from(TOPICS), st.integers(1, 3)),
    st.tuples(st.just("publish"), st.sampled_from(TOPICS), st.integers(1, 3)),
    st.tuples(st.just("stall"), clients),
    st.tuples(st.just("go on"), clients),
    st.tuples(st.just("leave"), clients),
    st.tuples(st.just("come back"), clients),
)


class Run:
    """A broker and its model, taken through the same steps."""

    def __init__(self, policy: SlowClientPolicy, interval: float) -> None:
        self.policy = policy
        self.broker = make_broker(MOST, policy=policy, interval=interval, history=10_000)
        self.networks: dict[int, Network] = {}
        self.models: dict[int, Modelled] = {}
        self.before: dict[int, list[str]] = {}
        self.joined_after: dict[int, int] = {}
        self.published = 0

    async def take(self, step: tuple) -> None:
        action, *arguments = step
        if action == "publish":
            await self._publish(*arguments)
        elif action == "join":
            await self._join(*arguments)
        elif arguments[0] in self.networks:
            await getattr(self, "_" + action.replace(" ", "_"))(arguments[0])
        await self._note_evictions()

    async def _publish(self, topic: str, count: int) -> None:
        for _ in range(count):
            data = str(self.published)
            self.published += 1
            for model in self.models.values():
                model.publish(topic, data, self.policy)
            await self.broker.publish([Update(topics=(topic,), data=data, id=f"id-{data}")])

    async def _join(self, client: int, topics: set[str]) -> None:
        if client not in self.models:
            self.models[client] = Modelled(frozenset(topics))
            self.before[client] = []
            self.joined_after[client] = self.published - 1
            await self._connect(client, None)

    async def _connect(self, client: int, last: str | None) -> None:
        wanted = tuple(map(parse_selector, sorted(self.models[client].topics)))
        subscriber, replay = await self.broker.subscribe(SubscribeRequest(wanted, last), ANONYMOUS)
        network = self.networks[client] = Network(subscriber.queue)
        network.subscriber = subscriber
        network.received.extend(await everything(replay))
        subscriber.queue.resume()

    async def _stall(self, client: int) -> None:
        if self.models[client].connected:
            self.networks[client].stalled = self.models[client].stalled = True

    async def _go_on(self, client: int) -> None:
        self.networks[client].go_on()
        self.models[client].go_on()

    async def _leave(self, client: int) -> None:
        self.broker.unsubscribe(self.networks[client].subscriber)
        self.networks[client].on_its_way = []
        self.models[client].disconnect()

    async def _come_back(self, client: int) -> None:
        model = self.models[client]
        if model.connected:
            return
        arrived = self.arrived(client)
        self.before[client] = arrived
        # One that has received nothing begins after what was published before it joined.
        last = int(arrived[-1]) if arrived else self.joined_after[client]
        begin = model.wanted.index(arrived[-1]) + 1 if arrived else 0
        await self._connect(client, f"id-{last}" if last >= 0 else "earliest")
        model.connected = True
        model.arrived += model.wanted[begin:]

    async def _note_evictions(self) -> None:
        for client, network in self.networks.items():
            if network.dropped:
                network.on_its_way = []
                self.broker.unsubscribe(network.subscriber)
                if self.broker._delivery._max_interval:
                    self.models[client].disconnect()

    def arrived(self, client: int) -> list[str]:
        return self.before[client] + self.networks[client].data

    def check_bounds(self) -> None:
        for network in self.networks.values():
            assert len(network.queue) <= MOST

    async def end(self) -> None:
        """Let everybody go on, and come back who was cut off."""
        await settled(self.broker)
        await self._note_evictions()
        for client in self.models:
            await self._go_on(client)
            await self._come_back(client)

    def check_nothing_is_left(self) -> None:
        for network in self.networks.values():
            self.broker.unsubscribe(network.subscriber)
            assert len(network.queue) == 0
        broker = self.broker
        assert (len(broker), len(broker.index), len(broker.granted)) == (0, 0, 0)
        assert (broker._behind, broker._waits, broker.waiting) == (set(), [], 0)


@contextlib.contextmanager
def nobody_waits():
    before, broker_module._LONGEST_WAIT = broker_module._LONGEST_WAIT, 0.0
    try:
        yield
    finally:
        broker_module._LONGEST_WAIT = before


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SlowClientPolicy), st.lists(steps, max_size=40))
async def test_every_step_is_as_the_model_has_it(policy, taken):
    with nobody_waits():
        run = Run(policy, interval=0.0)
        for step in taken:
            await run.take(step)
            run.check_bounds()
            for client, model in run.models.items():
                assert run.arrived(client) == model.arrived
                assert [event.update.data for event in run.networks[client].on_its_way] == (
                    [] if model.on_its_way is None else [model.on_its_way]
                )
        await run.end()
        for client, model in run.models.items():
            assert run.arrived(client) == model.arrived
            if policy is DISCONNECT:
                assert run.arrived(client) == model.wanted, "nothing is lost"
        run.check_nothing_is_left()


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(SlowClientPolicy), st.lists(steps, max_size=40))
async def test_flushing_in_batches_keeps_order_bounds_and_completeness(policy, taken):
    with nobody_waits():
        run = Run(policy, interval=0.001)
        for step in taken:
            await run.take(step)
            run.check_bounds()
        await run.end()
        for client, model in run.models.items():
            arrived = [*map(int, run.arrived(client))]
            assert arrived == sorted(set(arrived)), "in order, and nothing twice"
            assert set(arrived) <= {*map(int, model.wanted)}
            if policy is DISCONNECT:
                assert arrived == [*map(int, model.wanted)], "nothing is lost"
        counters = run.broker.counters
        if policy in (DISCONNECT, CONFLATE):
            assert counters.dropped == 0 or counters.slow_clients
        run.check_nothing_is_left()


def test_a_subscriber_says_what_it_receives():
    one = Subscriber((parse_selector("a"),), ANONYMOUS, ClientQueue(rules()))
    assert one.receives(Update(topics=("x", "a")))
    assert not one.receives(Update(topics=("a",), private=True))
