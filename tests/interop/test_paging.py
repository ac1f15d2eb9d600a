"""Reading long histories page by page (node specification, sections 2 and 14)."""

from __future__ import annotations

import pytest

from interop.account import Installation
from interop.conftest import Start
from interop.proxy import Proxy
from xmtp_history._proto import mls_api_pb2 as pb


@pytest.fixture
def alice(start: Start) -> Installation:
    return start("alice")


@pytest.fixture
def bob(start: Start, proxy: Proxy) -> Installation:
    return start("bob", node=proxy.url)


def _pages(proxy: Proxy, group: str) -> list[int]:
    """How many messages each page of a group had."""
    queries = [
        (pb.QueryGroupMessagesRequest.FromString(call.request), pb.QueryGroupMessagesResponse.FromString(call.response))
        for call in proxy.calls_of("QueryGroupMessages")
    ]
    return [len(response.messages) for request, response in queries if request.group_id.hex() == group]


@pytest.mark.parametrize(("count", "pages"), [(250, [100, 100, 50]), (100, [100, 0]), (99, [99])])
def test_a_member_who_comes_late_gets_everything(
    alice: Installation, bob: Installation, proxy: Proxy, count: int, pages: list[int]
) -> None:
    group = alice.do("group", [bob.do("inbox_id")])
    texts = [f"number {number}" for number in range(count)]
    for text in texts:
        alice.begin("keep", group, text)
    alice.begin("publish", group)
    for _ in range(count + 1):
        alice.finish()
    bob.do("sync")
    assert bob.do("texts", group) == texts
    assert _pages(proxy, group) == pages


def test_pages_stay_below_what_a_client_accepts(alice: Installation, bob: Installation, proxy: Proxy) -> None:
    """Of 30 MB it gets a part each time it syncs, where one page of a hundred messages would be refused for ever."""
    group = alice.do("group", [bob.do("inbox_id")])
    alice.do("keep", group, "x" * 300_000, 100)
    alice.do("publish", group)
    fetched = [0]
    while fetched[-1] < 100 and len(fetched) < 6:
        bob.do("sync")
        fetched.append(len(bob.do("texts", group)))
    assert fetched[-1] == 100
    assert len(fetched) > 2
    assert max(len(call.response) for call in proxy.calls) < 25 << 20
