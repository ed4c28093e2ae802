"""Where a round runs: TFF per client, packed, vectorized, in this process, over workers.

Knows nothing of the details of methods, and nothing of stores.
"""
