"""The echo protocol and the start-up settings that the Python benchmark servers share.

They are those of `noria compare loops`.
"""

from noria.compare.loadgen.descriptor_limit import raise_descriptor_limit
from noria.compare.loops.peers.server import BACKLOG
from noria.servers.echo import Echo

__all__ = ["BACKLOG", "Echo", "raise_descriptor_limit"]
