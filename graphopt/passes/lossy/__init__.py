"""Swaps that change what a model computes, for owners who train it further afterwards.

No level has them; each is named ``lossy-...``, declares ``exact = False`` and says what it changes.
"""
