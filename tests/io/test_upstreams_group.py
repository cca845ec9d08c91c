"""Upstreams through reloads: what is equal is kept with all it knows, what is gone lets go."""

from __future__ import annotations

from relay.config.values import Upstream
from relay.upstreams.group import Groups
from tests.io.upstreams_setup import Plane, config, data_plane, http, upstream, wire_pair


def named(name: str, port: int) -> Upstream:
    return upstream(http(port))._replace(name=name)


def groups_of(plane: Plane, *upstreams: Upstream) -> Groups:
    return Groups(config(*upstreams), plane.engine, plane.alarms)


async def test_lookup_by_the_object_and_by_an_equal_one() -> None:
    async with data_plane() as plane:
        a, b = named("a", 1), named("b", 2)
        groups = groups_of(plane, a, b)
        assert groups[a].upstream is a
        assert groups[b].upstream is b
        assert groups[named("a", 1)] is groups[a]
        assert [group.upstream for group in groups] == [a, b]


async def test_a_reload_keeps_equal_upstreams_with_pool_and_health() -> None:
    async with data_plane() as plane:
        old = named("a", 1)
        groups = groups_of(plane, old)
        group = groups[old]
        (url,) = group.origins
        wire, peer = wire_pair(plane)
        url.put(wire)
        url.failed("timeout")

        again = named("a", 1)
        assert groups.update(config(again)) == []
        assert groups[again] is group
        assert groups[old] is group, "what started under the old configuration"
        assert url.take() is wire
        assert url.failures == 1
        wire.close()
        peer.close()


async def test_a_reload_retires_what_changed_and_tells_what_is_new() -> None:
    async with data_plane() as plane:
        before = named("a", 1)
        groups = groups_of(plane, before)
        retired = groups[before]
        (url,) = retired.origins
        idle, peer1 = wire_pair(plane)
        running, peer2 = wire_pair(plane)
        url.put(idle)

        after = named("a", 2)
        new = groups.update(config(after))
        assert [group.upstream for group in new] == [after]
        assert idle.closed
        assert not running.closed, "exchanges under way keep their wires"
        assert retired.checking.cancel_called

        assert groups[before] is retired, "a second step under the old configuration"
        assert retired.choose() is url
        url.put(running)
        assert running.closed, "but nothing is kept any more"
        assert [group.upstream for group in groups] == [after]
        peer1.close()
        peer2.close()


async def test_an_upstream_long_gone_can_still_be_dialled_but_keeps_nothing() -> None:
    async with data_plane() as plane:
        gone = named("a", 1)
        groups = groups_of(plane, gone)
        groups.update(config(named("a", 2)))
        groups.update(config(named("a", 3)))
        group = groups[gone]
        assert group is groups[gone]
        origin = group.choose()
        assert origin is not None
        assert origin.retired


async def test_close_lets_go_of_everything() -> None:
    async with data_plane() as plane:
        a, b = named("a", 1), named("b", 2)
        groups = groups_of(plane, a, b)
        pairs = [wire_pair(plane) for _ in range(4)]
        for n, (wire, _) in enumerate(pairs):
            groups[(a, b)[n % 2]].origins[0].put(wire)
        groups.close_idle()
        assert all(wire.closed for wire, _ in pairs)
        groups.close()
        assert all(group.checking.cancel_called for group in groups)
        for _, peer in pairs:
            peer.close()
