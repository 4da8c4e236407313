"""Who keeps an address: one user in its place, many in a table, always in order of coming."""

from __future__ import annotations

from random import Random

import pytest

from tapstack.ipv6.addresses import Users


class User:
    """Somebody with one peer, or with two: then `remote` names none."""

    heard = True
    asked = 0

    def __init__(self, *peers: bytes) -> None:
        self.peers = peers
        self.remote = peers[0] if len(peers) == 1 else None

    def serves(self, remote: bytes) -> bool:
        User.asked += 1
        return remote in self.peers


PEERS = [bytes([number]) * 16 for number in range(6)]


@pytest.mark.proves("UM-EA-1", "UM-LIS-8", by="api")
@pytest.mark.parametrize("number", [100, 10_000])
def test_a_stranger_costs_no_more_where_an_address_has_many_sessions(number: int) -> None:
    users = Users()
    users.add(User())
    for _ in range(number):
        users.add(User(PEERS[0]))
    User.asked = 0
    assert not users.serve(PEERS[1])
    assert users.serve(PEERS[0])
    assert User.asked < 5


@pytest.mark.parametrize("most", [1, 2, 3, 20])
def test_it_is_a_set(most: int) -> None:
    random = Random(most)
    users = Users()
    people = [User(*random.sample(PEERS, random.randrange(3))) for _ in range(most)]
    expected: set[User] = set()
    for _ in range(2000):
        user = random.choice(people)
        if user in expected and random.random() < 0.5:
            users.remove(user)
            expected.discard(user)
        elif user in expected:
            users.add(user)
        else:
            with pytest.raises(KeyError):
                users.remove(user)
            users.add(user)
            expected.add(user)
        assert set(users) == expected
        assert len(users) == len(expected) == len(list(users))
        assert bool(users) == bool(expected)
        assert all((user in users) == (user in expected) for user in people)
        for remote in PEERS:
            assert users.serve(remote) == any(remote in user.peers for user in expected)


def test_the_only_user_needs_no_table() -> None:
    users = Users()
    connection, record = User(), User()
    users.add(connection)
    users.add(record)
    users.remove(connection)
    assert list(users) == [record]
    assert users._table is None, "a record of TIME-WAIT must not cost a dict"
