"""From what users pass to validated arrays, and back into the container they passed."""
