"""A kernel of a host: runs the code in each line that comes, and answers with its value or error."""

from __future__ import annotations

import ast
import json
import sys

import numpy as np

import shmkernel as shm

space = {"shm": shm, "np": np}


def run(code):
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "agent", "exec"), space)
    return eval(compile(ast.Expression(last.value), "agent", "eval"), space) if last else None


def tell(answer):
    print(json.dumps(answer, default=str), flush=True)


space["tell"] = lambda what: tell({"event": what})

if __name__ == "__main__":
    tell({"event": "ready"})
    for line in sys.stdin:
        try:
            tell({"value": run(json.loads(line))})
        except BaseException as error:
            kinds = [one.__name__ for one in type(error).__mro__]
            tell({"error": kinds[0], "text": str(error), "facts": getattr(error, "facts", {}), "mro": kinds})
