"""Preconditions on ETag and modification time, as a value and one check.

Source: https://learn.microsoft.com/rest/api/storageservices/specifying-conditional-headers-for-blob-service-operations.
"""

import msgspec

from emulator.blob.errors import BlobError


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """The conditional headers of a request; ETags with their quotes, or `*`; times in whole seconds."""

    if_match: tuple[str, ...] = ()
    if_none_match: tuple[str, ...] = ()
    if_modified_since_s: int | None = None
    if_unmodified_since_s: int | None = None


NO_CONDITIONS = Conditions()


class Version(msgspec.Struct, frozen=True):
    """What a condition looks at."""

    etag: str
    modified_s: int


def check_read(conditions: Conditions, version: Version | None) -> None:
    """Raise 304 or 412 ConditionNotMet where a read must not be answered; `version` None: nothing is there."""
    if "*" in conditions.if_none_match:
        raise BlobError("UnsatisfiableCondition")
    if version is None:
        if conditions.if_match:
            raise BlobError("ConditionNotMet")
        return
    if not _match_holds(conditions, version):
        raise BlobError("ConditionNotMet")
    if not _none_match_holds(conditions, version):
        raise BlobError("ConditionNotMet", status=304)


def check_write(conditions: Conditions, version: Version | None, *, creates: bool = False) -> None:
    """Raise 412 ConditionNotMet where a write must not happen; `version` None: nothing is there.

    `If-Match: *` on nothing is left to the caller's 404, unless the operation would create what is missing.
    """
    _check_combination(conditions)
    if version is None:
        if conditions.if_match and (creates or "*" not in conditions.if_match):
            raise BlobError("ConditionNotMet")
        return
    if not _match_holds(conditions, version) or not _none_match_holds(conditions, version):
        raise BlobError("ConditionNotMet")


def _check_combination(conditions: Conditions) -> None:
    """A write takes one ETag, and a time only beside the ETag header of its own kind."""
    if len(conditions.if_match) > 1 or len(conditions.if_none_match) > 1:
        raise BlobError("MultipleConditionHeadersNotSupported")
    equal = bool(conditions.if_match) or conditions.if_unmodified_since_s is not None
    different = bool(conditions.if_none_match) or conditions.if_modified_since_s is not None
    if equal and different:
        raise BlobError("MultipleConditionHeadersNotSupported")


def _match_holds(conditions: Conditions, version: Version) -> bool:
    """If-Match decides where it is given, else If-Unmodified-Since."""
    if conditions.if_match:
        return "*" in conditions.if_match or version.etag in conditions.if_match
    since_s = conditions.if_unmodified_since_s
    return since_s is None or version.modified_s <= since_s


def _none_match_holds(conditions: Conditions, version: Version) -> bool:
    """If-None-Match decides where it is given, else If-Modified-Since."""
    if conditions.if_none_match:
        return "*" not in conditions.if_none_match and version.etag not in conditions.if_none_match
    since_s = conditions.if_modified_since_s
    return since_s is None or version.modified_s > since_s
