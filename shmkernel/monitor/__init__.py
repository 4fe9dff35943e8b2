"""The monitor: a live view of shared memory, as a widget in notebooks and on a terminal.

Its modules:

    rows      the table's rows; reads again only what has changed
    preview   the preview of one segment
    png       a preview as a small picture
    scan      statistics of all values
    sampler   the thread that sends changes while a view is visible
    actions   what the buttons do
    saved     the table that a notebook file keeps
    widget    the anywidget; its JavaScript is in ``shmkernel/monitor/static``
    terminal  the view of ``shmkernel watch``
"""
