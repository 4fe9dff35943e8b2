"""What was shared, as JSON in the schema's metadata, and whether a table is still what the JSON is about.

Other programs keep the metadata when they choose, rename, convert or filter columns. Therefore the JSON notes which
columns it is about. If a table has others, all that is used of it is the library.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

KEY = b"shmkernel"  # in the schema's metadata
_MAP_FIELD = re.compile(r" \('[^']*'\)")  # in the text of a type
LIBRARIES = ("arrow", "pandas", "polars", "duckdb")


def noted(schema: pa.Schema, facts: dict[str, Any], about: pa.Schema | None = None) -> pa.Schema:
    """Return a schema with the facts, and with a note of the columns that they are about, if they have none."""
    text = json.dumps({"about": _digest(about or schema)} | facts)
    return schema.with_metadata({**(schema.metadata or {}), KEY: text.encode()})


def of(table: pa.Table) -> dict[str, Any]:
    """Return the facts that fit the table; the metadata of another program may say anything."""
    try:
        facts = json.loads((table.schema.metadata or {})[KEY])
        if facts["library"] in LIBRARIES:
            return dict(facts) if _fits(table, facts) else {"library": facts["library"]}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        pass
    return {"library": "arrow"}


def _fits(table: pa.Table, facts: dict[str, Any]) -> bool:
    rows = facts.get("index", {}).get("range")
    right = rows is None or not table.num_columns or len(range(*rows)) == len(table)
    return right and facts.get("about") == _digest(table.schema)


def _digest(schema: pa.Schema) -> str:
    """Return a digest of the names and types; of an extension that may not be loaded, that of its values.

    The names of the fields in a map are left out: Parquet changes them, and an Arrow file restores them.
    """
    told = [*schema.names, *(str(getattr(kind, "storage_type", kind)) for kind in schema.types)]
    told = [_MAP_FIELD.sub("", text) if "map<" in text else text for text in told]
    return hashlib.blake2b(json.dumps(told).encode(), digest_size=16).hexdigest()
