"""Generates URLs and times that the API accepts."""

import os

import schemathesis
from hypothesis import strategies as st

DESTINATION = os.environ["DESTINATION"]

# URLs of a destination that responds.
schemathesis.openapi.format(
    "uri",
    st.from_regex(r"[a-z0-9/]{0,20}", fullmatch=True).map(lambda path: f"{DESTINATION}/{path}"),
)

# Times in the past, so that webhooks are sent immediately.
schemathesis.openapi.format(
    "date-time",
    st.datetimes().map(lambda time: time.replace(year=2020, month=1, day=1).isoformat() + "Z"),
)
