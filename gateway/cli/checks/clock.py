"""The clock of this host, compared with that of another part."""

from gateway.cli.checks.finding import Finding, failed, ok, warning

_WARN, _FAIL = 5.0, 60.0  # seconds; signed webhooks and tokens may be five minutes old


def compare(name: str, theirs: float, ours: float) -> Finding:
    """Compare two times in seconds since 1970."""
    ahead = ours - theirs
    if abs(ahead) <= _WARN:
        return ok(name, "it agrees with this host")
    message = f"this host is {abs(ahead):.0f} seconds {'ahead of' if ahead > 0 else 'behind'} it"
    remedy = "Synchronise both: timedatectl set-ntp true"
    return (failed if abs(ahead) > _FAIL else warning)(name, message, remedy)
