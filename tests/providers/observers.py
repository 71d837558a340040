"""The parts of an attempt's surroundings that an adapter's test has no interest in."""

from __future__ import annotations

import asyncio

from providers.base import Account, Picture

KEYLESS = Account("", "")


class Permissive:
    """Permits every call, and waits where it must."""

    async def wait_for_permit(self) -> None:
        pass

    async def back_off(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def keep_picture(picture: Picture) -> Picture:
    return picture
