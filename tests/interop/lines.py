"""How a process is driven: steps come in by line, answers go out by line.

The first line of standard input says who it is, as arguments by name. Every line after it is a step, a name and its
arguments, in JSON; a last argument that is an object holds arguments by name. Each line is answered with one: the result,
or the error, after which the next step may follow. Standard output is for that alone; whatever else is written there
goes to standard error.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def serve(create: Callable[..., Awaitable[Any]], *errors: type[Exception]) -> None:
    """Carries out steps until standard input ends; errors other than these end the process."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    who = json.loads(sys.stdin.readline())
    steps = await create(**who)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await _answer(errors, steps, *json.loads(line))), file=answers)
    # Some threads do not end by themselves.
    os._exit(0)


async def _answer(errors: tuple[type[Exception], ...], steps: Any, name: str, *arguments: Any) -> dict[str, Any]:
    *positional, last = arguments or (None,)
    named = last if isinstance(last, dict) else {}
    positional = positional if isinstance(last, dict) else list(arguments)
    try:
        return {"result": await getattr(steps, name)(*positional, **named)}
    except errors as error:
        return {"error": str(error)}
