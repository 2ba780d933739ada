"""The GPU checklist: ``python -m benchmarks.gpu --out DIR``; README.md explains it."""
