"""What Schemathesis has to know to make requests that are meant to be accepted: where webhooks may go, and when."""

import os

import schemathesis
from hypothesis import strategies as st

DESTINATION = os.environ["DESTINATION"]

# A destination that answers, instead of anything that is a URI.
schemathesis.openapi.format("uri", st.from_regex(r"[a-z0-9/]{0,20}", fullmatch=True).map(lambda path: f"{DESTINATION}/{path}"))

# A time that has passed, which means now: one that lies ahead would leave webhooks waiting.
schemathesis.openapi.format("date-time", st.datetimes().map(lambda time: time.replace(year=2020, month=1, day=1).isoformat() + "Z"))
