"""The monitor: what shared memory holds, live, as a widget in notebooks and on a terminal.

From the facts to the face:

    rows      the rows: looked at anew only where something moved
    preview   a preview of one segment
    sampler   a thread that sends what changed, while somebody looks
    actions   what the buttons do
    widget    an anywidget around these; its other half is JavaScript, in ``shmkernel/monitor/static``
    terminal  the same for ``shmkernel watch``
"""
