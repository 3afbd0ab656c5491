"""Faults at every call that changes something, counted."""

from dataclasses import dataclass, field

from tests.faults.strikes import Fault
from tests.faults.world import Asked, World, lost


@dataclass
class Tally:
    """What was struck, and what was lost by it."""

    struck: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    calls: set[str] = field(default_factory=set)

    def count(self, fault: str, call: str) -> None:
        self.struck[fault] = self.struck.get(fault, 0) + 1
        self.calls.add(call)
        if (number := sum(self.struck.values())) % 10 == 0:
            print(f"{number} strikes, {len(self.violations)} lost", flush=True)  # noqa: T201 - for whoever watches

    def violated(self, what: str) -> None:
        self.violations.append(what)
        print(f"VIOLATION {what}", flush=True)  # noqa: T201 - for whoever watches

    def show(self) -> bool:
        """Print the counts; return whether nothing was lost."""
        for fault, number in sorted(self.struck.items()):
            print(f"{fault:<44}{number:>6}")  # noqa: T201 - that is what it is for
        print(f"{'in all':<44}{sum(self.struck.values()):>6}, lost: {len(self.violations)}")  # noqa: T201
        for one in self.violations:
            print(f"  {one}")  # noqa: T201
        return not self.violations


async def strike_once(world: World, tally: Tally, fault: Fault, asked: Asked, at: int, *, after: bool) -> bool:
    """Strike at one call and look at what is left; False where there is no such call."""
    where = f"{fault.name} {'after' if after else 'before'} call {at} of a {asked}, {world.order}"
    call = None
    try:
        if world.warm:
            await world.ends(await world.ask(Asked.PUSH))
        wanted, call = await world.struck(fault.on(world), asked, at, after=after)
        if call is not None:
            tally.count(fault.name, f"{asked} {call}")
            # A daemon that is still stopping answers in place of the one that is started.
            await world.proxy.made.wait()
            await fault.mend(world)
        await world.send_again()
        await world.ends(wanted)
    except Exception as error:
        if (said := lost(error)) is None:
            raise
        tally.violated(f"{where} ({call}): {said}")
        await world.revive()
        await world.begin_anew()
    finally:
        world.proxy.disarm()
    return call is not None


async def at_every_call(world: World, tally: Tally, fault: Fault, asked: Asked, *, after: bool) -> None:
    at = 0
    while await strike_once(world, tally, fault, asked, at, after=after):
        at += 1
