"""Who you are. Knows nothing of prompts."""
