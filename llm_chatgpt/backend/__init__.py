"""Prompts, models, usage and images: all requests that need a login."""
