"""Stand-ins for the parts of an attempt that a test of an adapter does not look at."""

from __future__ import annotations

import asyncio

from providers.base import Account, Picture

KEYLESS = Account("", "")


class Permissive:
    """Permits every call, and sleeps when backing off."""

    async def wait_for_permit(self) -> None:
        pass

    async def back_off(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def keep_picture(picture: Picture) -> Picture:
    return picture
