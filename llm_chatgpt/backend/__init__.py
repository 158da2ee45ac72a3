"""Prompts, models, usage and images: everything that is requested with a login."""
