"""An empty module in place of the `openai` package, for programs that tests start.

llm imports that package at every start, for its own models, which takes as long as everything else
that a command of the plugin does. conftest.py puts this folder on the PYTHONPATH.
"""
