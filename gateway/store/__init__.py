"""PostgreSQL: a module for each noun, a function for each statement, named by its SQL verb.

The caller owns the transaction.
"""
