"""A simulator for my_tasks.py: a cart on a track. Put your simulator in its place."""

import json
import random
import sys


def main() -> None:
    """Answers each line of the standard input, until it is closed."""
    rng = random.Random()
    strength, position, velocity = 1.0, 0.0, 0.0
    for line in sys.stdin:
        message = json.loads(line)
        answer: dict[str, object] = {}
        if "reset" in message:
            rng.seed(message["seed"])
            strength = message["reset"]["strength"]
            position, velocity = rng.uniform(-1.0, 1.0), 0.0
        else:
            force = min(1.0, max(-1.0, message["action"][0]))
            velocity = 0.9 * velocity + 0.3 * strength * force
            position += 0.1 * velocity
            answer = {"reward": -abs(position), "terminated": abs(position) > 5.0}
        answer["observation"] = [position, velocity]
        # Flushed at once: the environment waits for it.
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
