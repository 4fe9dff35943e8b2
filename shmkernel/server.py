"""The Jupyter server's part of the section "Shared memory" in JupyterLab and Notebook, whose page is in ``lab/``.

The wheel installs a line of configuration with which a Jupyter server loads this module. It adds one address, which
asks for the user's token and, as Jupyter does everywhere, for the XSRF cookie before a change. All answers are JSON.

    GET shmkernel/segments                           the folder, and the segments in it
    GET shmkernel/segments?name=NAME                 all details of one segment
    DELETE shmkernel/segments?name=NAME&inode=INODE  unlink it; 409 if the name belongs to another segment by now

The server shows the folder of its own environment; a kernel may be started with another ``SHMKERNEL_DIR``. So each
answer says which folder it is about. The list takes no lock, and runs in a thread: the server goes on meanwhile.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import shmkernel as shm
from shmkernel import render
from shmkernel._core import capacity, limits, paths, registry, segment_file
from shmkernel.errors import ArgumentError, NotFoundError, RefusedError, ShmError
from shmkernel.verbs import listing

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmkernel.verbs.listing import Info

_STATUS: dict[type[ShmError], int] = {NotFoundError: 404, ArgumentError: 400, RefusedError: 403}
_CONFLICT, _FAILED = 409, 500
_MOST = 20  # holders named in a row
_SHOWN = 2


class _ConflictError(NotFoundError):
    """The name belongs to another segment now."""


@limits.explains
def everything() -> dict[str, Any]:
    """Return the folder, its use, and a row for each segment."""
    inodes = {name: registry.inode_at(name) for name in listing.names()}
    segments = [row for row in listing.rows_of(inodes, probe=False) if not _is_nameless(row)]
    room = capacity.room()
    return {
        "folder": render.clean(paths.folder()),
        "size": capacity.human(sum(row.size for row in segments)),
        "free": capacity.human(room.free),
        "short": room.free * 10 < room.total,
        "total": render.total(segments),
        "segments": [_row(row, inodes[row.name]) for row in segments],
    }


def details(name: str) -> dict[str, Any]:
    """Return a segment's row, with ``facts``: pairs of a title and a text."""
    inode = _inode(name)
    info = shm.info(name)
    facts = [pair for pair in render.facts(info) if pair[0] != "note"]
    return {**_row(info, inode), "folder": render.clean(paths.folder()), "facts": facts}


def unlink(name: str, inode: str) -> dict[str, Any]:
    """Unlink a segment, if it has this inode or none is given; return a sentence about it."""
    if inode not in ("", str(_inode(name))):
        raise _ConflictError(f"{name!r} belongs to another segment by now", name=name)
    info = shm.info(name)
    shm.unlink(name)
    keepers = [f"{render.people(info.attached)} let{'s' * (len(info.attached) == 1)} go"] if info.attached else []
    keepers += ["processes in another container let go"] if info.elsewhere else []
    fate = f"stay in memory until {' and '.join(keepers)}" if keepers else "freed"
    return {"message": f"{name}: unlinked, {capacity.human(info.size)} {fate}"}


def answer(act: Callable[..., dict[str, Any]], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Call a function of this module; return the status of the answer, and the answer."""
    try:
        return 200, act(*arguments)
    except _ConflictError as error:
        return _CONFLICT, {"message": error.what}
    except ShmError as error:
        known = (status for kind, status in _STATUS.items() if isinstance(error, kind))
        return next(known, _FAILED), {"message": error.what}


def _inode(name: str) -> int:
    inode = registry.inode_at(name)
    if inode is None:
        raise segment_file.missing(name)
    return inode


def _is_nameless(row: Info) -> bool:
    """Return whether it is memory that this process has, and the name does not."""
    return row.state in ("replaced", "unlinked")


def _row(row: Info, inode: int | None) -> dict[str, Any]:
    return {
        "name": row.name, "inode": str(inode or ""), "kind": row.kind, "type": render.clean(row.type),
        "size": capacity.human(row.size), "owner": render.source(row),
        "people": render.people(row.attached, shown=_SHOWN),
        "holders": [render.clean(f"{holder.label} ({holder.pid})") for holder in row.attached[:_MOST]],
        "count": len(row.attached), "elsewhere": row.elsewhere, "lifetime": row.lifetime, "state": row.state,
        "origin": render.clean(render.origin(row)),
    }  # fmt: skip


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(app: Any) -> None:
    """Add the address. Only a Jupyter server calls this, so what it imports is there."""
    from jupyter_server.auth.decorator import authorized  # noqa: PLC0415  no dependency of the package
    from jupyter_server.base.handlers import APIHandler  # noqa: PLC0415  likewise
    from jupyter_server.utils import url_path_join  # noqa: PLC0415  likewise
    from tornado import web  # noqa: PLC0415  likewise

    class Segments(APIHandler):
        auth_resource = "shmkernel"

        @web.authenticated
        @authorized
        async def get(self) -> None:
            self._track_activity = False  # a page that looks on must not keep an idle server alive
            name = self.get_query_argument("name", None, strip=False)
            await self._reply(everything) if name is None else await self._reply(details, name)

        @web.authenticated
        @authorized
        async def delete(self) -> None:
            name = self.get_query_argument("name", "", strip=False)
            await self._reply(unlink, name, self.get_query_argument("inode", ""))

        async def _reply(self, act: Callable[..., dict[str, Any]], *arguments: str) -> None:
            status, found = await asyncio.to_thread(answer, act, *arguments)
            self.set_status(status)
            self.finish(found)

    address = url_path_join(app.web_app.settings["base_url"], "shmkernel", "segments")
    app.web_app.add_handlers(".*$", [(address, Segments)])
