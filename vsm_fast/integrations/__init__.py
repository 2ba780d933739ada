"""Integrations: TorchMetrics, rewards, diffusers, FiftyOne."""
