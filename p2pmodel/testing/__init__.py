"""Networks of peers in one process and in virtual time: the daemon's own code on simulated hosts, paths and disks."""
