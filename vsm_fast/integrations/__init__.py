"""VSM inside other libraries: TorchMetrics, rewards, diffusers, FiftyOne."""
