"""What every framework adapter needs, and no framework knows: an adapter only translates.

`context` says whose call it is, `requests` makes the `Request`, `parameters` says what binds an answer, `routing` goes
with a call from its decision to its answer, `attempt` is one arm that is asked, `provenance` reads who gave an answer
and how it ended, `options` reads constructors' arguments, `factory` builds the engine of them, `lifecycle` is what
surfaces offer of it, `threads` keeps event loops free.
"""

from shared_core.adapters.context import KEYS, Context, current_context, iccache_context
from shared_core.adapters.requests import build_request, default_task, query_of

__all__ = ["KEYS", "Context", "build_request", "current_context", "default_task", "iccache_context", "query_of"]
