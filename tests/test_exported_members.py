"""The public surface: names, where they say they come from, and the native library behind them."""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import xmtp_history

PACKAGE = Path(xmtp_history.__file__).parent

NAMES = {
    "ArchiveCorrupted", "ArchiveElement", "ArchiveError", "ArchiveExpired", "ArchiveKeyError", "ArchiveLimitExceeded",
    "ArchiveMetadata", "ArchiveNotFound", "ArchiveOptions", "ArchivePolicy", "ArchiveReader", "ArchiveRefused",
    "ArchiveReport", "ArchiveRequest", "ArchiveSent", "ArchiveTruncated", "AvailableArchive", "Client", "Consent",
    "ConsentEntityType", "ConsentState", "ConsentUpdate", "ContentError", "ContentType", "Conversation",
    "ConversationType", "Counts", "DecodedContent", "DeliveryStatus", "DownloadedArchive", "EoaSigner", "EventStream",
    "GroupError", "GroupInfo", "GroupState", "GroupSyncSummary", "History", "HistoryImported", "HistoryRequested",
    "HistoryServer", "HistorySyncFailed", "HmacKey", "HmacKeyUpdate", "IdentityError", "ImportReport", "InboxState",
    "InstallationInUse", "InstallationInfo", "InvalidRecord", "InvalidRecords", "LocalNode", "LocalStorage",
    "MembershipState", "Message", "MessageKind", "MessagesShared", "NetworkError", "NoHistoryServer",
    "NoOtherInstallation", "NotAnArchive", "NotRegistered", "ObjectStorage", "OutboxStatus", "PayloadTooLarge",
    "Progress", "SentArchive", "ServerLimits", "Signer", "StoreError", "StoreKeyError", "StoreLocked", "SyncError",
    "SyncEvent", "SyncGroupMessage", "SyncMetrics", "SyncPhase", "SyncRefusal", "SyncRefused", "SyncReport",
    "SyncStatus", "SyncTimeout", "TooManyInstallations", "UnsupportedArchiveVersion", "UploadTokens", "UploadedArchive",
    "XmtpHistoryError", "__version__", "archive_metadata", "delete_archive", "download_archive", "open_archive",
    "rewrite_archive", "upload_archive", "verify_archive",
}  # fmt: skip


def test_names() -> None:
    assert set(xmtp_history.__all__) == NAMES
    assert list(xmtp_history.__all__) == sorted(NAMES)
    public = {name for name in dir(xmtp_history) if not name.startswith("_")}
    submodules = {module.name for module in pkgutil.iter_modules([str(PACKAGE)])}
    assert public - submodules - {"annotations"} == NAMES - {"__version__"}


@pytest.mark.parametrize("name", sorted(NAMES - {"__version__"}))
def test_every_name_says_it_comes_from_the_package(name: str) -> None:
    member = getattr(xmtp_history, name)
    assert member.__module__ == "xmtp_history"
    assert inspect.getdoc(member)


def test_records_are_frozen_and_slotted() -> None:
    for name in NAMES - {"__version__"}:
        member = getattr(xmtp_history, name)
        if hasattr(member, "__dataclass_fields__"):
            assert member.__dataclass_params__.frozen, name
            assert "__slots__" in vars(member), name


def test_exceptions_form_one_tree() -> None:
    classes = [getattr(xmtp_history, name) for name in NAMES if name != "__version__"]
    exceptions = {cls for cls in classes if isinstance(cls, type) and issubclass(cls, Exception)}
    assert all(issubclass(cls, xmtp_history.XmtpHistoryError) for cls in exceptions)
    drawn = re.findall(r"[├└]── (\w+)", importlib.import_module("xmtp_history._errors").__doc__ or "")
    assert set(drawn) == {cls.__name__ for cls in exceptions} - {"XmtpHistoryError"}
    assert issubclass(xmtp_history.ArchiveKeyError, ValueError)
    assert issubclass(xmtp_history.StoreKeyError, ValueError)
    assert issubclass(xmtp_history.SyncTimeout, TimeoutError)


def test_exceptions_travel_between_processes() -> None:
    """A multiprocessing worker that fails must be able to say so."""
    import pickle

    record = xmtp_history.InvalidRecord(3, "message", "kind", "9 is not a kind of message")
    errors = [
        xmtp_history.ArchiveCorrupted("x", reason="AuthFailed", element=3, offset=4),
        xmtp_history.InvalidRecords("x", records=(record,)),
        xmtp_history.StoreLocked("x"),
        xmtp_history.PayloadTooLarge("x", status=413),
        xmtp_history.NetworkError("x", status=503),
        xmtp_history.SyncTimeout("x"),
        xmtp_history.SyncRefused("x", refusals=(xmtp_history.SyncRefusal("ab", "refused"),)),
    ]
    for error in errors:
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
        assert type(copy) is type(error)
        assert (str(copy), vars(copy)) == (str(error), vars(error))


def test_enumerations_have_the_numbers_of_the_format() -> None:
    numbers = {
        "ArchiveElement": (1, 2),
        "ConversationType": (1, 2),
        "MembershipState": (1, 2, 3, 4, 5),
        "MessageKind": (1, 2),
        "DeliveryStatus": (1, 2, 3),
        "ConsentEntityType": (1, 2),
        "ConsentState": (1, 2, 3),
    }
    for name, values in numbers.items():
        kind = getattr(xmtp_history, name)
        assert issubclass(kind, enum.Enum)
        assert tuple(member.value for member in kind) == values


def test_the_version_is_the_one_of_the_wheel() -> None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version("xmtp-history")
    except PackageNotFoundError:
        pytest.skip("run from the source tree, not installed")
    assert xmtp_history.__version__ == installed


def _stub_names() -> set[str]:
    tree = ast.parse((PACKAGE / "_native" / "__init__.pyi").read_text())
    (library,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and "lib" in node.name.lower()]
    names = set()
    for node in library.body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def test_the_stub_names_what_the_library_has() -> None:
    from xmtp_history._native import lib

    assert _stub_names() == {name for name in dir(lib) if not name.startswith("__")}


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()


def test_one_module_touches_the_library() -> None:
    """Every call into native code is in one place, where its conventions can be checked."""
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if "_native" not in path.parts and re.search(r"^\s*(from|import)\s.*_native", path.read_text(), re.MULTILINE)
    }
    assert users == {"_ffi.py"}
