"""HTTP: the server, what requests and procedures share, and the packages of each kind of request.

Nothing is imported here: a command that prints a procedure's row imports that module alone.
"""
