"""What boto3 raises, in words for people."""

from collections.abc import Iterator
from contextlib import contextmanager

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from mlproject.errors import DataError

NO_CREDENTIALS = (
    "no credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE "
    "(and AWS_ENDPOINT_URL where the server is not Amazon's)"
)
DENIED = "access is denied: these credentials may not do this"
EXPIRED = "the credentials have expired: sign in again"
CHANGED = "it was changed while the data set was read: start again when it is complete"
ADVICE = {
    "NoSuchBucket": "there is no such bucket",
    "NoSuchKey": "there is no such object",
    "400": "have the credentials expired? Sign in again (S3 gives no reason where it is asked for a state alone)",
    "404": "there is no such bucket or object",
    "403": DENIED,
    "AccessDenied": DENIED,
    "InvalidAccessKeyId": "the access key is unknown: see AWS_ACCESS_KEY_ID or AWS_PROFILE",
    "SignatureDoesNotMatch": "the secret key is wrong: see AWS_SECRET_ACCESS_KEY or AWS_PROFILE",
    "ExpiredToken": EXPIRED,
    "ExpiredTokenException": EXPIRED,
    "TokenRefreshRequired": EXPIRED,
    "InvalidToken": "the session token is not valid: see AWS_SESSION_TOKEN, or sign in again",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
    "PreconditionFailed": CHANGED,
    "412": CHANGED,
    "InvalidObjectState": "it is archived: restore it first",
}


@contextmanager
def in_words(where: str) -> Iterator[None]:
    """Within: what boto3 raises becomes a DataError of one line that begins with the name `where`."""
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise DataError(f"{where}: {NO_CREDENTIALS}") from error
    except ClientError as error:
        code = code_of(error)
        raise DataError(f"{where}: S3 refuses ({code}): {ADVICE.get(code, line_of(error))}") from error
    except (BotoCoreError, Boto3Error, ValueError) as error:
        raise DataError(f"{where}: S3 fails: {line_of(error)}") from error


def line_of(error: Exception) -> str:
    """What an exception says, in one line."""
    return " ".join(str(error).split())


def code_of(error: ClientError) -> str:
    """What the server calls its reason, as AccessDenied."""
    return str(error.response.get("Error", {}).get("Code", "unknown"))
