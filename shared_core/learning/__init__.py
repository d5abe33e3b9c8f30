"""The learner: reads the feedback log, hands it to what learns from it, and publishes the result."""
