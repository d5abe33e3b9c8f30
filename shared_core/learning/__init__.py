"""The learner: consumes the feedback log, updates posteriors and example statistics, publishes checkpoints."""
