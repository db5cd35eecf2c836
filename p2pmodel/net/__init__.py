"""HOW do bytes travel? The seam (clock, datagrams, channels) and the real network that fills it."""

from p2pmodel.net.address import Address, split_host_port
from p2pmodel.net.admission import Crowd
from p2pmodel.net.identity import Identity, network_id
from p2pmodel.net.real import RealNetwork, SystemClock
from p2pmodel.net.seam import (
    BulkSink,
    BulkSource,
    Channel,
    ChannelHandler,
    Clock,
    DatagramHandler,
    Datagrams,
    Hello,
    Listener,
    Network,
)
from p2pmodel.net.tasks import cancelled, ended

__all__ = [
    "Address",
    "BulkSink",
    "BulkSource",
    "Channel",
    "ChannelHandler",
    "Clock",
    "Crowd",
    "DatagramHandler",
    "Datagrams",
    "Hello",
    "Identity",
    "Listener",
    "Network",
    "RealNetwork",
    "SystemClock",
    "cancelled",
    "ended",
    "network_id",
    "split_host_port",
]
