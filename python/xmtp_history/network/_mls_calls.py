"""The calls of ``MlsApi`` that have one answer (node specification, section 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xmtp_history._proto.mls_api_pb2 import (
    SORT_DIRECTION_ASCENDING,
    FetchKeyPackagesRequest,
    GetNewestGroupMessageRequest,
    KeyPackageUpload,
    PagingInfo,
    QueryGroupMessagesRequest,
    QueryWelcomeMessagesRequest,
    UploadKeyPackageRequest,
)
from xmtp_history.network import _answers
from xmtp_history.network._calls import in_batches
from xmtp_history.network._checks import check_cursor, check_group_id, check_key
from xmtp_history.network._errors import AnswerTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from xmtp_history.network._calls import Caller

_API: Final = "/xmtp.mls.api.v1.MlsApi/"
#: Groups in one call.
_GROUPS: Final = 1_000
#: What nodes give in one page at most.
_PAGE: Final = 100


class MlsCalls:
    """Key packages, messages of groups, and welcomes."""

    def __init__(self, caller: Caller) -> None:
        self._mls = caller

    async def upload_key_package(self, key_package: bytes) -> None:
        """Replaces the key package of an installation (section 4).

        Args:
            key_package: the TLS-serialised ``KeyPackage``.
        """
        upload = KeyPackageUpload(key_package_tls_serialized=key_package)
        request = UploadKeyPackageRequest(key_package=upload, is_inbox_id_credential=True)
        await self._mls.call(f"{_API}UploadKeyPackage", request.SerializeToString())

    async def fetch_key_packages(self, installation_keys: Iterable[bytes]) -> bytes:
        """The newest key packages of installations, in one call (section 4).

        Args:
            installation_keys: 32 bytes each.

        Returns:
            The ``FetchKeyPackagesResponse`` as the node sent it: that it has an entry for each key is for the reader to
            check.

        Raises:
            ValueError: a key is malformed.
        """
        keys = [check_key(key) for key in installation_keys]
        request = FetchKeyPackagesRequest(installation_keys=keys)
        return await self._mls.call(f"{_API}FetchKeyPackages", request.SerializeToString())

    async def send_group_messages(self, request: bytes) -> None:
        """Sends messages to groups; sending the same bytes again changes nothing (section 4).

        Args:
            request: a serialised ``SendGroupMessagesRequest``.
        """
        await self._mls.call(f"{_API}SendGroupMessages", request)

    async def send_welcome_messages(self, request: bytes) -> None:
        """Sends welcomes, at most 50 of them; sending the same bytes again changes nothing (section 4).

        Args:
            request: a serialised ``SendWelcomeMessagesRequest``.
        """
        await self._mls.call(f"{_API}SendWelcomeMessages", request)

    async def query_group_messages(self, group_id: bytes, cursor: int, limit: int = _PAGE) -> bytes:
        """A page of a group's messages with ids above the cursor, rising (sections 2 and 4).

        Where a page of so many messages is larger than 25 MiB, fewer are asked for. So the page is the last one if, and
        only if, its ``paging_info.id_cursor`` is 0, and not when it has fewer messages than the limit.

        Args:
            group_id: 1 to 255 bytes.
            cursor: an id, or 0.
            limit: messages, 1 to 100.

        Returns:
            The ``QueryGroupMessagesResponse`` as the node sent it.

        Raises:
            ValueError: an argument is out of range.
            AnswerTooLarge: a single message is larger than 25 MiB.
        """
        check_group_id(group_id)

        def request(info: PagingInfo) -> bytes:
            return QueryGroupMessagesRequest(group_id=group_id, paging_info=info).SerializeToString()

        return await self._page(f"{_API}QueryGroupMessages", request, cursor, limit)

    async def query_welcome_messages(self, installation_key: bytes, cursor: int, limit: int = _PAGE) -> bytes:
        """A page of an installation's welcomes with ids above the cursor, rising (sections 2 and 4).

        Args:
            installation_key: 32 bytes.
            cursor: an id, or 0.
            limit: welcomes, 1 to 100; see :meth:`query_group_messages`.

        Returns:
            The ``QueryWelcomeMessagesResponse`` as the node sent it.

        Raises:
            ValueError: an argument is out of range.
            AnswerTooLarge: a single welcome is larger than 25 MiB.
        """
        check_key(installation_key)

        def request(info: PagingInfo) -> bytes:
            return QueryWelcomeMessagesRequest(installation_key=installation_key, paging_info=info).SerializeToString()

        return await self._page(f"{_API}QueryWelcomeMessages", request, cursor, limit)

    async def newest_group_messages(self, group_ids: Sequence[bytes]) -> list[int | None]:
        """The id of each group's newest message, or None where there is none (section 4).

        Raises:
            ValueError: a group id is malformed.
            InvalidAnswer: the answer does not match the question.
        """
        for group_id in group_ids:
            check_group_id(group_id)
        return await in_batches(group_ids, _GROUPS, self._newest)

    async def _newest(self, group_ids: Sequence[bytes]) -> list[int | None]:
        method = f"{_API}GetNewestGroupMessage"
        request = GetNewestGroupMessageRequest(group_ids=group_ids).SerializeToString()
        return _answers.newest_ids(self._mls.what(method), await self._mls.call(method, request), group_ids)

    async def _page(self, method: str, request: Callable[[PagingInfo], bytes], cursor: int, limit: int) -> bytes:
        check_cursor(cursor)
        if not 1 <= limit <= _PAGE:
            raise ValueError("limit: 1 to 100 are possible")
        while True:
            info = PagingInfo(direction=SORT_DIRECTION_ASCENDING, limit=limit, id_cursor=cursor)
            try:
                return await self._mls.call(method, request(info))
            except AnswerTooLarge:
                if limit == 1:
                    raise
                limit //= 2
