"""What `gateway doctor` looks at: one module for each part. No check changes anything, and each has a deadline."""
