"""Suites: variants of one training, several seeds each, run one after another and set side by side."""
