"""One process of this host as the keeper has it: what the agent wants of it, whether it runs, its pages and
its heartbeat.
"""

from __future__ import annotations

from dataclasses import dataclass

from agents.keeper import words
from agents.keeper.liveness import Heartbeat, Watched
from agents.keeper.protocol import WantedProcess
from controlplane.host import log


@dataclass(slots=True)
class KeptProcess:
    entry: WantedProcess
    watched: Watched
    words: words.Words
    heartbeat: Heartbeat

    damage_said: bool = False

    def look(self, now_ns: int) -> bool:
        """False: the page holds what its daemon cannot have meant. It is treated like a frozen daemon until
        the page is right again; said once a process, as rubbish may be another at each look.
        """
        alive = self.words.alive(self.entry.process, now_ns)
        if alive is not None:
            self.heartbeat.look(alive.heartbeat_ns, now_ns)
            return True
        self.heartbeat.missed(now_ns)
        if self.words.damage and not self.damage_said:
            self.damage_said = True
            log.warning(
                "heartbeat.not_believed",
                instance=self.entry.process.instance,
                reason=self.words.damage,
                consequence="its lease is not renewed while this lasts",
            )
        return not self.words.damage
