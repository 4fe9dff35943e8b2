"""The extension ``%load_ext shmkernel.peer``: a second kernel inside a notebook. See `shmkernel.notebook.peer`."""

from shmkernel.notebook.peer import load_ipython_extension, unload_ipython_extension

__all__ = ["load_ipython_extension", "unload_ipython_extension"]
