"""Files with the content an application's user wrote, put into a container.

They are part of its own file system, and so are there when it is restarted, or kept and started again.
"""

import io
import tarfile
import time
from collections.abc import Sequence

from gateway.docker.engine.client import Engine
from gateway.model.errors import Code, Failed
from gateway.model.mounts import Mount, contains_path

_MODE = 0o644  # root's, and everybody may read it


async def put(engine: Engine, container_id: str, files: Sequence[Mount]) -> None:
    """Write them into a container that was created and not started.

    Raises Failed where one lies in a volume, which the container that serves may have too.
    """
    if not files:
        return
    found = await engine.call("GET", f"containers/{container_id}/json")
    for mounted in found["Mounts"] or ():
        if hidden := [file.target for file in files if contains_path(mounted["Destination"], file.target)]:
            raise Failed(
                Code.BAD_CONFIGURATION,
                f"the file {hidden[0]} lies in what is mounted at {mounted['Destination']}: "
                "put it elsewhere, or into that",
            )
    await engine.call(
        "PUT",
        f"containers/{container_id}/archive",
        # A folder is not to give way to a file.
        params={"path": "/", "noOverwriteDirNonDir": 1},
        body=_archive(files),
        headers={"Content-Type": "application/x-tar"},
    )


def _archive(files: Sequence[Mount]) -> bytes:
    """Return a tar; folders that are missing are made where it is unpacked."""
    buffer, now = io.BytesIO(), int(time.time())
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for file in files:
            content, entry = (file.content or "").encode(), tarfile.TarInfo(file.target.lstrip("/"))
            entry.size, entry.mode, entry.mtime = len(content), _MODE, now
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
