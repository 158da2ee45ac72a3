"""The ChatGPT login and the Codex backend on 127.0.0.1, as strict as the real ones.

Written from docs/protocol.md, not from what the plugin sends. A test scripts faults with
`Simulator.script` and answers with `Simulator.answer`, and reads what arrived in
`Simulator.requests`. `python3 tests/simulator` runs it alone. Its account still has the model
gpt-5.2-codex, which the service may have retired for others (`Account.extra_models`).

signing.py  signs tokens
issuer.py   signs users in: device codes, the browser flow, refresh, revocation
wham.py     reports limits, Luna Reserve, banked resets and workspaces
images.py   creates and edits images outside a conversation
models.py   lists the models, and checks that a model accepts a request
cache.py    counts cached tokens, and remembers reasoning
backend.py  answers prompts
official.py signs users in by the official route
plan.py     answers prompts of the official route, and lists models
checks.py   checks prompts and image requests
schemas.py  refuses JSON schemas that the service does not accept
answers.py  writes answers as events
png.py      PNG images of any size
replies.py  requests, answers, streams and errors
server.py   HTTP, and the Simulator, which combines these
"""

from .answers import PNG, Call, Draw, Item, Refuse, Say, Search, Think
from .issuer import CLIENT_ID, Account, make_jwt
from .models import CATALOGUE, RETIRED
from .official import OFFICIAL_SCOPE, PLAN_SCOPE, REGISTRATION, RESOURCE
from .plan import PLAN_ERRORS, plan_error
from .png import png
from .replies import Answer, Request, Stream, error_answer, sse, usage_limit, web_page
from .server import Simulator

__all__ = [
    "CATALOGUE",
    "CLIENT_ID",
    "OFFICIAL_SCOPE",
    "PLAN_ERRORS",
    "PLAN_SCOPE",
    "PNG",
    "REGISTRATION",
    "RESOURCE",
    "RETIRED",
    "Account",
    "Answer",
    "Call",
    "Draw",
    "Item",
    "Refuse",
    "Request",
    "Say",
    "Search",
    "Simulator",
    "Stream",
    "Think",
    "error_answer",
    "make_jwt",
    "plan_error",
    "png",
    "sse",
    "usage_limit",
    "web_page",
]
