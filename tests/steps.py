"""Drives steps without a guard: each call is made directly, in this thread."""


def result(steps):
    """What `steps` return."""
    try:
        step = next(steps)
        while True:
            step = steps.send(step.call())
    except StopIteration as end:
        return end.value
