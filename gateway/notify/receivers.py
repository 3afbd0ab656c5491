"""All kinds of receivers."""

from gateway.model.alerts import ReceiverKind
from gateway.notify import commits, gitea, github, gitlab, people, webhook
from gateway.notify.http import Sender
from gateway.notify.receiver import Delivery, Receipt, Undelivered


async def deliver(sender: Sender, delivery: Delivery) -> Receipt:
    """Tell the receiver of the event. Raises Undelivered."""
    if delivery.alert.address is None:
        raise Undelivered(delivery.alert.unreadable or "its address is not known here", down=True)
    match delivery.alert.receiver:
        case ReceiverKind.APPRISE:
            return await people.deliver(delivery)
        case ReceiverKind.WEBHOOK:
            return await webhook.deliver(sender, delivery)
        case ReceiverKind.GITHUB:
            return await github.deliver(sender, delivery)
        case ReceiverKind.GITLAB:
            return await gitlab.deliver(sender, delivery)
        case ReceiverKind.GITEA:
            return await gitea.deliver(sender, delivery)


async def try_out(sender: Sender, delivery: Delivery) -> Receipt:
    """Tell the receiver of a test; of the host of source code, see whether it knows the token. Raises Undelivered."""
    if not delivery.alert.receiver.shows_commits or delivery.alert.address is None:
        return await deliver(sender, delivery)
    return await commits.check(sender, delivery, _API[delivery.alert.receiver])


_API = {
    ReceiverKind.GITHUB: github.API,
    ReceiverKind.GITLAB: gitlab.API,
    ReceiverKind.GITEA: gitea.API,
}
