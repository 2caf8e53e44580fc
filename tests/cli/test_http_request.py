"""Requests of commands against real servers that are slow, endless, wrong and nosy."""

import datetime
import itertools
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
from hypothesis import given
from hypothesis import strategies as st

from charon_actors.cli.services.http_request import (
    MAX_REDIRECTS,
    MAX_SHOWN_CHARACTERS,
    HttpFault,
    exchange,
    is_url,
    masked,
    service_of,
    wait_for,
)
from charon_actors.errors import UserError
from tests.cli.loopback import Asked, Reply, hanging, loopback

TOKEN = "Secret-Of-Hunter-2"


async def get(url: str, **more: Any) -> bytes:
    keywords = {"timeout_s": 5.0, "limit_bytes": 1000, **more}
    return await exchange(keywords.pop("method", "GET"), service_of(url, "--flag"), **keywords)


async def fault_of(url: str, **more: Any) -> HttpFault:
    with pytest.raises(HttpFault) as caught:
        await get(url, **more)
    return caught.value


async def test_what_is_sent() -> None:
    with loopback(lambda asked: Reply(204)) as server:
        assert await get(f"{server.url}/a/b/?c=d", method="POST", body=b"{}", bearer="token") == b""
        await get(f"http://me:p%40ss@{server.host}")
        await get(f"http://me:p%40ss@{server.host}/x", bearer="token", path="/y")
    first, second, third = server.asked
    assert (first.method, first.path, first.body) == ("POST", "/a/b/?c=d", b"{}")
    assert (first.headers["authorization"], first.headers["content-type"]) == ("Bearer token", "application/json")
    assert second.headers["authorization"] == "Basic bWU6cEBzcw=="  # base64 of me:p@ss
    assert "content-type" not in second.headers
    assert (third.path, third.headers["authorization"]) == ("/y", "Bearer token")


async def test_redirects_are_followed_so_far() -> None:
    def count_down(asked: Asked) -> Reply:
        left = int(asked.path.removeprefix("/"))
        return Reply(302, headers={"location": f"/{left - 1}"}) if left else Reply(200, b"there")

    with loopback(count_down) as server:
        assert await get(f"{server.url}/{MAX_REDIRECTS}", redirects=MAX_REDIRECTS) == b"there"
        assert str(await fault_of(f"{server.url}/{MAX_REDIRECTS + 1}", redirects=MAX_REDIRECTS)) == "more than 5 redirects"
        fault = await fault_of(f"{server.url}/1")
        assert (fault.status, len(server.asked)) == (302, 2 * MAX_REDIRECTS + 3)


async def test_a_redirect_in_a_circle_or_with_an_endless_body_ends() -> None:
    def circle(asked: Asked) -> Reply:
        return Reply(301, headers={"location": "/"}, parts=itertools.repeat(b"x" * 65536))

    with loopback(circle) as server:
        assert str(await fault_of(server.url, redirects=MAX_REDIRECTS)) == "more than 5 redirects"


@pytest.mark.parametrize("location", ["ftp://127.0.0.1/", "file:///etc/passwd", "http://[", "http://", "\x00"])
async def test_a_redirect_to_nowhere_is_a_fault(location: str) -> None:
    with loopback(lambda asked: Reply(302, headers={"location": location})) as server:
        await fault_of(server.url, redirects=MAX_REDIRECTS)


def certificate(directory: Path) -> Path:
    """Self-signed, for 127.0.0.1, with its key in the same file."""
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = directory / "server.pem"
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(key.private_bytes(*form) + made.public_bytes(serialization.Encoding.PEM))
    return path


async def test_https_is_verified_and_never_becomes_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with loopback(lambda asked: Reply(200, b"plain")) as plain, loopback(context=context) as server:
        assert "certificate" in str(await fault_of(server.url, uses_proxy=True)).lower()
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        server.answer = lambda asked: Reply(200, b"tls")
        assert await get(server.url, uses_proxy=True) == b"tls"
        server.answer = lambda asked: Reply(302, headers={"location": plain.url})
        assert str(await fault_of(server.url, redirects=2, uses_proxy=True)) == "redirects from https to http"
        assert plain.asked == []


async def test_a_socks_proxy_in_the_environment_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    with loopback(lambda asked: Reply(200, b"there")) as server:
        assert "is a SOCKS proxy" in str(await fault_of(server.url, uses_proxy=True))
        assert await get(server.url) == b"there"


async def test_bodies_are_limited_while_they_come() -> None:
    with loopback(lambda asked: Reply(parts=itertools.repeat(b"x" * 100))) as server:
        assert str(await fault_of(server.url)) == "the answer is larger than 1000 bytes"
        assert await get(server.url, limit_bytes=0) == b""  # not read at all
        server.answer = lambda asked: Reply(500, parts=itertools.repeat(b"no "))
        fault = await fault_of(server.url)
        assert (fault.status, len(str(fault))) == (500, len("http status 500 ") + MAX_SHOWN_CHARACTERS)


async def test_time_is_limited_as_a_whole() -> None:
    def drip() -> Iterator[bytes]:
        while True:
            time.sleep(0.02)
            yield b"."

    with loopback(lambda asked: Reply(parts=drip())) as server, hanging() as silent:
        for url in (server.url, silent.url):
            before = trio.current_time()
            assert str(await fault_of(url, timeout_s=0.3)) == "no complete answer within 0.3 s"
            assert trio.current_time() - before < 2


async def test_who_is_not_there_says_why() -> None:
    assert str(await fault_of("http://127.0.0.1:1")).endswith("Connection refused")
    with loopback(lambda asked: Reply(200, headers={"content-length": "5"}, parts=iter([b"ab"]))) as server:
        assert "closed connection" in str(await fault_of(server.url))


async def test_a_refusal_is_one_line_without_secrets() -> None:
    def echo(asked: Asked) -> Reply:
        said = f"bad\r\n\x1b[31m {asked.headers['authorization']} {asked.body.decode()} {'ab' * 40} {asked.path}"
        return Reply(401, said.encode() + b"\xff")

    with loopback(echo) as server:
        path = "/v3/0123-access-token-4567"
        fault = await fault_of(server.url + path, method="POST", bearer=TOKEN, body=b"my password", secrets=["my password"])
    assert str(fault) == "http status 401 bad ?[31m Bearer xxxxx xxxxx xxxxx /v3/xxxxx\ufffd"


@given(st.lists(st.one_of(st.just(TOKEN), st.just("ab" * 20), st.text(max_size=20)), max_size=30))
def test_whatever_somebody_says_is_shown_as_one_safe_line(parts: list[str]) -> None:
    shown = masked("".join(parts), [TOKEN, ""])
    assert TOKEN not in shown
    assert "ab" * 20 not in shown
    assert len(shown) <= MAX_SHOWN_CHARACTERS
    assert shown.isprintable()


@pytest.mark.parametrize(
    "text", ["host:1", "://x", "ftp://host", "http://", "http://[::1", "https://host:x", "http://a b", "http://host:99999", ""]
)
def test_what_is_no_http_url_is_one_error(text: str) -> None:
    with pytest.raises(UserError, match=r"^--flag: "):
        service_of(text, "--flag")


@given(st.text(max_size=30), st.text(max_size=30), st.sampled_from(["http", "https", "x", ""]))
def test_no_error_and_no_label_shows_a_password(before: str, after: str, scheme: str) -> None:
    text = f"{scheme}://{before}:{TOKEN}@{after}"
    try:
        service = service_of(text, "--flag")
        shown = service.label + repr(service)
    except UserError as error:
        shown = str(error)
    assert TOKEN not in shown


def test_urls_and_paths() -> None:
    assert all(map(is_url, ["http://x", "HTTPS://x", "ftp://x"]))
    assert not any(map(is_url, ["", ".charon/x", "/a:b//c", "c:\\x", "x:/y", "1http://x", "a b://c"]))


def test_plain_http_warns_and_https_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    service_of("https://me:secret@host/path", "--flag")
    assert capsys.readouterr().err == ""
    service_of("http://me:secret@host/path", "--flag")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Notice: --flag: http://host/… is plain http")


def test_waiting_passes_results_and_errors_on() -> None:
    async def seven() -> int:
        await trio.lowlevel.checkpoint()
        return 7

    async def fail() -> None:
        raise UserError("a", "b", "c")

    assert wait_for(seven) == 7
    with pytest.raises(UserError, match="a: b; c"):
        wait_for(fail)
