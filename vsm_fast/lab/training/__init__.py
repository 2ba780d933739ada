"""Training of a small backbone and of the aggregation networks (extra ``train``)."""
