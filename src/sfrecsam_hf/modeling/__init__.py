"""The model and what travels with it to the Hub: flat, sibling imports only."""
