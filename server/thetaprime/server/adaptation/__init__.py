"""Adapts the policy of a session, one round at a time.

- `step`: the inputs of a round's step, and the step itself.
- `precompute`: computes the step when the round's first upload arrives.
- `commit`: records the step and θ_{k+1} exactly once.
- `engine`: schedules steps on threads.
"""
