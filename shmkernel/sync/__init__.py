"""Agreement between processes about a name: locks, versions, waiting, consistent copies.

    sync_file  the sync file of a name: a page of words, and descriptions of it to lock with
    inotify    sleeping until something happens to a file
    locks      exclusive and shared, between processes, threads and tasks
    versions   counting what was published, and waiting for the next
    seqlock    copies that are whole, without a lock

Nothing is imported here: the watchdog needs the first alone.
"""
