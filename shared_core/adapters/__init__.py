"""The framework-independent part of the adapters; an adapter itself only translates.

`context` holds a call's scope and task, `requests` builds the `Request`, `parameters` reads the form of the answer,
`routing` takes a call from its decision to its answer, `attempt` is one call of an arm, `model_call` is what an arm asks
a `Model`, `provenance` reads an answer's model and finish reason, `options` reads constructor arguments, `signatures`
shows them in ``help``, `factory` builds the engine, `lifecycle` has the methods that surfaces share, `threads` keeps
work off event loops, `exports` imports a package's names on first use.
"""
