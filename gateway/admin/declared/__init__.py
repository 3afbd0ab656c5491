"""Declarations: what is there compared with what is wanted, and the calls of procedures that make it so.

Nothing is changed here: each change is a call of the procedure that a person would call, with that person's rights.
"""
