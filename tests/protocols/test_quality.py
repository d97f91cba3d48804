from __future__ import annotations

import pytest

from protocols.quality import FIRST_BAD, FIRST_UNCERTAIN, Quality, is_bad, is_good, label

CODES = {
    "GOOD": 0,
    "UNCERTAIN": 64,
    "UNCERTAIN_CLOCK": 65,
    "UNCERTAIN_TIME": 66,
    "UNCERTAIN_OVERFLOW": 67,
    "UNCERTAIN_OUT_OF_RANGE": 68,
    "UNCERTAIN_SUBSTITUTED": 69,
    "UNCERTAIN_CONFLICT": 70,
    "BAD": 128,
    "BAD_NO_COMMUNICATION": 129,
    "BAD_TIMEOUT": 130,
    "BAD_EXCEPTION": 131,
    "BAD_NONSENSE": 132,
    "BAD_CONFIGURATION": 133,
    "BAD_DEVICE_FAILURE": 134,
}


def test_codes_that_are_stored_are_never_renumbered() -> None:
    known = {quality.name: quality.value for quality in Quality}
    assert known | CODES == known
    assert {name: known[name] for name in CODES} == CODES


@pytest.mark.parametrize("quality", Quality)
def test_the_class_of_a_code_is_that_of_its_name(quality: Quality) -> None:
    assert is_good(quality) == quality.name.startswith("GOOD")
    assert is_bad(quality) == quality.name.startswith("BAD")
    assert label(quality) == quality.name.lower()


def test_every_byte_has_exactly_one_class_and_a_label() -> None:
    for code in range(256):
        assert is_good(code) + is_bad(code) + (FIRST_UNCERTAIN <= code < FIRST_BAD) == 1
        assert label(code).split("_")[0] == ("good" if is_good(code) else "bad" if is_bad(code) else "uncertain")
    assert (label(63), label(127), label(255)) == ("good_63", "uncertain_127", "bad_255")
