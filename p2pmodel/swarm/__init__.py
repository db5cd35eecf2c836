"""GET it: connections to peers, who holds which chunk, and pulling them from all at once."""

from p2pmodel.swarm.accounting import Account, Cause, SmoothRate, Source
from p2pmodel.swarm.download import Download, Served, Tally
from p2pmodel.swarm.greeting import Greeting
from p2pmodel.swarm.link import Link
from p2pmodel.swarm.pace import Pace
from p2pmodel.swarm.relative import Relative, shared_chunks
from p2pmodel.swarm.schedule import Schedule
from p2pmodel.swarm.shelf import Intake, Shelf
from p2pmodel.swarm.swarm import Swarm

__all__ = [
    "Account",
    "Cause",
    "Download",
    "Greeting",
    "Intake",
    "Link",
    "Pace",
    "Relative",
    "Schedule",
    "Served",
    "Shelf",
    "SmoothRate",
    "Source",
    "Swarm",
    "Tally",
    "shared_chunks",
]
