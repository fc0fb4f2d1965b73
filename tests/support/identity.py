"""An identity for tests: the embedded services with an authority and https, and a place that gives out its tokens."""

import contextlib
import datetime as dt
import ipaddress
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from emulator.app import Emulator
from emulator.config import ServiceBusConfig
from emulator.identity import TokenAuthority

IDENTITY_SECRET: Final = "planted-identity-header"


class Certificate:
    """A self-signed certificate for 127.0.0.1, and the file with it for those who are to trust it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "certificate.pem"
        key_file = folder / "key.pem"
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
        now = dt.datetime.now(dt.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(self.file, key_file)


class IdentityEndpoint:
    """What App Service and Container Apps have for managed identities, for azure-identity's own client.

    https://learn.microsoft.com/azure/app-service/overview-managed-identity#rest-endpoint-reference
    """

    def __init__(self, authority: TokenAuthority) -> None:
        self.authority = authority
        self.lifetime_s = 3600.0
        self.refusal: int | None = None
        """While it is set, every request is answered with this status."""
        self.unknown_resource: str | None = None
        """What the tenant is to know nothing of."""
        self.issued: list[str] = []
        self.asked: list[tuple[str, str]] = []
        """Resource and client id of each request."""
        self.url = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["IdentityEndpoint"]:
        app = web.Application()
        app.router.add_get("/token", self._token)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/token"
        try:
            yield self
        finally:
            await runner.cleanup()

    def environment(self) -> Mapping[str, str]:
        """The variables by which a process finds it."""
        return {"IDENTITY_ENDPOINT": self.url, "IDENTITY_HEADER": IDENTITY_SECRET}

    async def _token(self, request: web.Request) -> web.Response:
        assert request.headers["X-IDENTITY-HEADER"] == IDENTITY_SECRET
        self.asked.append((request.query["resource"], request.query.get("client_id", "")))
        if self.refusal is not None:
            return web.json_response({"statusCode": self.refusal, "message": "refused"}, status=self.refusal)
        if self.unknown_resource == request.query["resource"].rstrip("/"):
            text = "AADSTS500011: The resource principal named it was not found in the tenant."
            return web.json_response({"statusCode": 400, "message": text}, status=400)
        now_s, resource = time.time(), request.query["resource"]
        token = self.authority.issue(resource, now_s=now_s, lifetime_s=self.lifetime_s)
        self.issued.append(token)
        expires = str(int(now_s + self.lifetime_s))
        return web.json_response(
            {
                "access_token": token,
                "expires_on": expires,
                "resource": resource,
                "token_type": "Bearer",
            }
        )


class SecureSite:
    """The embedded services with https and an identity."""

    def __init__(self, azure: Emulator, identity: IdentityEndpoint, certificate: Certificate) -> None:
        self.azure = azure
        self.identity = identity
        self.certificate = certificate

    def settings(self) -> dict[str, str]:
        """Of a worker that acts as the identity; there is no secret among them."""
        return {
            "azure_credential": "managed",
            "servicebus_namespace": f"127.0.0.1:{self.azure.servicebus.port}",
            "cosmos_endpoint": self.azure.cosmos_endpoint,
            "blob_account_url": self.azure.blob.endpoint,
        }

    def environment(self) -> dict[str, str]:
        """Of a process: where the identity is had, and whom to trust."""
        return {**self.identity.environment(), "SSL_CERT_FILE": str(self.certificate.file)}


@contextlib.asynccontextmanager
async def secure_site(folder: Path, config: ServiceBusConfig) -> AsyncIterator[SecureSite]:
    """Services, identity and certificate for as long as the context lasts."""
    certificate = Certificate(folder)
    authority = TokenAuthority()
    async with (
        IdentityEndpoint(authority).running() as identity,
        Emulator(config=config, authority=authority, tls=certificate.server) as azure,
    ):
        yield SecureSite(azure, identity, certificate)
