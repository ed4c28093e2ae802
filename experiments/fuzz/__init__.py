"""Odd values in place of each argument of working calls: a result, one sentence, or a fault."""
