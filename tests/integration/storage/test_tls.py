"""sslmode on real servers: who is encrypted, who is refused, and what the refusal says."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from tls_postgres import OWNER, PASSWORD, Certificates, TlsPostgres, tls_postgres

from dims.addresses import PostgresAddress, TlsMode
from dims.storage.connections.connecting import connect
from dims.storage.connections.storage_errors import StorageError, UnavailableError

HBA = """
hostssl   all tlsonly   all scram-sha-256
hostnossl all plainonly all scram-sha-256
hostssl   all certified all scram-sha-256 clientcert=verify-full
host      all dims      all scram-sha-256
"""
ROLES = ("tlsonly", "plainonly", "certified", "unlisted")
MODES = tuple(TlsMode)
LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


@dataclass
class Authority:
    """Who signs, and its files."""

    ca: trustme.CA
    directory: Path

    @property
    def root(self) -> str:
        return self._write("root.crt", self.ca.cert_pem.bytes())

    def server(self, not_after: datetime.datetime | None = None) -> Certificates:
        made = self.ca.issue_cert("localhost", not_after=not_after)
        return Certificates(
            made.cert_chain_pems[0].bytes(), made.private_key_pem.bytes(), self.ca.cert_pem.bytes()
        )

    def client(self, role: str) -> dict[str, str]:
        made = self.ca.issue_cert(f"{role}.example", common_name=role)
        return {
            "sslcert": self._write(f"{role}.crt", made.cert_chain_pems[0].bytes()),
            "sslkey": self._write(f"{role}.key", made.private_key_pem.bytes()),
        }

    def _write(self, name: str, content: bytes) -> str:
        path = self.directory / name
        path.write_bytes(content)
        path.chmod(0o600)
        return str(path)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(trustme.CA(), tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that the server does not know, nor is it the server's."""
    return Authority(trustme.CA(), tmp_path_factory.mktemp("theirs"))


@pytest.fixture(scope="module")
def secured(authority: Authority) -> Iterator[TlsPostgres]:
    with tls_postgres(HBA, authority.server()) as server:
        yield server


@pytest.fixture(scope="module")
def plain() -> Iterator[TlsPostgres]:
    with tls_postgres(HBA) as server:
        yield server


@pytest.fixture(scope="module")
def expired(authority: Authority) -> Iterator[TlsPostgres]:
    with tls_postgres(HBA, authority.server(not_after=LONG_AGO)) as server:
        yield server


@pytest.fixture
async def roles(secured: TlsPostgres) -> None:
    admin = await secured.admin()
    for role in ROLES:
        if not await admin.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role):
            await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
    await admin.close()


async def encrypted(address: PostgresAddress) -> bool:
    """Connects; whether the server sees the connection encrypted."""
    connection = await connect(address, timeout_s=10, application_name="test")
    try:
        sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        return bool(await connection.fetchval(sql))
    finally:
        await connection.close()


RESETS = 20
"""In TLS 1.3 the client is done first, and speaks: a server that closes on what it has not read
resets the connection, and its alert may be lost with that (RFC 8446, 4.6; RFC 1122, 4.2.2.13)."""


async def refused(address: PostgresAddress) -> str:
    """Connects in vain; message and hint."""
    for _ in range(RESETS):
        with pytest.raises(StorageError) as caught:
            await connect(address, timeout_s=10, application_name="test")
        error = caught.value
        if not isinstance(error, UnavailableError) or "reset by peer" not in str(error):
            break
    assert not isinstance(error, UnavailableError), "nothing that passes"
    text = f"{error} | {error.hint}"
    assert "\n" not in text
    assert PASSWORD not in text
    assert error.hint, text
    return text


def content(path: str) -> bytes:
    return Path(path).read_bytes()


def told(server: TlsPostgres, mode: TlsMode, **options: Any) -> PostgresAddress:
    return replace(server.address, sslmode=mode, **options)


@pytest.mark.parametrize("mode", MODES)
async def test_a_server_with_tls_is_spoken_to_as_the_mode_says(
    secured: TlsPostgres, authority: Authority, mode: TlsMode
) -> None:
    is_encrypted = await encrypted(told(secured, mode, sslrootcert=authority.root))
    assert is_encrypted == (mode not in {TlsMode.DISABLE, TlsMode.ALLOW})


@pytest.mark.parametrize("mode", MODES)
async def test_a_server_without_tls_is_refused_by_modes_that_demand_it(
    plain: TlsPostgres, authority: Authority, mode: TlsMode
) -> None:
    address = told(plain, mode, sslrootcert=authority.root)
    if mode in {TlsMode.DISABLE, TlsMode.ALLOW, TlsMode.PREFER}:
        assert not await encrypted(address)
    else:
        assert f"offers no TLS, which sslmode={mode} demands" in await refused(address)


@pytest.mark.parametrize("mode", MODES)
async def test_a_role_that_must_use_tls(
    secured: TlsPostgres, authority: Authority, roles: None, mode: TlsMode
) -> None:
    address = told(secured, mode, user="tlsonly", sslrootcert=authority.root)
    if mode is TlsMode.DISABLE:
        said = await refused(address)
        assert "does not take us without TLS" in said
        assert "sslmode=require" in said
    else:
        assert await encrypted(address)


@pytest.mark.parametrize("mode", MODES)
async def test_a_role_that_must_not_use_tls(
    secured: TlsPostgres, authority: Authority, roles: None, mode: TlsMode
) -> None:
    address = told(secured, mode, user="plainonly", sslrootcert=authority.root)
    if mode in {TlsMode.DISABLE, TlsMode.ALLOW, TlsMode.PREFER}:
        assert not await encrypted(address)
    else:
        assert "no pg_hba.conf entry" in await refused(address)


@pytest.mark.parametrize("mode", MODES)
async def test_a_role_without_an_entry(
    secured: TlsPostgres, authority: Authority, roles: None, mode: TlsMode
) -> None:
    address = told(secured, mode, user="unlisted", sslrootcert=authority.root)
    said = await refused(address)
    assert "no pg_hba.conf entry" in said


@pytest.mark.parametrize("mode", [TlsMode.REQUIRE, TlsMode.VERIFY_CA, TlsMode.VERIFY_FULL])
async def test_an_unknown_authority_is_refused_once_one_is_named(
    secured: TlsPostgres, stranger: Authority, mode: TlsMode
) -> None:
    said = await refused(told(secured, mode, sslrootcert=stranger.root))
    assert "of an unknown authority" in said
    assert "sslrootcert" in said


async def test_require_alone_verifies_nothing(secured: TlsPostgres) -> None:
    assert await encrypted(told(secured, TlsMode.REQUIRE, host="127.0.0.1"))


@pytest.mark.parametrize("mode", [TlsMode.VERIFY_CA, TlsMode.VERIFY_FULL])
async def test_no_authority_named_means_those_of_the_system(
    secured: TlsPostgres, mode: TlsMode
) -> None:
    said = await refused(told(secured, mode))
    assert "of an unknown authority" in said or "has no certificate authorities" in said


@pytest.mark.parametrize("mode", MODES)
async def test_the_host_name_matters_to_verify_full_only(
    secured: TlsPostgres, authority: Authority, mode: TlsMode
) -> None:
    address = told(secured, mode, host="127.0.0.1", sslrootcert=authority.root)
    if mode is TlsMode.VERIFY_FULL:
        said = await refused(address)
        assert "certificate is not for '127.0.0.1'" in said
        assert "sslmode=verify-ca" in said
    else:
        await encrypted(address)


@pytest.mark.parametrize("mode", [TlsMode.REQUIRE, TlsMode.VERIFY_CA, TlsMode.VERIFY_FULL])
async def test_an_expired_certificate_is_refused_by_whoever_verifies(
    expired: TlsPostgres, authority: Authority, mode: TlsMode
) -> None:
    assert "has expired" in await refused(told(expired, mode, sslrootcert=authority.root))
    assert await encrypted(told(expired, TlsMode.REQUIRE))


async def test_a_client_certificate_opens_what_needs_one(
    secured: TlsPostgres, authority: Authority, roles: None
) -> None:
    files = authority.client("certified")
    address = told(
        secured, TlsMode.VERIFY_FULL, user="certified", sslrootcert=authority.root, **files
    )
    assert await encrypted(address)
    said = await refused(replace(address, sslcert="", sslkey=""))
    assert "wants a certificate of 'certified'" in said
    assert "sslcert" in said


async def test_a_client_certificate_of_another_role_is_refused(
    secured: TlsPostgres, authority: Authority, roles: None
) -> None:
    files = authority.client("tlsonly")
    address = told(secured, TlsMode.REQUIRE, user="certified", **files)
    # The server tells its log only that the password was right.
    assert "see that the CN of sslcert is the role's name" in await refused(address)


async def test_a_client_certificate_of_another_authority_is_refused(
    secured: TlsPostgres, stranger: Authority, roles: None
) -> None:
    files = stranger.client("certified")
    address = told(secured, TlsMode.REQUIRE, user="certified", **files)
    said = await refused(address)
    assert "did not take our TLS or our certificate" in said
    assert "unknown ca" in said


async def test_files_that_cannot_be_used_are_named(
    secured: TlsPostgres, authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    good, other = authority.client("certified"), stranger.client("certified")
    text = tmp_path / "text.pem"
    text.write_text("no certificate\n")
    text.chmod(0o600)
    shared = tmp_path / "shared.key"
    shared.write_bytes(content(good["sslkey"]))
    shared.chmod(0o644)

    async def with_files(**files: str) -> str:
        return await refused(told(secured, TlsMode.VERIFY_CA, **{"sslrootcert": root, **files}))

    root = authority.root
    missing = str(tmp_path / "missing")
    assert f"sslrootcert {missing} cannot be read: No such file" in await with_files(
        sslrootcert=missing
    )
    assert f"sslrootcert {text} holds no certificate" in await with_files(sslrootcert=str(text))
    assert f"sslcert {missing} cannot be read" in await with_files(**{**good, "sslcert": missing})
    assert f"sslkey {missing} cannot be read" in await with_files(**{**good, "sslkey": missing})
    assert "is not in PEM format" in await with_files(**{**good, "sslcert": str(text)})
    assert "is not in PEM format" in await with_files(**{**good, "sslkey": str(text)})
    assert "does not belong to sslcert" in await with_files(**{**good, "sslkey": other["sslkey"]})
    said = await with_files(**{**good, "sslkey": str(shared)})
    assert f"sslkey {shared} can be read by others" in said
    assert f"chmod 600 {shared}" in said


async def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_passphrase(
    secured: TlsPostgres, authority: Authority, tmp_path: Path
) -> None:
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    files = authority.client("certified")
    key = serialization.load_pem_private_key(content(files["sslkey"]), None)
    sealed = tmp_path / "sealed.key"
    sealed.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    sealed.chmod(0o600)
    files["sslkey"] = str(sealed)
    assert "is encrypted" in await refused(told(secured, TlsMode.REQUIRE, **files))


async def test_a_file_that_was_replaced_is_read_again(
    secured: TlsPostgres, authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    root = tmp_path / "root.crt"
    address = told(secured, TlsMode.VERIFY_FULL, sslrootcert=str(root))
    root.write_bytes(content(stranger.root))
    assert "unknown authority" in await refused(address)
    root.write_bytes(content(authority.root))
    assert await encrypted(address)


@pytest.mark.parametrize("mode", MODES)
async def test_a_wrong_password_is_called_so_in_every_mode(
    secured: TlsPostgres, authority: Authority, mode: TlsMode
) -> None:
    address = told(secured, mode, password="wr0ng-secret", sslrootcert=authority.root)
    said = await refused(address)
    assert f"the password for '{OWNER}' is wrong" in said
    assert "wr0ng-secret" not in said


async def test_a_socket_is_never_encrypted_whatever_the_mode(secured: TlsPostgres) -> None:
    for mode in MODES:
        assert not await encrypted(replace(secured.local, sslmode=mode))


async def test_nothing_comes_from_environment_and_home(
    secured: TlsPostgres,
    authority: Authority,
    stranger: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dot = tmp_path / ".postgresql"
    dot.mkdir()
    (dot / "root.crt").write_bytes(content(stranger.root))
    (dot / "root.crl").write_text("nonsense")
    (dot / "postgresql.crt").write_text("nonsense")
    (tmp_path / ".pgpass").write_text(f"*:*:*:*:{PASSWORD}\n")
    (tmp_path / ".pgpass").chmod(0o600)
    keys = tmp_path / "keys"
    wrong = {
        "HOME": str(tmp_path), "PGHOST": "nowhere.invalid", "PGPORT": "1", "PGUSER": "nobody",
        "PGPASSWORD": PASSWORD, "PGDATABASE": "nothing", "PGSSLMODE": "disable",
        "PGSSLROOTCERT": stranger.root, "PGSSLCERT": "/nonexistent", "PGSSLKEY": "/nonexistent",
        "PGSSLCRL": "/nonexistent", "PGSSLNEGOTIATION": "direct", "PGTARGETSESSIONATTRS": "standby",
        "PGSSLMINPROTOCOLVERSION": "nonsense", "PGSERVICE": "none", "PGGSSLIB": "nonsense",
        "SSLKEYLOGFILE": str(keys), "SSL_CERT_FILE": authority.root,
    }  # fmt: skip
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    assert await encrypted(told(secured, TlsMode.REQUIRE))
    assert await encrypted(told(secured, TlsMode.VERIFY_FULL, sslrootcert=authority.root))
    assert await encrypted(told(secured, TlsMode.PREFER))
    assert not keys.exists()
    assert "unknown authority" in await refused(told(secured, TlsMode.VERIFY_FULL))
    without = await refused(told(secured, TlsMode.REQUIRE, password=""))
    assert "password" in without
