"""Listings that concurrent requests share."""

from __future__ import annotations

import asyncio
import weakref

from nfagent.kernel.table_listings import SharedListing


class Listed:
    """The result of a listing, which may be as large as the table."""


def test_a_result_is_kept_no_longer_than_by_those_who_asked_for_it() -> None:
    made: list[weakref.ref[Listed]] = []

    async def ask() -> Listed:
        found = Listed()
        made.append(weakref.ref(found))
        return found

    async def body() -> None:
        listing = SharedListing(ask)
        first, second, _ = await asyncio.gather(*(listing.read() for _ in range(3)))
        assert first is second is made[0]()
        del first, second, _
        await asyncio.sleep(0)
        assert [each() for each in made] == [None]
        assert isinstance(await listing.read(), Listed)
        assert len(made) == 2

    asyncio.run(body())
