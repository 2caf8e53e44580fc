"""Attacks on a running node, by who makes them: docs/threat-model.md says what bounds each."""
