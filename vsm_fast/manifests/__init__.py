"""What is scored against what: folders and lists paired up, or a manifest with a row a pair."""
