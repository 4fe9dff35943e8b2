"""Segments of other hosts: one copy to each host, which all of its processes then share.

    joining       the verbs: join, share, unshare, offers, leave
    snapshots     copy a segment of another host: the part of `attach` that is here
    certificates  who is a host of this user
    passwords     the other way to know that
    channel       messages between a process and the server of its host
    server        the process that serves a host
    network       the hosts, connected by zenoh
    offering      what a host tells of a segment, and its pieces

A snapshot does not follow its origin: there are no remote locks, and no writing to another host.
"""
