"""What only 90_benchmark measures: speed and cost against named references."""
