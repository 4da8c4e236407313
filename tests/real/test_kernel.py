"""Namespaces, links, addresses, routes and sysctls: they do what they say, and go when their block ends."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from ipaddress import IPv6Address
from pathlib import Path
from random import Random

import pytest

from compat.kernel import (
    NETNS_DIR,
    Interface,
    KernelError,
    KernelRefused,
    KernelUnavailable,
    Namespace,
    address,
    bridge,
    bridged_tap,
    capabilities,
    get_sysctl,
    in_namespace,
    membership,
    namespace,
    offloads,
    route,
    set_sysctl,
    sysctl,
    tap,
    unnamed_namespace,
    veth,
)
from compat.kernel.topology import (
    CLIENT_ADDRESS,
    SERVER_ADDRESS,
    SERVER_ROUTER,
    THIRD_ADDRESS,
    Topology,
    demo_topology,
)
from scenarios.bench.overflows import overflows

from .datagrams import TABLE_PATIENCE, send_blocking

pytestmark = pytest.mark.real
PATIENCE = 20.0

FORWARDING = "ipv6/conf/all/forwarding"


@pytest.fixture
def space() -> Iterator[Namespace]:
    with namespace("test") as made:
        yield made


@pytest.fixture
def shared() -> Iterator[Namespace]:
    """A namespace that this process did not make, as far as the code under test can tell: changes in it are recorded."""
    with unnamed_namespace() as made, Namespace(f"/proc/self/fd/{made.fd}") as handle:
        yield handle


def ping(where: Namespace, target: str) -> int:
    """ICMPv6 echoes until one is answered, as a full neighbour table on the way silences them; the hop limit of the reply."""
    with in_namespace(where):
        probe = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    with probe:
        probe.settimeout(1)
        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        probe.setsockopt(socket.IPPROTO_ICMPV6, 1, struct.pack("8I", *[0xFFFFFFFF] * 4, 0xFFFFFFFD, *[0xFFFFFFFF] * 3))
        sender, deadline = None, time.monotonic() + TABLE_PATIENCE
        while sender != target:  # what another address says late was asked of it by an earlier probe
            assert time.monotonic() < deadline, f"{target} does not answer"
            send_blocking(probe, struct.pack(">BBHHH", 128, 0, 0, 7, 1) + b"across", (target, 0))
            with suppress(TimeoutError):
                data, extra, _, (sender, *_) = probe.recvmsg(100, 100)
        assert (data[0], data[8:]) == (129, b"across")
        (_, _, limit) = extra[0]
        return int(struct.unpack("i", limit)[0])


def own_state() -> tuple[object, ...]:
    """What a leak would change: descriptors, threads, child processes, namespace names, our links."""
    return (
        sorted(os.listdir("/proc/self/fd")),
        sorted(thread.name for thread in threading.enumerate()),
        Path(f"/proc/self/task/{os.getpid()}/children").read_text(),
        sorted(path.name for path in NETNS_DIR.glob(f"unimux-{os.getpid()}-*")),
        sorted(name for _, name in socket.if_nameindex()),
    )


def test_ping_through_the_router() -> None:
    with demo_topology() as net:
        assert ping(net.client, SERVER_ADDRESS) == 63
        assert ping(net.client, THIRD_ADDRESS) == 63
        assert ping(net.third, CLIENT_ADDRESS) == 63
        assert ping(net.third, SERVER_ADDRESS) == 64
        assert get_sysctl(net.router, "ipv6/conf/client/accept_untracked_na") == "0"
        with sysctl(net.router, FORWARDING, 0), pytest.raises(OSError, match="timed out"):
            connect(net, SERVER_ADDRESS, 0.2)
        with pytest.raises(ConnectionRefusedError):
            connect(net, SERVER_ADDRESS, PATIENCE)


def connect(net: Topology, target: str, timeout: float) -> None:
    with in_namespace(net.client):
        client = socket.socket(socket.AF_INET6)
    with client:
        client.settimeout(timeout)
        client.connect((target, 9))


def test_topology_settings() -> None:
    with demo_topology(mtu=1400, congestion="reno") as net:
        for link in (*net.veths, net.client_bridge, net.server_bridge):
            assert link.is_up
            assert link.mtu == 1400
            net.set_offloads(False)
            assert not any(link.offloads().values()), link
            net.set_offloads(True)
            assert all(link.offloads().values()), link
        for each in net.namespaces:
            assert get_sysctl(each, "ipv4/tcp_congestion_control") == "reno"
        if "cubic" not in Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control").read_text().split():
            with pytest.raises(KernelUnavailable, match="tcp_allowed_congestion_control"):
                net.set_congestion("cubic")
        assert net.client_uplink.addresses == []
        assert SERVER_ROUTER in {str(each.ip) for each in net.router_server.addresses}


def test_nothing_leaks_from_building_and_removing() -> None:
    def build() -> None:
        with demo_topology() as net, bridged_tap(net.client_bridge, "tap0", mac=Random(1)):
            net.set_offloads(False)

    build()  # what is made once (imports, caches) is made now
    before = own_state()
    for _ in range(4):
        build()
    assert own_state() == before


def test_namespace_is_gone_after_its_block_whatever_ends_it() -> None:
    def build() -> None:
        with namespace("test") as made:
            names.append(made.name)
            assert (NETNS_DIR / made.name).exists()
            raise ZeroDivisionError

    names: list[str] = []
    with pytest.raises(ZeroDivisionError):
        build()
    (name,) = names
    assert not (NETNS_DIR / name).exists()
    assert name not in Path("/proc/self/mountinfo").read_text()


def test_two_namespaces_of_one_role_have_two_names() -> None:
    with namespace("test") as one, namespace("test") as two:
        assert one.name != two.name
        assert one.inode != two.inode


def test_address_and_route_go_with_their_blocks(space: Namespace) -> None:
    with veth(space, "a", space, "b") as (a, _):
        with address(a, "2001:db8::1/64") as given, route(space, "2001:db8:f::/48", via="2001:db8::2", metric=5):
            assert given in a.addresses
            assert "20010db8000f00000000000000000000 30" in space.run(routes, "read")
        assert given not in a.addresses
        assert "20010db8000f" not in space.run(routes, "read")
        with route(space, "2001:db8:e::/48", dev=a):
            assert "20010db8000e00000000000000000000 30" in space.run(routes, "read")
    assert space.run(socket.if_nameindex, "list") == [(1, "lo")]


def routes() -> str:
    return Path("/proc/thread-self/net/ipv6_route").read_text()


def test_addresses_are_usable_at_once_or_after_detection(space: Namespace) -> None:
    def bind(text: str) -> None:
        with socket.socket(socket.AF_INET6) as own:
            own.bind((text, 0))

    with veth(space, "a", space, "b") as (a, _), address(a, "2001:db8::1/64"):
        space.run(lambda: bind("2001:db8::1"), "bind")
        set_sysctl(space, "ipv6/neigh/a/retrans_time_ms", 60_000)  # so long does detection take
        with address(a, "2001:db8::2/64", nodad=False), pytest.raises(KernelRefused):
            space.run(lambda: bind("2001:db8::2"), "bind")


def test_multicast_snooping_is_off_until_asked_for(space: Namespace) -> None:
    def snooping(of: Interface) -> int:
        def read(route_socket: object) -> int:
            info = route_socket.link("get", ifname=of.name)[0].get_attr("IFLA_LINKINFO")  # type: ignore[attr-defined]
            return int(info.get_attr("IFLA_INFO_DATA").get_attr("IFLA_BR_MCAST_SNOOPING"))

        return space.netlink(read, "read")

    with bridge(space, "one") as one, bridge(space, "two", multicast_snooping=True) as two:
        assert (snooping(one), snooping(two)) == (0, 1)


def test_bridge_address_does_not_follow_its_ports(space: Namespace) -> None:
    with (
        bridge(space, "br") as br,
        veth(space, "a", space, "b", macs=(bytes([2, 0, 0, 0, 0, 1]), bytes([2] * 6))) as ends,
    ):
        before = br.mac
        with membership(ends[0], br):
            assert br.mac == before
            assert ends[0].master == br.index
        assert ends[0].master == 0


def test_link_down_up_and_mtu(space: Namespace) -> None:
    with veth(space, "a", space, "b", mtu=9000) as (a, b):
        assert a.mtu == b.mtu == 9000
        a.set_mtu(1280)
        a.down()
        assert a.mtu == 1280
        assert not a.is_up
        a.up()
        a.until_operational()
        assert a.is_up


def test_offloads_come_back(space: Namespace) -> None:
    with veth(space, "a", space, "b") as (a, _):
        before = a.offloads()
        with offloads(a, False):
            assert not any(a.offloads().values())
        assert a.offloads() == before


def test_sysctl_is_written_inside_the_namespace_and_comes_back(space: Namespace) -> None:
    outside = Path("/proc/sys/net") / "ipv6/conf/default/hop_limit"
    before = outside.read_text()
    with sysctl(space, "ipv6/conf/default/hop_limit", 33):
        assert get_sysctl(space, "ipv6/conf/default/hop_limit") == "33"
        assert outside.read_text() == before
    assert get_sysctl(space, "ipv6/conf/default/hop_limit") == "64"


def test_the_last_holder_of_a_shared_sysctl_restores_it(shared: Namespace) -> None:
    with ExitStack() as second:
        with sysctl(shared, FORWARDING, 1):
            second.enter_context(sysctl(shared, FORWARDING, 1))
        assert get_sysctl(shared, FORWARDING) == "1"
    assert get_sysctl(shared, FORWARDING) == "0"


def test_a_sysctl_that_somebody_else_changed_is_left_alone(shared: Namespace) -> None:
    name = "ipv6/conf/default/hop_limit"
    with sysctl(shared, name, 33):
        set_sysctl(shared, name, 77)
    assert get_sysctl(shared, name) == "77"


def test_a_name_that_is_taken_is_refused_and_left_alone(shared: Namespace) -> None:
    with bridge(shared, "br") as br, address(br, "2001:db8::1/64"):
        taken = pytest.raises(KernelRefused, match=r"Cannot make the bridge br in .*: that name.* is already in use")
        with taken, bridge(shared, "br"):
            pass
        with pytest.raises(KernelRefused, match="already in use"), address(br, "2001:db8::1/64"):
            pass
        assert "2001:db8::1" in {str(each.ip) for each in br.addresses}


def test_undoing_what_has_gone_is_harmless(shared: Namespace) -> None:
    with (
        veth(shared, "a", shared, "b") as (a, b),
        address(b, "2001:db8::1/64"),
        route(shared, "2001:db8:1::/64", dev=b),
        sysctl(shared, "ipv6/conf/b/hop_limit", 3),
        offloads(b, False),
        bridge(shared, "br") as br,
        membership(a, br),
    ):
        shared.netlink(lambda each: each.link("del", index=a.index), "remove")
    assert shared.run(socket.if_nameindex, "list") == [(1, "lo")]


def test_what_is_not_there_is_named_in_one_sentence(space: Namespace) -> None:
    with pytest.raises(
        KernelRefused, match=r"Cannot change the interface nothing in unimux-.*: there is no such interface\."
    ):
        Interface(space, "nothing").up()
    with pytest.raises(KernelRefused, match="Cannot set the sysctl net/ipv6/nothing"):
        set_sysctl(space, "ipv6/nothing", 1)
    with pytest.raises(KernelRefused, match="Cannot open the network namespace /run/netns/unimux-nothing"):
        Namespace.named("unimux-nothing")


def test_in_namespace_comes_back_from_everything(space: Namespace) -> None:
    home = os.readlink("/proc/thread-self/ns/net")
    with in_namespace(space):
        assert os.stat("/proc/thread-self/ns/net").st_ino == space.inode
    assert os.readlink("/proc/thread-self/ns/net") == home
    with pytest.raises(ZeroDivisionError), in_namespace(space):
        raise ZeroDivisionError
    assert os.readlink("/proc/thread-self/ns/net") == home


def test_in_namespace_notices_an_await_inside(space: Namespace) -> None:
    home = os.readlink("/proc/thread-self/ns/net")

    async def hold(where: Namespace, first: asyncio.Event, then: asyncio.Event) -> None:
        with in_namespace(where):
            first.set()
            await then.wait()

    async def both() -> None:
        with namespace("other") as other:
            entered, left, never = asyncio.Event(), asyncio.Event(), asyncio.Event()
            outer = asyncio.create_task(hold(space, entered, left))
            await entered.wait()
            inner = asyncio.create_task(hold(other, left, never))
            with pytest.raises(RuntimeError, match="await"):
                await outer
            inner.cancel()
            with pytest.raises((asyncio.CancelledError, RuntimeError)):
                await inner

    thread = threading.Thread(target=lambda: asyncio.run(both()))  # the mix-up spoils its thread, as the error says
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert os.readlink("/proc/thread-self/ns/net") == home


def test_netlink_works_beside_a_running_loop(space: Namespace) -> None:
    async def build() -> None:
        with bridge(space, "br") as br:
            assert br.is_up is False  # no port, no carrier

    asyncio.run(build())


def test_tap_lives_in_its_namespace_and_dies_with_its_block(space: Namespace) -> None:
    with tap(space, "tap0", mac=bytes([2, 0, 0, 0, 0, 9]), mtu=1300) as link:
        assert "tap0" in {name for _, name in space.run(socket.if_nameindex, "list")}
        assert "tap0" not in {name for _, name in socket.if_nameindex()}
        assert Interface(space, "tap0").mtu == 1300
        assert link.properties.mtu == 1300
    assert space.run(socket.if_nameindex, "list") == [(1, "lo")]


def test_a_bridged_tap_is_one_more_host_on_the_lan(space: Namespace) -> None:
    """A frame from the TAP reaches the other port, and the kernel's end adds none of its own."""
    with bridge(space, "br") as br, veth(space, "a", space, "b") as (a, b), membership(a, br):
        a.down()
        b.down()  # their own chatter is not what is looked at
        with bridged_tap(br, "tap0", mac=bytes([2, 0, 0, 0, 0, 9])) as link:
            a.up()
            with in_namespace(space):
                listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B6))
                speaker = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            with listener, speaker:
                b.up()
                for end in (a, b):
                    end.until_operational()
                listener.bind(("b", 0x88B6))
                listener.settimeout(PATIENCE)
                out = b"\xff" * 6 + link.properties.mac + b"\x88\xb6" + b"from the stack".ljust(46)  # type: ignore[operator]
                assert link.send([out])
                assert listener.recv(2000) == out
                speaker.bind(("b", 0))
                back = link.properties.mac + b.mac + b"\x88\xb6" + b"to the stack".ljust(46)  # type: ignore[operator]
                speaker.send(back)
                frames = []
                while back not in frames:
                    if (frame := link.receive()) is not None:
                        frames.append(bytes(frame))
                kernel_end = Interface(space, "tap0").mac
                assert not [frame for frame in frames if frame[6:12] == kernel_end]


def test_capabilities_of_root() -> None:
    before = own_state()
    found = capabilities()
    assert found
    assert found.missing == ()
    found.require()
    assert own_state() == before


UNPRIVILEGED = """
import os, sys
from compat.kernel import KernelUnavailable, capabilities, clean_leftovers, namespace
os.setgroups([]); os.setgid(65534); os.setuid(65534)
found = capabilities()
print(len(found.missing), *found.missing, sep="\\n")
try:
    with namespace("test"):
        print("made it")
except KernelUnavailable as error:
    print(error)
print(bool(clean_leftovers()))
"""


def test_without_privilege_it_says_so() -> None:
    done = subprocess.run([sys.executable, "-c", UNPRIVILEGED], capture_output=True, text=True, timeout=120, check=True)
    count, *sentences, refused, cleaned = done.stdout.splitlines()
    assert int(count) == len(sentences) >= 1
    for sentence in (*sentences, refused):
        assert "root" in sentence
        assert sentence.endswith(".")
    assert refused.startswith("Cannot make the network namespace unimux-")
    assert cleaned == "False"


def test_missing_tun_device_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("compat.kernel.probe.TUN_DEVICE", tmp_path / "tun")
    found = capabilities()
    assert [sentence.split(";")[0] for sentence in found.missing] == [f"There is no {tmp_path}/tun"]
    with pytest.raises(KernelUnavailable, match="modprobe tun"):
        found.require()


def test_not_even_the_first_packet_is_lost() -> None:
    """The kernel brings links and addresses into service in the background; the topology waits for it."""
    arrived = 0
    with overflows() as full:
        while arrived < 6:
            if full is not None:
                full.begin()
            with demo_topology() as net:
                lost = what_is_lost(net)
            if full is not None and full.risen():
                continue  # who cannot note a neighbour does not answer it
            assert not lost
            arrived += 1


def what_is_lost(net: Topology) -> str:
    """What gets lost of a datagram that goes from the third to the server first of all; nothing is the empty text."""
    with in_namespace(net.server):
        receiver = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with in_namespace(net.third):
        sender = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with receiver, sender:
        receiver.settimeout(PATIENCE)
        receiver.bind((SERVER_ADDRESS, 9))
        send_blocking(sender, b"first", (SERVER_ADDRESS, 9))
        try:
            assert receiver.recv(100) == b"first"
        except TimeoutError:
            return "the datagram"
    # A resolution that was repeated since something got lost has solicitations without an answer, however long they take.
    pause, deadline = threading.Event(), time.monotonic() + PATIENCE
    while (unanswered := unanswered_solicitations(net.third)) and time.monotonic() < deadline:
        pause.wait(0.01)
    return f"{unanswered} solicitations or their answers" if unanswered else ""


def unanswered_solicitations(space: Namespace) -> int:
    """How many more Neighbor Solicitations a kernel has sent than Neighbor Advertisements it has received; some it has sent."""
    text = space.run(lambda: Path("/proc/thread-self/net/snmp6").read_text(), "read the counters")
    counters = dict(line.split() for line in text.splitlines())
    sent = int(counters["Icmp6OutNeighborSolicits"])
    assert sent
    return sent - int(counters["Icmp6InNeighborAdvertisements"])


def test_a_link_without_its_other_end_is_not_waited_for_for_ever(space: Namespace) -> None:
    with bridge(space, "br") as br, pytest.raises(KernelError, match=r"br in unimux-.* is not operational \(DOWN\)"):
        br.until_operational(timeout=0.05)
    with bridge(space, "br") as br:
        br.down()
        with pytest.raises(KernelError, match=r"br in unimux-.* is down; set it up first \(ip link set br up\)"):
            br.until_operational()
    with veth(space, "a", space, "b") as (a, _), address(a, "2001:db8::1/64"):
        a.until_answering()
        with pytest.raises(KernelError, match=r"a in unimux-.* does not answer for 2001:db8::2"):
            a.until_answering(IPv6Address("2001:db8::2"), timeout=0.05)
        a.down()
        with address(a, "2001:db8::3/64") as third:
            assert third in a.addresses
