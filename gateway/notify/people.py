"""The receiver `apprise`: messages to people, through Apprise. Its addresses: https://github.com/caronc/apprise"""

import asyncio
import logging
import re
from functools import lru_cache, partial
from threading import Semaphore
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from gateway.model.errors import InvalidInput
from gateway.notify.receiver import Delivery, Receipt, Undelivered, secret_of
from gateway.notify.threads import run_in_own_thread

if TYPE_CHECKING:  # slow to import, and needed only where there is an address
    from apprise import Apprise

_DEADLINE = 30.0  # seconds that one address may take
_AT_ONCE = 8  # messages to one address, counting those that took longer
_KEPT = 512  # parsed addresses: there are no more alerts
_ACTIVE_MARKUP = re.compile(r"@(?=(all|channel|everyone|here|room)\b)|\](?=[(\[:])|<(?=[A-Za-z!@#/])", re.IGNORECASE)
#: an address may contain commas
ADDRESS_SEPARATOR = re.compile(r"[,\s]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")


async def deliver(delivery: Delivery) -> Receipt:
    """Tell the people. Raises Undelivered."""
    address = await asyncio.to_thread(_parsed, secret_of(delivery.alert.address or {}, "url"))
    await send(address, delivery.event.title(), delivery.event.body())
    return Receipt()


@lru_cache(maxsize=_KEPT)
def _parsed(url: str) -> "Apprise":
    return parse_address(url)


def parse_address(url: str) -> "Apprise":
    """Return what Apprise makes of one address. Raises InvalidInput without repeating it."""
    import apprise

    # These libraries log addresses.
    for library in ("apprise", "urllib3"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    # With a limit of its own, it sends by threads that are few and that all addresses share.
    one = apprise.Apprise(asset=apprise.AppriseAsset(service_timeout=0))
    if ADDRESS_SEPARATOR.search(url) or not one.add(url):
        raise InvalidInput("it is not an Apprise address such as mailto://user:password@host", field="address")
    return one


async def send(address: "Apprise", title: str, body: str) -> None:
    """Send one message. Raises Undelivered.

    A thread is bound by what answers it, and not by the deadline: an address that holds too many gets no more.
    """
    places = _places.setdefault(address, Semaphore(_AT_ONCE))
    try:
        async with asyncio.timeout(_DEADLINE):
            done = await run_in_own_thread(partial(_notify, address, neutralize(title), neutralize(body), places))
    except Undelivered:
        raise
    except Exception as error:  # whatever an Apprise plugin raises; its text may have the address
        what = "it does not answer in time" if isinstance(error, TimeoutError) else type(error).__name__
        raise Undelivered(f"the message could not be sent: {what}", down=True) from error
    if not done:
        raise Undelivered("the message was not accepted: check the address", down=True)


_places: WeakKeyDictionary["Apprise", Semaphore] = WeakKeyDictionary()


def _notify(address: "Apprise", title: str, body: str, places: Semaphore) -> bool:
    from apprise import NotifyFormat

    if not places.acquire(blocking=False):
        raise Undelivered(f"{_AT_ONCE} earlier messages are still on their way", down=True)
    try:
        # Plain text: HTML and Markdown in it are shown as they are.
        return bool(address.notify(body=body, title=title, body_format=NotifyFormat.TEXT))
    finally:
        places.release()


def neutralize(text: str) -> str:
    """Break mentions such as @all and links with other text, which a name from outside could contain."""
    return _ACTIVE_MARKUP.sub("\\g<0>\u2060", text)
