"""Sign in, and store, renew and choose logins. Nothing here sends a prompt."""
