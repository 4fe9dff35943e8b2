"""The table of parsers that the fuzzer tries. A new kind is one line in each of the first two parts."""

from __future__ import annotations

from typing import Any

from tests.prove.hostile import folders, objects, segments, stores, tables, texts
from tests.prove.hostile.judge import Target
from tests.prove.hostile.segments import described, loaded, mutated, opened, seeds
from tests.prove.hostile.texts import edited

_MAPS = 1 << 38  # bytes of addresses: a dict's map takes 64 GiB

TARGETS = [
    # the bytes of a segment
    Target("array", opened("array", segments.read_array), seeds("array"), mutate=mutated("array")),
    Target("list", opened("list", segments.read_list, segments.change_list), seeds("list"), mutate=mutated("list")),
    Target("ring", opened("ring", segments.read_ring, segments.change_ring), seeds("ring"), mutate=mutated("ring")),
    Target("raw", opened("raw", bytes), seeds("raw")),
    Target("dict", described("dict"), lambda: [stores.head()], longest=16384),
    Target("attach", segments.attached, segments.attached_seeds, (), addresses=_MAPS),
    Target("later", segments.later, segments.later_seeds, (), addresses=_MAPS),
    Target("object", objects.opened, objects.seeds, longest=objects.LONGEST, mutate=objects.mutate),
    Target("object-stream", objects.streams, objects.stream_seeds, mutate=objects.mutate),
    # a file to load
    Target("array-file", loaded("array", ".npy"), seeds("array"), mutate=mutated("array")),
    Target("list-file", loaded("list"), seeds("list"), mutate=mutated("list")),
    Target(
        "dict-json", loaded("dict", ".json"), lambda: [b'{"a": [1, 2.5, null, "b"], "c": {"d": true}}'], mutate=edited
    ),
    Target("dict-msgpack", loaded("dict", ".msgpack"), stores.packed_seeds),
    # what a dict's store holds
    Target("dict-pages", stores.pages, stores.page_seeds, longest=400, addresses=_MAPS),
    Target("dict-tree", stores.tree, stores.page_seeds, longest=400, addresses=_MAPS),
    Target("dict-folder", stores.folder, stores.folder_seeds, (), longest=16384, addresses=_MAPS),
    Target("dict-entry", stores.entry, stores.entry_seeds, addresses=_MAPS),
    Target("dict-value", stores.packed, stores.packed_seeds, stores.known_errors()),
    Target("dict-key", stores.places, stores.key_seeds, stores.known_errors()),
    Target("dict-array", stores.array_files, seeds("array"), addresses=_MAPS, mutate=mutated("array")),
    # the small files beside the segments
    Target("record", folders.record, folders.record_seeds, (), mutate=edited),
    Target("protocol", folders.link, folders.link_seeds, ()),
    Target("session", folders.session, folders.session_seeds, (), mutate=edited),
    Target("sync-file", folders.sync, folders.sync_seeds, (), longest=4096),
    Target("sync-words", folders.words, folders.word_seeds, (), longest=360),
    # texts and messages
    Target("name", texts.names, lambda: [b"elevation", b"ds.var", b"/psm_1a2b", "é a".encode(), b"x" * 260], ()),
    Target("magic", texts.lines, lambda: texts.LINES, (), longest=400),
    Target("command", texts.commands, lambda: texts.COMMANDS, (), longest=400),
    Target("click", texts.clicks, lambda: texts.CLICKS, (), mutate=edited),
    Target("peer", texts.outputs, lambda: texts.OUTPUTS, (), mutate=edited),
]
if tables.TABLE is not None:
    wide: Any = {"longest": tables.LONGEST, "addresses": _MAPS, "mutate": tables.mutate}  # polars maps much
    TARGETS += [
        Target("table", tables.opened, tables.seeds, **wide),
        *(
            Target(f"table-{end}", tables.loaded(f".{end}"), tables.saved(f".{end}"), **wide)
            for end in ("arrow", "feather", "parquet", "csv")
        ),
    ]
