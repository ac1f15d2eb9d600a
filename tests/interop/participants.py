"""Who takes part in a script: installations of real libxmtp and of this library, which are driven in the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from interop.account import OURS, REAL
from interop.database import Commit

if TYPE_CHECKING:
    from interop.account import Installation, User

#: For a step of a machine that has other things to do.
DEADLINE_SECONDS: Final = 60


class Held(NamedTuple):
    """A text that an installation holds.

    Attributes:
        sequence_id: its id at the node; 0 where it is not published yet.
        sender_inbox_id: who sent it.
        text: what it says.
    """

    sequence_id: int
    sender_inbox_id: str
    text: str


class Participant:
    """An installation that can be killed and started again.

    Attributes:
        who: such as "bob".
        name: such as "bob 2".
        inbox: the inbox id.
        installation_id: of this installation.
        user: whose installation it is.
    """

    module: ClassVar[str]

    def __init__(self, user: User, db: str) -> None:
        self.user = user
        # Users of other tests on the node are called the same, up to the first space.
        self.who = user.name.partition(" ")[0]
        self.name = f"{self.who} {db}"
        self._db = db
        self._process: Installation | None = user.start(db, module=self.module)
        self.inbox: str = self.do("inbox_id")
        self.installation_id: str = self.do("installation_id")

    def __repr__(self) -> str:
        return self.name

    @property
    def is_ours(self) -> bool:
        """Whether it is one of this library, which only listens in ordinary groups."""
        return self.module == OURS

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def do(self, step: str, *arguments: Any) -> Any:
        """Carries out a step."""
        self.begin(step, *arguments)
        return self.finish()

    def begin(self, step: str, *arguments: Any) -> None:
        """Has a step carried out in the background."""
        assert self._process is not None, f"{self} does not run"
        self._process.begin(step, *arguments)

    def finish(self) -> Any:
        """The result of the first step that has not been asked for."""
        assert self._process is not None, f"{self} does not run"
        return self._process.finish(DEADLINE_SECONDS)

    def kill(self) -> None:
        """Ends the process as a crash would."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def restart(self) -> None:
        """Starts it again on the same database, be it that it runs or not."""
        self.kill()
        self._process = self.user.start(self._db, module=self.module)
        assert self.do("installation_id") == self.installation_id

    def send(self, group: str, *texts: str) -> None:
        """Sends texts one after another."""
        self.do("send_each", [group], list(texts))

    def sync(self) -> None:
        """Fetches everything that others have sent."""
        self.do("sync")

    def knows(self, group: str) -> bool:
        """Whether it has ever been in a group."""
        return group in self.do("groups")

    def messages(self, group: str) -> dict[str, Held]:
        """The texts of a group by message id."""
        return {message_id: Held(*facts) for message_id, facts in self.do("held", group).items()}

    def members(self, group: str) -> dict[str, list[str]]:
        """The installations of each inbox in a group."""
        members: dict[str, list[str]] = self.do("members", group)
        return members

    def state(self, group: str) -> dict[str, Any]:
        """What all members of a group have to agree about, and whether this is one."""
        state: dict[str, Any] = self.do("state", group)
        return state

    def applied(self, group: str) -> list[Commit]:
        """The commits of a group that it has followed, with the epochs that they led to."""
        return [commit for facts in self.do("commits", group) if (commit := Commit(**facts)).applied]


class RealParticipant(Participant):
    """One of real libxmtp."""

    module = REAL


class OurParticipant(Participant):
    """One of this library; see interop.ours for the steps that it has to know."""

    module = OURS
