"""TFF in a notebook whose own Python cannot hold it, as in Colab: an environment and a bridge.

Knows nothing of federated learning; only `session.notebook` and the bridge itself come here.
"""
