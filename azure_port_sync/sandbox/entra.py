"""Entra's token endpoint, as the real SDK calls it: a token for the one client there is, or Entra's own refusal."""

from __future__ import annotations

import base64
import json
import secrets
import time
import uuid
from datetime import UTC, datetime
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

TOKEN_SECONDS = 3600

#: The resource whose tokens Resource Manager takes, under both of its names.
_RESOURCES = ("https://management.azure.com", "https://management.core.windows.net")
#: Resource Manager in other clouds, which this one knows nothing of.
_ELSEWHERE = ("https://management.usgovcloudapi.net", "https://management.chinacloudapi.cn")


class Authority:
    """Hands out bearer tokens for the client credentials grant."""

    def __init__(self, tenant_id: str, client_id: str, client_secret: str) -> None:
        self._tenant_id = tenant_id
        self._client_id = client_id
        self._client_secret = client_secret
        self._expiry: dict[str, float] = {}
        self._audience: dict[str, str] = {}

    @property
    def tokens(self) -> list[str]:
        """All that have been given out."""
        return list(self._expiry)

    async def configuration(self, request: Request) -> Response:
        """The OpenID configuration of the tenant, at whatever address this server is reached."""
        if wrong := self._wrong_tenant(request):
            return wrong
        base = f"{request.base_url}{self._tenant_id}"
        return JSONResponse(
            {
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
                "jwks_uri": f"{base}/discovery/v2.0/keys",
                "issuer": f"{base}/v2.0",
                "tenant_region_scope": "EU",
            }
        )

    async def token(self, request: Request) -> Response:
        """A token for the one client there is, or Entra's refusal."""
        if wrong := self._wrong_tenant(request):
            return wrong
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        client_id = form.get("client_id", "")
        if form.get("grant_type") != "client_credentials":
            return _refusal(400, "unsupported_grant_type", 70003, "The app requested an unsupported grant type.")
        if client_id.lower() != self._client_id.lower():
            return _refusal(
                400,
                "unauthorized_client",
                700016,
                f"Application with identifier '{client_id}' was not found in the directory '{self._tenant_id}'. "
                "This can happen if the application has not been installed by the administrator of the tenant or "
                "consented to by any user in the tenant. You may have sent your authentication request to the "
                "wrong tenant.",
            )
        if not secrets.compare_digest(form.get("client_secret", "").encode(), self._client_secret.encode()):
            return _refusal(
                401,
                "invalid_client",
                7000215,
                "Invalid client secret provided. Ensure the secret being sent in the request is the client secret "
                f"value, not the client secret ID, for a secret added to app '{client_id}'.",
            )
        resource, slash, permission = form.get("scope", "").partition("/.default")
        resource = resource.rstrip("/")
        if not slash or permission:
            return _refusal(
                400, "invalid_scope", 70011, f"The provided value for scope {form.get('scope')} is not valid."
            )
        if resource in _ELSEWHERE:
            return _refusal(
                400,
                "invalid_resource",
                500011,
                f"The resource principal named {resource} was not found in the tenant named {self._tenant_id}.",
            )
        claims = {"aud": resource, "tid": self._tenant_id, "appid": client_id}
        token = ".".join([_base64({"typ": "JWT"}), _base64(claims), secrets.token_urlsafe(48)])
        self._audience[token] = resource
        # The life of a token is real time, not the sandbox's: the SDK that holds it knows no other.
        self._expiry[token] = time.time() + TOKEN_SECONDS
        lifetime = {"expires_in": TOKEN_SECONDS, "ext_expires_in": TOKEN_SECONDS}
        return JSONResponse({"token_type": "Bearer", **lifetime, "access_token": token})

    def refuse(self, request: Request) -> Response | None:
        """ARM's 401 for a request without a good token; None when the token is good."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not token or scheme.lower() != "bearer":
            return self._unauthorized(
                request,
                "AuthenticationFailed",
                "Authentication failed. The 'Authorization' header is missing or invalid.",
            )
        expiry = self._expiry.get(token)
        if expiry is None:
            return self._unauthorized(request, "InvalidAuthenticationToken", "The access token is invalid.")
        if expiry <= time.time():
            return self._unauthorized(
                request,
                "ExpiredAuthenticationToken",
                f"The access token expiry UTC time '{_american(expiry)}' is earlier than current UTC time "
                f"'{_american(time.time())}'.",
            )
        if (audience := self._audience[token]) not in _RESOURCES:
            allowed = "','".join(_RESOURCES)
            return self._unauthorized(
                request,
                "InvalidAuthenticationTokenAudience",
                f"The access token has been obtained for wrong audience or resource '{audience}'. It should exactly "
                f"match with one of the allowed audiences '{allowed}'.",
            )
        return None

    def _unauthorized(self, request: Request, code: str, message: str) -> Response:
        challenge = f'Bearer authorization_uri="{request.base_url}{self._tenant_id}", error="invalid_token"'
        return JSONResponse(
            {"error": {"code": code, "message": message}},
            status_code=401,
            headers={"WWW-Authenticate": f'{challenge}, error_description="{message}"'},
        )

    def _wrong_tenant(self, request: Request) -> Response | None:
        name = request.path_params["tenant"]
        if name.lower() == self._tenant_id.lower():
            return None
        return _refusal(
            400,
            "invalid_tenant",
            90002,
            f"Tenant '{name}' not found. Check to make sure you have the correct tenant ID and are signing into the "
            "correct cloud. Check with your subscription administrator, this may happen if there are no active "
            "subscriptions for the tenant.",
        )


def _refusal(status: int, error: str, code: int, message: str) -> Response:
    trace, correlation = uuid.uuid4(), uuid.uuid4()
    stamp = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%SZ}"
    return JSONResponse(
        {
            "error": error,
            "error_description": f"AADSTS{code}: {message} Trace ID: {trace} Correlation ID: {correlation} "
            f"Timestamp: {stamp}",
            "error_codes": [code],
            "timestamp": stamp,
            "trace_id": str(trace),
            "correlation_id": str(correlation),
            "error_uri": f"https://login.microsoftonline.com/error?code={code}",
        },
        status_code=status,
    )


def _base64(part: dict[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def _american(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%m/%d/%Y %I:%M:%S %p}"
