"""Messages with a few bytes changed, read by `gateway.wire` and by h11: `python -m loadtests.mutations`."""
