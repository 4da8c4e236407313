"""Who keeps an address: one user in its place, many in a table, always in order of coming."""

from __future__ import annotations

from random import Random

import pytest

from tapstack.ipv6.addresses import Users


class User:
    """Somebody."""

    heard = True

    def serves(self, remote: bytes) -> bool:
        return False


@pytest.mark.parametrize("most", [1, 2, 3, 20])
def test_it_is_a_set(most: int) -> None:
    random = Random(most)
    users = Users()
    people = [User() for _ in range(most)]
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


def test_the_only_user_needs_no_table() -> None:
    users = Users()
    connection, record = User(), User()
    users.add(connection)
    users.add(record)
    users.remove(connection)
    assert list(users) == [record]
    assert users._table is None, "a record of TIME-WAIT must not cost a dict"
