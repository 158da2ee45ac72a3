"""llm chatgpt ...: the only code that prints to stdout."""

from llm_chatgpt.commands import accounts, doctor, image, login, models, usage
from llm_chatgpt.commands.group import chatgpt

__all__ = ["accounts", "chatgpt", "doctor", "image", "login", "models", "usage"]
