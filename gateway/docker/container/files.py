"""Writes files from an application's configuration into its container.

The files are part of the container's own file system, so they survive a restart and are kept with a kept container.
https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/PutContainerArchive
"""

import io
import tarfile
import time
from collections.abc import Sequence

from gateway.docker.engine.client import Engine
from gateway.model.errors import Code, Failed
from gateway.model.mounts import Mount, contains_path

_MODE = 0o644  # owned by root, readable by everybody


async def put(engine: Engine, container_id: str, files: Sequence[Mount]) -> None:
    """Write the files into a container that was created and not started.

    Raises Failed when a file's path is inside a volume, because the serving container may use the same volume.
    """
    if not files:
        return
    found = await engine.call("GET", f"containers/{container_id}/json")
    for mounted in found["Mounts"] or ():
        if hidden := [file.target for file in files if contains_path(mounted["Destination"], file.target)]:
            raise Failed(
                Code.BAD_CONFIGURATION,
                f"the file {hidden[0]} is inside the mount at {mounted['Destination']}: "
                "choose another path, or put the file into that volume or directory",
            )
    await engine.call(
        "PUT",
        f"containers/{container_id}/archive",
        # Do not replace a directory with a file.
        params={"path": "/", "noOverwriteDirNonDir": 1},
        body=_archive(files),
        headers={"Content-Type": "application/x-tar"},
    )


def _archive(files: Sequence[Mount]) -> bytes:
    """Return a tar archive of the files. Extraction creates missing directories."""
    buffer, now = io.BytesIO(), int(time.time())
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for file in files:
            content, entry = (file.content or "").encode(), tarfile.TarInfo(file.target.lstrip("/"))
            entry.size, entry.mode, entry.mtime = len(content), _MODE, now
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
