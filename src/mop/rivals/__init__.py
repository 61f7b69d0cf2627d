"""The methods that MoP is compared with: contexts in, responses out, through the same backends and store.

What each one does, and where it departs from its paper, is in ``docs/baselines.md``.
"""
