"""Where nodes are, and how clients get there: URLs, environments, certificates."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from network.faulty_node import FaultyNode
from support.node_client import new_group, new_key
from xmtp_history import LocalNode
from xmtp_history.network import Environment, NodeApi, NodeError, environment
from xmtp_history.network._connection import address_of

# --- URLs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "target", "tls"),
    [
        ("http://localhost:5556", "localhost:5556", False),
        ("http://localhost:5556/", "localhost:5556", False),
        ("http://10.0.2.2", "10.0.2.2:80", False),
        ("https://grpc.dev.xmtp.network:443", "grpc.dev.xmtp.network:443", True),
        ("https://grpc.dev.xmtp.network", "grpc.dev.xmtp.network:443", True),
        ("HTTPS://Node.example", "Node.example:443", True),
        ("http://[::1]:5556", "[::1]:5556", False),
        ("http://[::1]", "[::1]:80", False),
        ("http://my_node:1/", "my_node:1", False),
    ],
)
def test_urls(url: str, target: str, tls: bool) -> None:
    assert address_of(url) == (target, tls)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:5556",
        "grpc://localhost:5556",
        "unix:///tmp/node",
        "http://",
        "http://:5556",
        "http://node:0",
        "http://node:65536",
        "http://node:port",
        "http://user:secret@node:5556",
        "http://user@node",
        "http://node:5556/path",
        "http://node:5556?secret=1",
        "http://node:5556#secret",
        "http://no de:5556",
        "http://node,other:5556",
        "http://node/%2f",
        "http://[::1",
        "http://[node]:1",
        "http://nöde:1",
    ],
)
def test_what_is_no_url_of_a_node(url: str) -> None:
    with pytest.raises(ValueError, match="URL") as caught:
        NodeApi(url)
    assert "secret" not in str(caught.value)


def test_arguments() -> None:
    url = "http://localhost:5556"
    for wrong in ("", "ä", "a\nb", " a", "a" * 129):
        with pytest.raises(ValueError, match="app_version"):
            NodeApi(url, app_version=wrong)
    for number in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="timeout"):
            NodeApi(url, timeout=number)
        with pytest.raises(ValueError, match="keepalive_s"):
            NodeApi(url, keepalive_s=number)
    with pytest.raises(TypeError):
        NodeApi(b"http://localhost:5556")  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_hosts(host: str) -> None:
    async def main() -> None:
        async with LocalNode(host=host, port=0) as node, NodeApi(node.url) as api:
            assert await api.newest_group_messages([new_group()]) == [None]

    asyncio.run(main())


def test_environments() -> None:
    local = environment("local")
    assert local == Environment("local", "http://localhost:5556", "http://localhost:5558")
    for name in ("dev", "production"):
        known = environment(name)
        assert (known.name, known.api_url) == (name, f"https://grpc.{name}.xmtp.network:443")
        assert known.history_sync_url == f"https://message-history.{name}.ephemera.network"
        NodeApi(known.api_url)
    for wrong in ("", "Local", "testnet"):
        with pytest.raises(ValueError, match="local, dev, production"):
            environment(wrong)


# --- certificates -----------------------------------------------------------------------------------------------------


def _certificate(*names: x509.GeneralName) -> tuple[bytes, bytes]:
    """A key and a certificate that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, certificate.public_bytes(serialization.Encoding.PEM)


LOCALHOST = x509.DNSName("localhost")
LOOPBACK = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


def _node(certificate: tuple[bytes, bytes]) -> FaultyNode:
    node = FaultyNode()
    node.credentials = grpc.ssl_server_credentials([certificate])
    node.answer("FetchKeyPackages", b"answer")
    return node


def test_a_certificate_that_is_known() -> None:
    async def main() -> None:
        certificate = _certificate(LOCALHOST, LOOPBACK)
        async with _node(certificate) as node:
            for url in (node.url, node.url.replace("localhost", "127.0.0.1")):
                async with NodeApi(url, root_certificates=certificate[1]) as api:
                    assert await api.fetch_key_packages([new_key()]) == b"answer"

    asyncio.run(main())


def test_the_certificates_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        certificate = _certificate(LOCALHOST)
        path = tmp_path / "certificates.pem"
        path.write_bytes(certificate[1])
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        async with _node(certificate) as node, NodeApi(node.url) as api:
            assert await api.fetch_key_packages([new_key()]) == b"answer"

    asyncio.run(main())


@pytest.mark.parametrize("wrong", ["signer", "system", "name"])
def test_a_certificate_that_is_not_right(wrong: str) -> None:
    async def main() -> None:
        certificate = _certificate(x509.DNSName("other") if wrong == "name" else LOOPBACK)
        roots = {"signer": _certificate(LOOPBACK)[1], "system": None, "name": certificate[1]}[wrong]
        async with _node(certificate) as node:
            api = NodeApi(node.url.replace("localhost", "127.0.0.1"), root_certificates=roots)
            with pytest.raises(NodeError, match="check the certificate") as caught:
                await api.fetch_key_packages([new_key()])
            assert caught.value.code == "UNAVAILABLE"
            assert not node.calls
            await api.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("encrypted", ["node", "client"])
def test_only_one_of_the_two_encrypts(encrypted: str) -> None:
    async def main() -> None:
        certificate = _certificate(LOCALHOST)
        async with _node(certificate) as tls, FaultyNode() as plain:
            url = {
                "node": tls.url.replace("https", "http"),
                "client": plain.url.replace("http", "https"),
            }[encrypted]
            async with NodeApi(url, root_certificates=certificate[1]) as api:
                with pytest.raises(NodeError):
                    await api.fetch_key_packages([new_key()])
                assert not tls.calls
                assert not plain.calls

    asyncio.run(main())
