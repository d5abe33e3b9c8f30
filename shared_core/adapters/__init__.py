"""The framework-independent part of the adapters; an adapter itself only translates.

`context` holds a call's scope and task, `requests` builds the `Request`, `parameters` reads the form of the answer,
`routing` takes a call from its decision to its answer, `attempt` is one call of an arm, `provenance` reads an answer's
model and finish reason, `options` reads constructor arguments, `signatures` shows them in ``help``, `factory` builds
the engine, `lifecycle` has the methods that surfaces share, `threads` keeps work off event loops.
"""

from shared_core.adapters.context import KEYS, Context, current_context, iccache_context
from shared_core.adapters.requests import build_request, default_task, query_of

__all__ = ["KEYS", "Context", "build_request", "current_context", "default_task", "iccache_context", "query_of"]
