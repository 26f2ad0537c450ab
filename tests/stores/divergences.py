"""Where a test server, not our store, breaks the contract: subject -> test -> reason. The only such list.

Each entry is a strict expected failure: the day the server is right, the suite says so.
"""

from __future__ import annotations

_ODD_KEY = "test_an_odd_key_is_held_byte_for_byte_or_refused_by_name"

_COPY = "moto 5 ignores x-amz-copy-source-if-match"
_COMPLETE = "moto 5 ignores the conditions of CompleteMultipartUpload"

DIVERGENCES: dict[str, dict[str, str]] = {
    "memory": {},
    "files": {},
    "s3-seaweed": {},
    "s3-moto": {
        f"{_ODD_KEY}[newline]": "moto 5 does not route a key with a newline",
        f"{_ODD_KEY}[trailing-newline]": "moto 5 does not route a key with a newline",
        "test_parts_sent_in_any_order_and_again_become_one_object": "moto 5 tells a wrong checksum of the whole object",
        "test_completing_replaces_the_version_that_it_names": _COMPLETE,
        "test_completing_twice_changes_nothing": "moto 5 completes an upload again",
        "test_a_wrong_checksum_of_the_whole_is_enforced_or_shows": "moto 5 neither enforces a full-object checksum nor tells one",
        "test_aborting_removes_the_upload_and_may_be_repeated": "moto 5 answers 500 to a part of an unknown upload",
        "test_open_uploads_are_listed_with_key_id_and_time": "moto 5 gives every upload one constant time",
        "test_a_part_is_not_copied_from_another_version": _COPY,
        "test_a_server_side_copy_of_another_version_is_refused": _COPY,
        "test_attributes_of_another_version_are_left": _COPY,
        "test_a_server_side_copy_keeps_to_its_condition": "moto 5 ignores the conditions of CopyObject",
    },
    "gcs-fake": {},
}
