"""Readers of what the pipeline made: show, diff, inspect. Nothing here changes a target."""
