"""Faults struck from outside, at every call that changes something, and what must hold after each."""
