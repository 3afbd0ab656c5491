"""Tell transient errors of PostgreSQL by SQLSTATE: the one list.

On a transient error a request gets 503, and a deployment is retried. All other errors are defects, or wrong input.
"""

import asyncpg

# Classes of https://www.postgresql.org/docs/current/errcodes-appendix.html
_TRANSIENT_CLASSES = frozenset(
    {
        "08",  # the connection broke
        "40",  # a deadlock or a conflict between transactions: they are retried
        "53",  # no disk space, memory or connection is left
        "57",  # the server stops, starts, or an operator cancels
        "58",  # the server's disk or file system fails
    }
)
_TRANSIENT = frozenset(
    {
        "25006",  # the transaction is read-only: the disk fills up, or the server is a standby
        "25P03",  # the session was idle in a transaction for too long
        "25P04",  # the transaction took too long
        "55006",  # the object is in use
        "55P03",  # the lock is not available
    }
)
# Exceptions of these classes: a constraint at the end of a transaction, a dropped database.
_PERMANENT = frozenset({"40002", "57P04"})

# The client's errors for wrong arguments and the like; its other errors mean a lost connection.
_WRONG_USE = (
    asyncpg.DataError,
    asyncpg.exceptions.ClientConfigurationError,
    asyncpg.UnsupportedClientFeatureError,
    asyncpg.exceptions.UnsupportedServerFeatureError,
)
# A migration changed a table under a prepared statement: the statement is prepared again.
_OUTDATED = (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError)


def is_transient(error: BaseException) -> bool:
    """Return whether the same statement may succeed later."""
    if isinstance(error, _OUTDATED):
        return True
    if isinstance(error, asyncpg.PostgresError):
        return is_transient_sqlstate(error.sqlstate or "")
    if isinstance(error, asyncpg.InterfaceError):
        return not isinstance(error, _WRONG_USE)
    return isinstance(error, OSError | TimeoutError | asyncpg.InternalClientError)


def is_transient_sqlstate(sqlstate: str) -> bool:
    if sqlstate in _PERMANENT:
        return False
    return sqlstate in _TRANSIENT or sqlstate[:2] in _TRANSIENT_CLASSES


def leaves_no_connection(error: BaseException) -> bool:
    """Return whether the server accepts no more connections; one of the pool may be free soon."""
    return isinstance(error, asyncpg.TooManyConnectionsError)


def is_read_only(error: BaseException) -> bool:
    return isinstance(error, asyncpg.ReadOnlySQLTransactionError)


def is_conflict(error: BaseException) -> bool:
    """Return whether the server undid the transaction because of another one."""
    return isinstance(error, asyncpg.SerializationError | asyncpg.DeadlockDetectedError)


def describe(error: BaseException) -> str:
    """Describe the error for anyone: without the words of the database."""
    state = getattr(error, "sqlstate", None) or ""
    return f"the database {_DESCRIPTIONS.get(state) or _DESCRIPTIONS.get(state[:2]) or 'does not answer'}: try again"


_DESCRIPTIONS = {
    "25006": "is read-only",
    "53100": "has no disk space left",
    "53200": "has no memory left",
    "53300": "has no connection left",
    "55P03": "is locked",
    "40": "is busy with the same rows",
    "53": "is short of resources",
    "58": "has trouble with its disk",
}
