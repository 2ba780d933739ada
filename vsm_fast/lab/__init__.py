"""The method around the score: pairs, training, evaluation, baselines, figures."""
