"""The magics: their flags, their help, and how their mistakes show. What they do stands in `actions`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument
from traitlets import Enum

from shmkernel._core.counts import seconds_given, version_given
from shmkernel.notebook import output, scope
from shmkernel.notebook.parsing import Parser, arguments, in_one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

    from shmkernel.notebook.completion import Matcher

_NAMES = argument("names", metavar="NAME", nargs="+", help="of segments; variables may be used: $n or {n}")
_NAME = argument("names", metavar="NAME", nargs=1, help="of the segment; variables may be used: $n or {n}")
_MODE = argument("--mode", metavar="{r,r+,c}", help="r: read only, r+: read and write, c: changes stay private")
_LIFETIME = argument(
    "--lifetime", metavar="{session,attached,keep}",
    help="until this kernel ends, until the last one lets go, or until unlinked",
)  # fmt: skip
_REPLACE = argument("--replace", action="store_true", help="take the name from another notebook's segment")
_TIMEOUT = argument("--timeout", metavar="SECONDS", type=seconds_given, help="to wait at most, by default until Ctrl-C")
_OVERWRITE = argument("--overwrite", action="store_true", help="let go of a different variable of that name")


def _verb(declared: Callable[[ShmMagics], None], register: Callable[..., Any] = line_magic) -> Callable[..., Any]:
    """Make a line magic of a declaration: its decorators give the flags, its docstring the help."""

    @in_one_line
    @functools.wraps(declared)
    def run(self: ShmMagics, line: str = "", cell: str | None = None) -> Any:  # noqa: ANN401
        seen = scope.calling(self.space)
        args = parser.parse_line(line, seen)
        args.cell, args.scope = cell, seen
        if "names" in args:
            args.names = list(dict.fromkeys(args.names))
        from shmkernel.notebook import handlers  # noqa: PLC0415  numpy comes with it

        value = getattr(handlers, declared.__name__)(self, args)
        output.returned(value, declared.__name__)
        return value

    magic = arguments()(run)
    parser: Parser = vars(magic)["parser"]
    found: Callable[..., Any] = register(no_var_expand(magic))
    return found


def forget_bad_defaults(config: Any) -> None:  # noqa: ANN401  traitlets'
    """Take values out of IPython's configuration that the magics refuse: it keeps what ``%config`` was refused, too."""
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
        ["r+", "r", "c"], "r+", help="How %shm_attach attaches: r reads only, r+ writes too, c keeps changes private."
    ).tag(config=True)
    lifetime = Enum(
        ["session", "attached", "keep"], "session", help="How long what %shm_create and %shm_load make lives."
    ).tag(config=True)

    shell: InteractiveShell
    bare: output.Bare
    matcher: Matcher

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self.bound: dict[str, str] = {}  # by segment: the variable that was made of it here

    def bind(self, seen: scope.Scope, variable: str, value: object, name: str, *, read: bool = False) -> None:
        """Make a variable of a segment's value, where the calling line sees it."""
        seen.bind(variable, value, read=read)
        if self.space.get(variable) is value:
            self.shell.push({variable: value})  # no longer one of IPython's own
            self.bound[name] = variable

    @property
    def space(self) -> dict[str, Any]:
        """The user's variables."""
        space: dict[str, Any] = self.shell.user_ns
        return space

    @_verb
    @_NAMES
    @argument("--from", metavar="EXPR", help="what to share, any expression; without it the variable of that name")
    @argument("--shape", metavar="3,4", help="make an array of this shape, to fill in place")
    @argument("--dtype", help="of the elements, by default the value's, or float64")
    @argument("--fill", metavar="VALUE", help="what an array of --shape holds, by default zeros")
    @argument("--order", metavar="{C,F}", help="rows first or columns first, by default the value's")
    @argument("--list", dest="items", metavar="ITEMS", help="make a list of these: \"[1, 'a', None]\"")
    @argument("--dict", dest="empty", action="store_true", help="make an empty dict, to be filled by every notebook")
    @argument("--size", metavar="64K", help="make a block of so many bytes; K, M, G and T count in 1024")
    @argument("--ring", metavar="64", type=int, help="make a stream with so many slots, for frames of --shape")
    @argument(
        "--kind", metavar="{array,dict,list,raw}", help="what to make of the value, by default what it looks like"
    )
    @_LIFETIME
    @_MODE
    @_REPLACE
    @_OVERWRITE
    def shm_create(self) -> None:
        """Share arrays, dicts, lists and bytes: each variable of that name becomes what is shared.

        Other notebooks get it by %shm_attach NAME. Of several names all are shared, or none.

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
    @argument("--as", dest="variable", metavar="OTHER", help="the variable to make, by default NAME")
    @_MODE
    @_OVERWRITE
    def shm_attach(self) -> None:
        """Use what another notebook shares: NAME becomes its array, nothing is copied.

        %shm_attach x
        %shm_attach x --as other --mode r
        y = %shm_attach x
        """

    @_verb
    @_NAMES
    def shm_close(self) -> None:
        """Let go of segments here: the variables that are the array go, in Out and _ too. Others keep theirs."""

    @_verb
    @_NAMES
    def shm_unlink(self) -> None:
        """Remove segments, whoever made them. Those who have one attached keep its memory until they let go."""

    @_verb
    @_NAMES
    @_LIFETIME
    def shm_keep(self) -> None:
        """Change how long segments live, by default until unlinked: so they survive a restart of the kernel.

        One whose name is gone, and that is only here, gets a new segment: a copy.
        """

    @_verb
    def shm_list(self) -> None:
        """Show what is shared. ``rows = %shm_list`` gives a list of its Info."""

    @_verb
    @_NAMES
    def shm_info(self) -> None:
        """Show all that is known of segments. ``i = %shm_info x`` gives a list of Info."""

    @_verb
    @argument("names", metavar="NAME", nargs="*", help="whose content is shown first")
    @argument("--every", type=seconds_given, metavar="SECONDS", help="how often to look, by default every 0.25")
    def shm_watch(self) -> None:
        """Show what is shared, live: a table, the content of the chosen segment, buttons to attach, keep and unlink.

        %shm_watch
        %shm_watch x --every 1
        """

    @_verb
    @_NAME
    @argument("path", metavar="FILE", help="to write; an older one is replaced")
    def shm_save(self) -> None:
        """Write a segment to a file, an array to a .npy file.

        %shm_save x results/x.npy
        """

    @_verb
    @_NAME
    @argument("path", metavar="FILE", help="to read, a .npy file for an array")
    @_LIFETIME
    @_MODE
    @_REPLACE
    @_OVERWRITE
    def shm_load(self) -> None:
        """Share the content of a file, without a second copy in memory.

        %shm_load x results/x.npy
        """

    @_cell_verb
    @_NAME
    @argument("--shared", action="store_true", help="only read: others may read, too")
    @_TIMEOUT
    def shm_lock(self) -> None:
        """Run the rest of the cell while nobody else holds the lock of this name.

        Others lock it likewise, or by ``with shm.lock("x"):``. Leaving raises the version, which %shm_wait waits for.

        %%shm_lock x
        x += 1
        """

    @_verb
    @_NAMES
    def shm_publish(self) -> None:
        """Say that there is something new: raise the version, and wake who waits for it."""

    @_verb
    @_NAME
    @argument("--since", metavar="VERSION", type=version_given, help="known so far; by default the present one")
    @_TIMEOUT
    def shm_wait(self) -> None:
        """Sleep until there is something new: until it is published, its lock left, or the segment replaced.

        %shm_wait x --timeout 10
        v = %shm_wait x
        """

    @_verb
    @argument("--dry-run", action="store_true", help="only say what would be unlinked")
    def shm_gc(self) -> None:
        """Unlink what kernels have left that died by force, their watchdogs too."""

    @_verb
    def shm_doctor(self) -> None:
        """Check what this machine allows, and name the cure for what it does not."""

    @_verb
    def shm_help(self) -> None:
        """Show each verb with an example."""
