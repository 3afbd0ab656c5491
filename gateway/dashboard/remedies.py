"""What to do about a reason, where the pages have a button for what elsewhere is a command."""

from collections.abc import Mapping

from gateway.model.errors import Code

REMEDIES: Mapping[Code, str] = {
    Code.DENIED: "Check the user name and token of the registry, or of the application, and that they may pull this "
    "repository. “Test the login”, on the page Registries, tries a stored login.",
    Code.NO_IMAGE: "Set the image, under “Name, image and limits”, to a tag that names an image; charts and other "
    "artifacts cannot be run.",
    Code.NAME_TAKEN: "Rename or remove the container or service that has the name; or delete this application and "
    "adopt that one, on the page Servers.",
    Code.ENGINE_UNREACHABLE: "Start the Docker Engine, or check its address: “Test the connection”, on the page "
    "Servers. The gateway retries.",
    Code.UP_TO_DATE: "Nothing to do. To replace the container anyway: “Redeploy”, on the page of the application.",
    Code.GATE_REFUSED: "The deployment's page says why the gate refuses. Push an image that it accepts; or, on that "
    "page: “Let this deployment pass”.",
    Code.GATE_UNANSWERED: "Do what the message says, if anything; the gateway asks again by itself. Or, on the "
    "deployment's page: “Let this deployment pass”.",
    Code.OUTSIDE_WINDOW: "Nothing to do: the deployment goes on when the window opens.",
    Code.AWAITS_APPROVAL: "Approve or reject it on the page Approvals.",
}


def remedy(elsewhere: str, code: str) -> str:
    """Return the English text for the pages; `elsewhere` is what is said of this code to all others."""
    return REMEDIES.get(Code.parse(code), elsewhere)
