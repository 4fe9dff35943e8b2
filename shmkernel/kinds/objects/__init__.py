"""Objects: any other value, as a stream of bytes and the arrays inside it, which attaching does not copy.

Modules:

    layout     the bytes of a segment: head, index, buffers, stream
    plain      values that are put together again without running code of theirs
    instances  those of classes that the reader has loaded
    tables     those that are tables
    adapters   values of libraries, taken apart into plain ones
    arrays     those of numpy and scipy
    labelled   those of pandas and xarray
    tensors    those of torch
    pickles    all others, by consent
    signing    a signature of the user, which is such a consent
    files      files in formats of others
    summary    what a listing shows
    kind       the kind
"""
