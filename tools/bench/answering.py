"""The other end of `tools.bench.child`: a process of ours that answers lines of JSON."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

Answerer = Callable[..., dict[str, Any]]


def answer_requests(answerers: Mapping[str, Answerer], **started: Any) -> None:
    """Send the first line, then answer each `{"do": name, ...}` by the function of that name, until input ends.

    A failure is an answer, too: the parent decides whether the rest still makes sense.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whatever a library prints goes to stderr; stdout holds answers and nothing else.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps(started), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = answerers[request.pop("do")](**request)
        except Exception as error:  # whatever it was, the parent hears of it
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        print(json.dumps(answer), file=answers, flush=True)
