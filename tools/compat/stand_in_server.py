"""`scribewire` with a stand-in for the speaker pipeline: `python -m tools.compat.stand_in_server serve`.

What a description offers is to be accepted, and pyannote.audio is an extra with weights of its own. The stand-in is a
real child process that answers with real annotations, of whatever recording (tests/fakes/speaker_stand_in.py).
"""

from __future__ import annotations

import sys

import scribewire.server.app
from scribewire.server.cli import main
from scribewire.server.settings.fields import Settings
from scribewire.server.speakers.child import Speakers
from tests.fakes.speaker_stand_in import MODULE


class StandInSpeakers(Speakers):
    """Speakers whose child runs the stand-in."""

    @classmethod
    def from_settings(cls, settings: Settings, *, module: str = MODULE) -> Speakers:
        """See Speakers."""
        return super().from_settings(settings, module=module)


if __name__ == "__main__":
    vars(scribewire.server.app)["Speakers"] = StandInSpeakers
    sys.exit(main())
