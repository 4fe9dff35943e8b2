"""Declare the magics: their flags and their help. Functions of the same names in other modules carry them out."""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument
from traitlets import Enum

from shmkernel import workspace
from shmkernel._core import limits, records, segment_file
from shmkernel._core.counts import seconds_given, version_given
from shmkernel.notebook import output
from shmkernel.notebook.parsing import Parser, arguments, in_one_line
from shmkernel.workspace import scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

    from shmkernel.notebook.completion import Matcher

_NAMES = argument("names", metavar="NAME", nargs="+", help="names of segments; $n and {n} insert Python variables")
_NAME = argument("names", metavar="NAME", nargs=1, help="name of the segment; $n and {n} insert Python variables")
_MODE = argument(
    "--mode", metavar=f"{{{','.join(segment_file.MODES)}}}",
    help="r: read only, r+: read and write, c: changes stay private",
)  # fmt: skip
_LIFETIME = argument(
    "--lifetime", metavar=f"{{{','.join(records.LIFETIMES)}}}",
    help="until this kernel ends, until the last process lets go of it, or until somebody unlinks it",
)  # fmt: skip
_REPLACE = argument("--replace", action="store_true", help="replace a segment of this name from another notebook")
_TIMEOUT = argument(
    "--timeout", metavar="SECONDS", type=seconds_given, help="longest time to wait, by default until Ctrl-C"
)
_PICKLE = argument(
    "--pickle",
    dest="allow_pickle",
    action="store_true",
    help="pickle a value that is not plain: to attach it runs code",
)
_UNPICKLE = argument(
    "--pickle",
    dest="allow_pickle",
    action="store_true",
    help="run the code of an object that is not signed by you",
)
_KIND = argument(
    "--kind", metavar="{array,dict,list,object,raw,table}",
    help="kind of segment, by default chosen by the type of the value, or by the content of the file",
)  # fmt: skip
_OVERWRITE = argument("--overwrite", action="store_true", help="replace a variable of this name that is something else")

_HOMES = {  # where each magic is carried out
    "shm_cache": "cell_cache",
    "shm_create": "sharing",
    "shm_load": "sharing",
    "shm_lock": "cell_lock",
}


def _verb(declared: Callable[[ShmMagics], None], register: Callable[..., Any] = line_magic) -> Callable[..., Any]:
    """Make a line magic from a declaration: its decorators are the flags, its docstring is the help."""

    @in_one_line
    @functools.wraps(declared)
    def run(self: ShmMagics, line: str = "", cell: str | None = None) -> Any:
        caller = scope.calling(self.shell.user_ns)
        args = parser.parse_line(line, caller)
        args.cell, args.scope = cell, caller
        if "names" in args:
            args.names = list(dict.fromkeys(args.names))
        try:
            module = importlib.import_module(home)
        except OSError as error:  # no descriptor is left, for example
            raise limits.explained(error) from None
        value = getattr(module, declared.__name__)(self, args)
        output.returned(value, declared.__name__)
        return value

    home = f"shmkernel.notebook.{_HOMES.get(declared.__name__, 'handlers')}"  # imported when it is first called
    magic = arguments()(run)
    parser: Parser = vars(magic)["parser"]
    registered: Callable[..., Any] = register(no_var_expand(magic))
    return registered


def forget_bad_defaults(config: Any) -> None:
    """Remove invalid values from IPython's configuration: it keeps even a value that ``%config`` has refused."""
    section = config.get(ShmMagics.__name__, {})
    traits: dict[str, Any] = ShmMagics.class_traits(config=True)
    for name, trait in traits.items():
        if name in section and section[name] not in trait.values:
            allowed = ", ".join(trait.values)
            print(
                f"shmkernel: ShmMagics.{name} = {section.pop(name)!r} is none of {allowed}; it is {trait.default_value}"
            )


_cell_verb = functools.partial(_verb, register=line_cell_magic)


@magics_class
class ShmMagics(Magics):
    """Shared memory for notebooks."""

    mode = Enum(
        ("auto", *segment_file.MODES),
        "auto",
        help="Mode of %shm_attach. r: read only, r+: read and write, c: changes stay private, auto: c for a table "
        "or object, else r+.",
    ).tag(config=True)
    lifetime = Enum(records.LIFETIMES, "session", help="Lifetime of segments made by %shm_create and %shm_load.").tag(
        config=True
    )

    allow_pickle = Enum(
        ("signed", "never", "always"),
        "signed",
        help="Which pickled objects %shm_attach runs: those signed with your key (all that you share), none, or all.",
    ).tag(config=True)

    shell: InteractiveShell
    transformer: output.OutputTransformer
    matcher: Matcher

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self.workspace = workspace.of(shell)
        self.workspace.mode = self.mode
        self.observe(lambda change: setattr(self.workspace, "mode", change.new), "mode")
        self.workspace.allow_pickle = self.allow_pickle
        self.observe(lambda change: setattr(self.workspace, "allow_pickle", change.new), "allow_pickle")

    @_verb
    @_NAMES
    @argument("--from", metavar="EXPR", help="share the value of this Python expression, by default the variable NAME")
    @argument("--shape", metavar="3,4", help="create an array of this shape, to fill in place")
    @argument("--dtype", help="type of the elements, by default that of the value, or float64")
    @argument("--fill", metavar="VALUE", help="value of all elements with --shape, by default 0")
    @argument("--order", metavar="{C,F}", help="C: rows first, F: columns first; by default the order of the value")
    @argument("--list", dest="items", metavar="ITEMS", help="create a list of these items: \"[1, 'a', None]\"")
    @argument("--dict", dest="empty", action="store_true", help="create an empty dict, which every notebook can fill")
    @argument("--size", metavar="64K", help="create a block of this many bytes; K, M, G and T are powers of 1024")
    @argument("--ring", metavar="64", type=int, help="create a stream with this many slots, for frames of --shape")
    @_KIND
    @_PICKLE
    @_LIFETIME
    @_MODE
    @_REPLACE
    @_OVERWRITE
    def shm_create(self) -> None:
        """Share arrays, dicts, lists, tables, bytes and objects. The variable NAME becomes the shared value.

        Other notebooks attach it by %shm_attach NAME. Of several names, either all are shared or none.

        %shm_create x
        %shm_create x --from table.to_numpy()
        %shm_create x --shape 1000,1000 --dtype float32      then x[:] = ...
        %shm_create people --list "['Ada', 1815, None]"
        %shm_create cfg --dict                               then cfg["rate"] = 0.1
        %shm_create block --size 64K                         then block.buf[:3] = b"abc"
        %shm_create frames --ring 64 --shape 480,640,3 --dtype uint8     then frames.put(...)
        """

    @_verb
    @_NAMES
    @argument(
        "--as",
        dest="variable",
        metavar="OTHER",
        help="name of the variable, by default NAME; or the library of a table: pandas, polars, arrow, duckdb",
    )
    @_MODE
    @_UNPICKLE
    @_OVERWRITE
    @argument("--refresh", action="store_true", help="copy what another host shares again, if it has a new version")
    def shm_attach(self) -> None:
        """Attach what another notebook shares. The variable NAME becomes that value; nothing is copied.

        %shm_attach x
        %shm_attach x --as other --mode r
        %shm_attach trades --as polars                       a table that pandas has shared
        y = %shm_attach x
        %shm_attach hostA:x                                  a read-only snapshot of what another host shares
        """

    @_verb
    @_NAMES
    def shm_close(self) -> None:
        """Let go of segments here: delete the variables and Out entries that hold them. Other notebooks keep theirs."""

    @_verb
    @_NAMES
    def shm_unlink(self) -> None:
        """Remove segments, no matter who made them. Notebooks that have one attached keep its memory."""

    @_verb
    @_NAMES
    @_LIFETIME
    def shm_keep(self) -> None:
        """Change the lifetime of segments, by default to keep: they then survive a restart of the kernel.

        If NAME was unlinked and this notebook still has it, share a copy under the name.
        """

    @_verb
    @argument("--hosts", action="store_true", help="show what the joined hosts share")
    def shm_list(self) -> None:
        """Show all segments. ``rows = %shm_list`` returns a list of Info."""

    @_verb
    @_NAMES
    def shm_info(self) -> None:
        """Show all details of segments. ``rows = %shm_info x`` returns a list of Info."""

    @_verb
    @argument("names", metavar="NAME", nargs="*", help="show the content of this segment first")
    @argument("--every", type=seconds_given, metavar="SECONDS", help="time between updates, by default 0.25")
    def shm_watch(self) -> None:
        """Show all segments live: a table, the content of one, and buttons to attach, keep and unlink it.

        %shm_watch
        %shm_watch x --every 1
        """

    @_verb
    @_NAME
    @argument("path", metavar="FILE", help="file to write; an older one is replaced")
    @_UNPICKLE
    def shm_save(self) -> None:
        """Write a segment to a file: an array to a .npy file. The suffix of FILE chooses among the formats of a kind.

        %shm_save x results/x.npy
        %shm_save trades trades.parquet                      or .csv, .feather, .arrow
        %shm_save cfg cfg.json                               or .msgpack
        %shm_save weights weights.safetensors                or .npz: a mapping of arrays
        %shm_save model model.pkl                            or model.shm, as it lies in memory
        """

    @_verb
    @_NAME
    @argument("path", metavar="FILE", help="file to read: a .npy file for an array")
    @_KIND
    @_LIFETIME
    @_MODE
    @_REPLACE
    @_UNPICKLE
    @_OVERWRITE
    def shm_load(self) -> None:
        """Share the content of a file without a second copy in memory.

        %shm_load x results/x.npy
        %shm_load weights weights.safetensors
        %shm_load model model.pkl --pickle                   it runs code: load only what you trust
        %shm_load people people.bin --kind list              no bytes tell a list; or --kind raw, for any file
        """

    @_cell_verb
    @_NAME
    @argument("--shared", action="store_true", help="a readers' lock: other readers may hold it too")
    @_TIMEOUT
    def shm_lock(self) -> None:
        """Lock NAME while the rest of the cell runs.

        It excludes others that lock NAME, by this magic or by ``with shm.lock("x"):``. Leaving the lock increases the
        version, which ends a %shm_wait.

        %%shm_lock x
        x += 1
        """

    @_cell_verb
    @_NAMES
    @argument(
        "--uses", metavar="VALUE", nargs="+", default=[],
        help="variables, or expressions without blanks, that the cell depends on: if one has changed, it runs again",
    )  # fmt: skip
    @argument("--refresh", action="store_true", help="run the cell in any case")
    @argument("--replace", action="store_true", help="replace a segment of this name that %%%%shm_cache has not made")
    @_PICKLE
    @_MODE
    def shm_cache(self) -> None:
        """Run the rest of the cell and keep the variable NAME that it sets; next time, attach that and skip the cell.

        The value survives a restart of the kernel, and other notebooks that run the same cell get it too. The cell
        runs again if its code, or the value of a variable that --uses names, is not what it was then. Of several
        names, either all are attached, or the cell runs.

        %%shm_cache features --uses path scale
        features = slow(path, scale)
        """

    @_verb
    @_NAMES
    def shm_publish(self) -> None:
        """Announce new content: increase the version and wake every notebook that waits for it."""

    @_verb
    @_NAME
    @argument(
        "--since", metavar="VERSION", type=version_given, help="last version you have seen, by default the current one"
    )
    @_TIMEOUT
    def shm_wait(self) -> None:
        """Wait until somebody publishes NAME, leaves its lock, or replaces it.

        %shm_wait x --timeout 10
        v = %shm_wait x
        %shm_wait hostA:x              until what another host shares is newer than its snapshot here
        """

    @_verb
    @argument(
        "hosts", metavar="tls/HOST:7447", nargs="*", help="where other hosts listen; without, this one waits for them"
    )
    @argument(
        "--listen", metavar="ADDRESS", help="where this host listens, by default at port 7447 of all its addresses"
    )
    @argument("--host", metavar="NAME", help="name of this host, by default that of its certificate, or of the machine")
    def shm_join(self) -> None:
        """Connect this host to others. Nothing is shared by that: see %shm_share.

        Hosts know each other by certificates, over TLS. ``shmkernel hosts init``, in a terminal, makes them.
        Or by a password, over TCP, not encrypted. ``shmkernel hosts password``, in a terminal, asks for it.

        %shm_join tls/hostA:7447
        %shm_join tcp/hostA:7447       by the password
        """

    @_verb
    @_NAMES
    def shm_share(self) -> None:
        """Let other hosts copy segments, until %shm_unshare, or until the names go. There: %shm_attach NAME."""

    @_verb
    @_NAMES
    def shm_unshare(self) -> None:
        """Let other hosts copy segments no longer. The snapshots that they have stay theirs."""

    @_verb
    def shm_leave(self) -> None:
        """Disconnect this host from others."""

    @_verb
    @argument("--dry-run", action="store_true", help="only print what would be removed")
    def shm_gc(self) -> None:
        """Remove segments that ended kernels have left behind. Needed only if a kernel and its watchdog were killed."""

    @_verb
    def shm_doctor(self) -> None:
        """Check this machine, and print a cure for each problem."""

    @_verb
    def shm_help(self) -> None:
        """Show an example of each magic."""
