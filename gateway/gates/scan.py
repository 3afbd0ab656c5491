"""Scan images: few at once, each once for all who want it, and not again while its report holds."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from weakref import WeakKeyDictionary

import aiohttp
import orjson
import structlog

from gateway.config import Settings
from gateway.gates import _database, _process, _scanners
from gateway.gates._database import Database
from gateway.gates._platforms import may_run
from gateway.gates._process import Bounds, Command
from gateway.gates._scanners import Scan
from gateway.gates.report import Report, parse
from gateway.model.errors import Code, InvalidInput, Postponed
from gateway.model.reference import Digest, Reference
from gateway.model.registries import Login
from gateway.registry.client import RegistryClient
from gateway.single_flight import SingleFlight
from gateway.store import scan_reports
from gateway.store.database import Pool, statement
from gateway.store.scan_reports import Scanned

_LOG = structlog.get_logger()

_AT_ONCE = 2  # scans of one gateway
_LOCK_PAUSE = 10.0  # seconds until a database that is being replaced is asked for again
_DOWNLOAD = Bounds(seconds=900, output=1024**2)
_DOWNLOAD_PAUSE = 300.0  # seconds after a download that failed
_SERVER_DEADLINE = 10.0  # seconds
_VERSION_SIZE = 64 * 1024  # bytes

_INDEXES_KEPT = 1000

Result = tuple[Report, Database | None]


@dataclass(slots=True)
class Indexes:
    """Which images of an index may run: what a digest names never changes, so that is asked once.

    A deployment that waits is asked about often, and registries count each request.
    """

    kept: dict[tuple[Reference, Login, str], tuple[Digest, ...] | None] = field(default_factory=dict)

    async def may_run(
        self, registry: RegistryClient, reference: Reference, login: Login, platform: str
    ) -> tuple[Digest, ...] | None:
        """Return what an engine of the platform may choose, None where the digest names one image.

        Raises Failed, Postponed, and Malformed for an index that leaves too much open.
        """
        image = Reference(reference.repository, None, reference.digest)
        if (key := (image, login, platform)) not in self.kept:
            index = await registry.index(image, login)
            found = None if index is None else await asyncio.to_thread(may_run, index, platform)
            if len(self.kept) >= _INDEXES_KEPT:
                self.kept.clear()
            self.kept[key] = found
        return self.kept[key]


@dataclass(slots=True)
class Scans:
    """The scans of this gateway that are under way."""

    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))
    flights: SingleFlight[Result] = field(default_factory=SingleFlight)
    indexes: Indexes = field(default_factory=Indexes)
    #: when the database may be downloaded again, by the loop's clock
    download_after: float = 0.0


_BY_LOOP: WeakKeyDictionary[asyncio.AbstractEventLoop, Scans] = WeakKeyDictionary()


def scans_of_this_process() -> Scans:
    """Return the scans of the running loop, whoever asks for one: a deployment, or a person who checks the gates."""
    return _BY_LOOP.setdefault(asyncio.get_running_loop(), Scans())


@dataclass(frozen=True, slots=True)
class Scanner:
    """One of the scanners, as the settings and a rule say that it is to be used."""

    name: _scanners.Name
    settings: Settings
    pool: Pool
    scans: Scans
    max_database_age: timedelta

    async def report(self, scan: Scan) -> Result:
        """Return the report about the image, and the database that it was made with, where that is known.

        Raises Postponed.
        """
        try:
            database = await self._database()
        except Postponed:
            self._program()  # who has no scanner either gets this error first
            raise
        if database is not None and (kept := await self._kept(scan, database)) is not None:
            return kept, database
        key = (self.name, scan, database)
        return await self.scans.flights.join(key, lambda: self._scan(scan, database))

    async def _kept(self, scan: Scan, database: Database) -> Report | None:
        async with statement(self.pool) as connection:
            text = await scan_reports.select_report(connection, self._scanned(scan), database.version)
        try:
            return None if text is None else await asyncio.to_thread(parse, text)
        except InvalidInput:  # of another version of the gateway
            return None

    def _scanned(self, scan: Scan) -> Scanned:
        return Scanned(scan.digest, scan.platform, self.name)

    # -- the scan

    async def _scan(self, scan: Scan, database: Database | None) -> Result:
        program = self._program()
        async with self._slot(scan.seconds):
            text = await self._run(self._command(program, scan), scan)
        try:
            report = await asyncio.to_thread(parse, text, subject=scan.subject)
        except InvalidInput as error:
            raise _unanswered(f"{self.name} has given no report on {scan.subject}: {error}") from error
        if report.scanner != self.name:
            raise _unanswered(f"{program} has given the report of another scanner: {report.scanner}")
        if database is None and report.database_from is not None:
            database = Database(report.database_from)
            _database.check_age(database, self.max_database_age, datetime.now(UTC), how=f"update that of {self.name}")
        async with statement(self.pool) as connection:
            version = database.version if database else ""
            await scan_reports.upsert_report(connection, self._scanned(scan), version, text)
        return report, database

    async def _run(self, command: Command, scan: Scan) -> bytes:
        cache, began = self._cache, None
        with _database.locked(cache, alone=False) as free:
            if not free:
                raise _unanswered("the database of Trivy is being replaced", retry_after=_LOCK_PAUSE)
            if self._has_local_database:
                began = await asyncio.to_thread(_database.read, cache)
            try:
                ended = await _process.run(command, self._directory, Bounds(seconds=scan.seconds))
            except OSError as error:
                raise _unanswered(f"{self.name} cannot be run in {self._directory}: {error.strerror}") from error
            if ended.code or ended.broken:
                password = scan.credentials.password if scan.credentials else None
                raise _unanswered(f"{scan.subject}: {_scanners.explain(self.name, ended, password)}")
            if self._has_local_database and await asyncio.to_thread(_database.read, cache) != began:
                raise _unanswered("the database of Trivy was replaced during the scan", retry_after=_LOCK_PAUSE)
        return ended.output

    @asynccontextmanager
    async def _slot(self, seconds: float) -> AsyncIterator[None]:
        """Wait for a slot, as long as a scan may take."""
        try:
            async with asyncio.timeout(seconds):
                await self.scans.slots.acquire()
        except TimeoutError:
            raise _unanswered(f"{_AT_ONCE} other scans are under way, and do not end") from None
        try:
            yield
        finally:
            self.scans.slots.release()

    # -- the program

    @property
    def _directory(self) -> Path:
        return self.settings.data_dir / "scans"

    @property
    def _cache(self) -> Path:
        return self.settings.data_dir / self.name

    @property
    def _has_local_database(self) -> bool:
        return self.name == "trivy" and not self.settings.trivy_server

    def _program(self) -> str:
        named = {"trivy": self.settings.trivy, "grype": self.settings.grype, "scout": self.settings.scout}[self.name]
        found = shutil.which(named)
        if found is None:
            raise _unanswered(
                f"there is no program {named} for the gate: install it, or set GATEWAY_{self.name.upper()} to its path"
            )
        return str(Path(found).absolute())

    def _command(self, program: str, scan: Scan) -> Command:
        match self.name:
            case "trivy":
                return _scanners.trivy(program, scan, self._cache, self.settings.trivy_server)
            case "grype":
                return _scanners.grype(program, scan, self._cache)
            case "scout":
                return _scanners.scout(program, scan)

    # -- the database

    async def _database(self) -> Database | None:
        """Return the database that a scan would use now; None where only the report will say."""
        if self.name != "trivy":
            return None
        now = datetime.now(UTC)
        if self.settings.trivy_server:
            database = await _ask_server(self.settings.trivy_server)
            _database.check_age(database, self.max_database_age, now, how="update that of the server")
            return database
        problem = await self._download(now) if self.settings.trivy_database else ""
        how = (
            f"the gateway downloads it from {self.settings.trivy_database}{problem}"
            if self.settings.trivy_database
            else "set GATEWAY_TRIVY_DATABASE, or run: trivy image --download-db-only --cache-dir " + str(self._cache)
        )
        return await _database.require(self._cache, self.max_database_age, now, how=how)

    async def _download(self, now: datetime) -> str:
        """Download the databases that are due; return what went wrong, or an empty string."""
        clock = asyncio.get_running_loop().time
        wanted = [(self._cache, self.settings.trivy_database, False)]
        if self.settings.trivy_java_database:
            wanted.append((self._cache, self.settings.trivy_java_database, True))
        for cache, repository, java in wanted:
            if not await asyncio.to_thread(_is_due, cache, now, java=java):
                continue
            if self.scans.download_after > clock():
                return ", which failed a moment ago; see the log"
            with _database.locked(cache, alone=True) as free:
                if not free:
                    return ", which is under way"
                if problem := await self._fetch(repository, java=java):
                    self.scans.download_after = clock() + _DOWNLOAD_PAUSE
                    _LOG.warning("Trivy's database could not be downloaded", repository=repository, error=problem)
                    return f", which has failed: {problem}"
        return ""

    async def _fetch(self, repository: str, *, java: bool) -> str:
        domain = repository.partition("/")[0]
        insecure = _scanners.is_insecure(domain, self.settings.insecure_registries)
        command = _scanners.trivy_download(self._program(), self._cache, repository, java=java, insecure=insecure)
        try:
            ended = await _process.run(command, self._directory, _DOWNLOAD)
        except OSError as error:
            return f"{error.strerror}"
        return _scanners.explain("trivy", ended, None) if ended.code or ended.broken else ""


def _is_due(cache: Path, now: datetime, *, java: bool) -> bool:
    try:
        found = _database.read(cache, "java-db" if java else "db")
    except InvalidInput:
        return True
    return found is None or found.is_due(now)


async def _ask_server(server: str) -> Database:
    """Ask a Trivy server which database it has. Raises Postponed."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_SERVER_DEADLINE)) as session,
            session.get(f"{server}/version", allow_redirects=False) as response,
        ):
            text = await response.content.read(_VERSION_SIZE) if response.ok else b""
            return Database.parse(orjson.loads(text)["VulnerabilityDB"])
    except (aiohttp.ClientError, TimeoutError, OSError, UnicodeError) as error:
        why = f"it does not answer ({type(error).__name__})"
    except (orjson.JSONDecodeError, KeyError, TypeError, InvalidInput):
        why = "it does not say which database it has"
    raise _unanswered(f"the Trivy server at {server}: {why}; see GATEWAY_TRIVY_SERVER")


def _unanswered(message: str, *, retry_after: float | None = None) -> Postponed:
    return Postponed(Code.GATE_UNANSWERED, message, retry_after=retry_after)
