"""Synchronize processes that share a name: locks, versions, waiting, consistent copies.

    sync_file  the sync file of a name: a page of words, and open file descriptions to lock
    inotify    sleep until a file or folder changes
    locks      exclusive and shared locks between processes, threads and tasks
    versions   count what was published, and wait for the next version
    seqlock    consistent copies without a lock

Nothing is imported here: the watchdog needs sync_file alone.
"""
