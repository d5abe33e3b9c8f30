"""What every framework adapter needs, and no framework knows: an adapter only translates (DESIGN.md §2).

`context` says whose call it is, `request` makes the `Request`, `calls` tells what binds an answer, `endings` how it
ended, `construction` builds the engine, `surface` goes with a call from its decision to its record, `offloop` keeps
the event loop free.
"""

from shared_core.adapters.context import KEYS, Context, current_context, iccache_context
from shared_core.adapters.requests import build_request, default_task, query_of

__all__ = ["KEYS", "Context", "build_request", "current_context", "default_task", "iccache_context", "query_of"]
