"""An image in Docker's archive format, without what its builder says of itself.

https://github.com/moby/docker-image-spec/blob/main/README.md
"""

import hashlib
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import orjson

#: the container in which the last step ran, and the images that the steps before made
_OF_BUILDER = frozenset({"container", "container_config", "parent"})


def without_builder(archive: Path) -> str:
    """Rewrite the archive so that the same layers and settings make the same image; return the image's id."""
    with tempfile.TemporaryDirectory(dir=archive.parent) as place:
        directory = Path(place)
        with tarfile.open(archive) as old:
            [about] = orjson.loads(_read(old, "manifest.json"))
            config = orjson.dumps(_settings(orjson.loads(_read(old, about["Config"]))), option=orjson.OPT_SORT_KEYS)
            old.extractall(directory, [old.getmember(name) for name in about["Layers"]], filter="data")
        image = hashlib.sha256(config).hexdigest()
        (directory / f"{image}.json").write_bytes(config)
        (directory / "manifest.json").write_bytes(orjson.dumps([{**about, "Config": f"{image}.json"}]))
        with tarfile.open(archive, "w") as new:
            for path in sorted(directory.iterdir()):
                new.add(path, path.name, filter=_plain)
    return f"sha256:{image}"


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None, name
    return file.read()


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in config.items() if name not in _OF_BUILDER}
    kept["config"] = {**kept["config"], "Hostname": "", "Image": ""}
    kept["history"] = [{name: one[name] for name in one if name != "comment"} for one in kept["history"]]
    return kept


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname, entry.mode = 0, 0, 0, "", "", 0o644
    return entry
