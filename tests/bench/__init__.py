"""Measurements, each a ratio inside one run, since machines differ more than versions do."""
