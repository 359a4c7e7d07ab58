"""Generated street scenes with exact labels and depths."""
