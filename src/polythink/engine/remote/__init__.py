"""Rollouts drawn by a server over HTTP."""
