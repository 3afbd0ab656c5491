"""PostgreSQL: one module a noun, one function a statement, the SQL verb its name; the caller owns the transaction."""
