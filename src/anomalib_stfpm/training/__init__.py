"""Training: the learning-rate schedule, the student that is kept, resuming, interruption, several processes."""
