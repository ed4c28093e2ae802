"""What the book measures: import each name from its module, such as `evaluation.metrics`.

bootstrap: intervals over users · metrics: errors of predictions · baselines: what a model must
beat · centralized: the same model with all ratings in one place · gains: who gains and who loses
· cold_start: users who arrive · ranking: lists instead of stars · participation: who takes part
and when · staleness: states that grew old · costs: what a visit of a client costs.

Knows nothing of methods, engines and stores: a trained model is predictions or plain arrays here.
"""
