"""What is pushed to the Hub, and its card."""
