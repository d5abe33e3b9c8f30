"""Two processes on one Redis: each sees the other's examples and deletions within a second."""

import subprocess
import sys
import time
from pathlib import Path

from shared_core.engine import Engine
from tests.unit.engine.world import ARMS, FULL, Words, ask

OTHER = """
import sys
from shared_core.engine import Engine
from tests.unit.engine.world import ARMS, FULL, Words

engine = Engine(store=sys.argv[1], arms=ARMS, reference="large", embedder=Words(), settings=FULL)
for line in sys.stdin:
    verb, text = line.split(maxsplit=1)
    if verb == "add":
        print(*engine.add_examples([(text.strip(), "answer")], scope="default", task="t"), flush=True)
    else:
        print(engine.delete("default", [text.strip()]), flush=True)
"""


def seconds_until(condition):
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < 10
    return time.monotonic() - begun


def test_the_others_examples_and_deletions_arrive_within_a_second(redis_url):
    engine = Engine(store=redis_url, arms=ARMS, reference="large", embedder=Words(), settings=FULL)
    engine.warm("default")
    seen = lambda: len(engine.decide(ask("alpha"), "d").selection.for_arm("small"))
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, redis_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert seen() == 0
        other.stdin.write("add alpha beta\n")
        other.stdin.flush()
        identity = other.stdout.readline().strip()
        assert seconds_until(lambda: seen() == 1) < 1.0
        other.stdin.write(f"delete {identity}\n")
        other.stdin.flush()
        assert other.stdout.readline().strip() == "1"
        assert seconds_until(lambda: seen() == 0) < 1.0
    finally:
        other.kill()
        other.wait()
        engine.close()
