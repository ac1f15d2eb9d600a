"""Downloads under conditions: only if it is this file, or another one, or newer."""

from __future__ import annotations

import asyncio
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path

import pytest

from support.history_metrics import status, uploaded
from support.history_server import serving, some_bytes

#: One that is read when it is opened, and one that the kernel sends.
SIZES = (1_000, 1_500_001)

_OTHER = '"' + "0" * 64 + '"'


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"If-None-Match": "{tag}"}, 304),
        ({"If-None-Match": "W/{tag}"}, 304),
        ({"If-None-Match": _OTHER + ", {tag}"}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": _OTHER}, 200),
        ({"If-None-Match": _OTHER, "If-Modified-Since": "{later}"}, 200),
        ({"If-Match": "{tag}"}, 200),
        ({"If-Match": _OTHER + ", {tag}"}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": "W/{tag}"}, 412),
        ({"If-Match": _OTHER}, 412),
        ({"If-Match": "{tag}", "If-Unmodified-Since": "{earlier}"}, 200),
        ({"If-Match": "{tag}", "If-None-Match": "{tag}"}, 304),
        ({"If-Match": _OTHER, "If-None-Match": "{tag}"}, 412),
        ({"If-Modified-Since": "{date}"}, 304),
        ({"If-Modified-Since": "{later}"}, 304),
        ({"If-Modified-Since": "{earlier}"}, 200),
        ({"If-Modified-Since": "yesterday"}, 200),
        ({"If-Unmodified-Since": "{date}"}, 200),
        ({"If-Unmodified-Since": "{later}"}, 200),
        ({"If-Unmodified-Since": "{earlier}"}, 412),
        ({"If-Unmodified-Since": "yesterday"}, 200),
        ({"If-Unmodified-Since": "{date}", "If-Modified-Since": "{date}"}, 304),
        # A range counts only where the conditions let the file be sent at all.
        ({"Range": "bytes=1-2", "If-None-Match": "{tag}"}, 304),
        ({"Range": "bytes=1-2", "If-Match": _OTHER}, 412),
        ({"Range": "bytes=1-2", "If-Range": "{tag}"}, 206),
        ({"Range": "bytes=1-2", "If-Range": "{date}"}, 206),
        ({"Range": "bytes=1-2", "If-Range": _OTHER}, 200),
        ({"Range": "bytes=1-2", "If-Range": "W/{tag}"}, 200),
        ({"Range": "bytes=1-2", "If-Range": "{earlier}"}, 200),
        ({"Range": "bytes=1-2", "If-Range": "{later}"}, 200),
        ({"Range": "bytes=1-2", "If-Range": "yesterday"}, 200),
        ({"Range": "bytes=9999999-", "If-Range": _OTHER}, 200),
        ({"If-Range": "{tag}"}, 200),
    ],
)
def test_conditions(tmp_path: Path, conditions: dict[str, str], expected: int) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            for size in SIZES:
                data = some_bytes(size)
                file = await uploaded(client, data)
                async with client.head(file.path) as response:
                    date = response.headers["Last-Modified"]
                moment = parsedate_to_datetime(date).timestamp()
                dates = {"date": date, "later": formatdate(moment + 1, usegmt=True)}
                dates["earlier"] = formatdate(moment - 1, usegmt=True)
                headers = {name: value.format(tag=file.tag, **dates) for name, value in conditions.items()}
                async with client.get(file.path, headers=headers) as response:
                    assert response.status == expected
                    body = await response.read()
                    if expected == 412:
                        assert response.content_type == "application/problem+json"
                    else:
                        assert (response.headers["ETag"], response.headers["Last-Modified"]) == (file.tag, date)
                        assert response.headers["Cache-Control"] == "private, no-transform"
                        assert body == {200: data, 206: data[1:3], 304: b""}[expected]
                # A HEAD has no parts, and else the same answer.
                assert await status(client, "HEAD", file.path, headers=headers) == (
                    200 if expected == 206 else expected
                )

    asyncio.run(main())
