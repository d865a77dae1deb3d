"""Scripted rewards: rules that need no model."""
