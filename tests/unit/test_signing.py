"""Our SigV4 against botocore's, for keys, queries and headers that libraries like to change."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import parse_qsl

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given
from hypothesis import strategies as st

from stores.signing import UNSIGNED_PAYLOAD, UNSIGNED_PAYLOAD_TRAILER, Credentials, Signer, encode_key, encode_query
from tests.stores.keys import ODD_KEYS

NOW = 1_790_000_000.0
HOST = "127.0.0.1:8333"
PLAIN = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
SESSION = Credentials("ASIAEXAMPLE", "secret", "token/with+odd=characters")


class BotoS3(S3SigV4Auth):
    """botocore's signer with a payload hash of our choice."""

    def __init__(self, credentials: Credentials, payload: str) -> None:
        keys = BotoCredentials(credentials.access_key_id, credentials.secret_access_key, credentials.session_token or None)
        super().__init__(keys, "s3", "eu-west-1")
        self._payload = payload

    def payload(self, request: AWSRequest) -> str:
        return self._payload


def assert_signed_alike(
    method: str, path: str, query: str, headers: dict[str, str], credentials: Credentials, payload: str = UNSIGNED_PAYLOAD
) -> None:
    """Signs with botocore, then with ours at the moment that botocore's request names."""
    request = AWSRequest(method, f"http://{HOST}{path}{'?' + query if query else ''}", headers=dict(headers))
    BotoS3(credentials, payload).add_auth(request)
    moment = datetime.strptime(request.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    signed = Signer("eu-west-1").sign(method, HOST, path, query, headers, credentials, moment.timestamp(), payload=payload)
    assert signed["x-amz-date"] == request.headers["X-Amz-Date"]
    assert signed["authorization"] == request.headers["Authorization"]


def authorization(headers: dict[str, str]) -> str:
    return Signer("eu-west-1").sign("PUT", HOST, "/b/k", "", headers, PLAIN, NOW)["authorization"]


@pytest.mark.parametrize("key", ODD_KEYS.values(), ids=ODD_KEYS)
@pytest.mark.parametrize("credentials", [PLAIN, SESSION], ids=["keys", "session"])
def test_every_odd_key_is_signed_as_botocore_signs_it(key: str, credentials: Credentials) -> None:
    path = f"/bucket/{encode_key(key)}"
    query = encode_query({"uploadId": key, "partNumber": "1"})
    headers = {"x-amz-meta-key": "two  blanks", "range": "bytes=0-0", "x-amz-copy-source": path}
    assert_signed_alike("PUT", path, query, headers, credentials, UNSIGNED_PAYLOAD_TRAILER)


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"uploads": ""},
        {"list-type": "2", "prefix": "a b+c/é", "start-after": "a~b", "continuation-token": "1/+==", "delimiter": "/"},
        {"b": "2", "B": "1", "a-": "3", "a": "4"},
    ],
)
def test_every_query_is_signed_as_botocore_signs_it(query: dict[str, str]) -> None:
    assert_signed_alike("GET", "/bucket", encode_query(query), {}, PLAIN)


def test_headers_of_the_connection_are_not_signed() -> None:
    assert authorization({"content-length": "7", "user-agent": "x"}) == authorization({})
    assert authorization({"range": "bytes=0-0"}) != authorization({})


def test_the_day_key_changes_with_the_day_and_with_the_secret() -> None:
    signer = Signer("eu-west-1")

    def sign(credentials: Credentials, now: float) -> str:
        return signer.sign("GET", HOST, "/b", "", {}, credentials, now)["authorization"]

    first = sign(PLAIN, NOW)
    assert sign(PLAIN, NOW + 86_400) != first
    assert sign(Credentials(PLAIN.access_key_id, "another"), NOW) != first
    assert sign(PLAIN, NOW) == first


def test_secrets_stay_out_of_the_repr() -> None:
    assert "secret" not in repr(SESSION).replace("secret_access_key", "")
    assert "token" not in repr(SESSION)


@given(st.dictionaries(st.text(min_size=1), st.text(), max_size=4))
def test_a_query_says_what_it_was_made_from(query: dict[str, str]) -> None:
    assert dict(parse_qsl(encode_query(query), keep_blank_values=True)) == query
