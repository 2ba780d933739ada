"""Models: configuration, weights, backbone and aggregation networks."""
