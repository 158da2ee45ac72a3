"""Logins: signing in, storing, renewing and choosing one. Knows nothing of prompts."""
