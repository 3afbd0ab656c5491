"""The receiver `apprise`: messages to people, through Apprise. Its addresses: https://github.com/caronc/apprise"""

import asyncio
import logging
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from gateway.model.errors import InvalidInput
from gateway.notify.receiver import Delivery, Receipt, Undelivered, secret_of

if TYPE_CHECKING:  # slow to import, and needed only where there is an address
    from apprise import Apprise

_DEADLINE = 30.0  # seconds that one address may take
_ACTIVE_MARKUP = re.compile(r"@(?=(all|channel|everyone|here|room)\b)|\](?=[(\[:])|<(?=[A-Za-z!@#/])", re.IGNORECASE)
#: an address may contain commas
ADDRESS_SEPARATOR = re.compile(r"[,\s]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")


async def deliver(delivery: Delivery) -> Receipt:
    """Tell the people. Raises Undelivered."""
    address = await asyncio.to_thread(_parsed, secret_of(delivery.alert.address or {}, "url"))
    await send(address, delivery.event.title(), delivery.event.body())
    return Receipt()


@lru_cache(maxsize=64)
def _parsed(url: str) -> "Apprise":
    return parse_address(url)


def parse_address(url: str) -> "Apprise":
    """Return what Apprise makes of one address. Raises InvalidInput without repeating it."""
    import apprise

    # These libraries log addresses.
    for library in ("apprise", "urllib3"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    one = apprise.Apprise()
    if ADDRESS_SEPARATOR.search(url) or not one.add(url):
        raise InvalidInput("it is not an Apprise address such as mailto://user:password@host", field="address")
    return one


async def send(address: "Apprise", title: str, body: str) -> None:
    """Send one message. Raises Undelivered."""
    from apprise import NotifyFormat

    try:
        async with asyncio.timeout(_DEADLINE):
            # Plain text: HTML and Markdown in it are shown as they are.
            done = bool(
                await address.async_notify(
                    body=neutralize(body), title=neutralize(title), body_format=NotifyFormat.TEXT
                )
            )
    except Exception as error:  # whatever an Apprise plugin raises; its text may have the address
        what = "it does not answer in time" if isinstance(error, TimeoutError) else type(error).__name__
        raise Undelivered(f"the message could not be sent: {what}", down=True) from error
    if not done:
        raise Undelivered("the message was not accepted: check the address", down=True)


def neutralize(text: str) -> str:
    """Break mentions such as @all and links with other text, which a name from outside could contain."""
    return _ACTIVE_MARKUP.sub("\\g<0>\u2060", text)
