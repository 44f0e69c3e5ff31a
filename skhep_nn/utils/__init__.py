"""What every other wing uses; it knows nothing of physics or networks."""
