"""Which representation a request accepts."""

from __future__ import annotations

import pytest

from storage_ledger.web.dicomweb.accept import EXPLICIT_LITTLE_ENDIAN, Acceptable, acceptable, data_set_type, syntax_for
from storage_ledger.web.dicomweb.syntaxes import DECODABLE, frame_form
from storage_ledger.web.files.pictures.render import DECODERS

JPEG, JPEG_LS = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.80"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", Acceptable("*/*")),
        ("application/dicom+json", Acceptable("application/dicom+json", multipart=False)),
        ('multipart/related; type="application/dicom"', Acceptable("application/dicom", multipart=True)),
        ("multipart/related; type=application/dicom; transfer-syntax=*", Acceptable("application/dicom", multipart=True, syntax="*")),
        ('multipart/related; type="application/dicom"; transfer-syntax="*"', Acceptable("application/dicom", multipart=True, syntax="*")),
        (f'Multipart/Related;TYPE="image/jls; transfer-syntax={JPEG_LS}"', Acceptable("image/jls", multipart=True, syntax=JPEG_LS)),
        ("application/octet-stream; transfer-syntax=*", Acceptable("application/octet-stream", multipart=False, syntax="*")),
        ("text/html;q=0.5, application/dicom+json", Acceptable("application/dicom+json", multipart=False)),
        ("*", Acceptable("*/*")),
        ("text/html;q=.1, *;q=.2", Acceptable("*/*")),
    ],
)
def test_the_first_alternative(header: str, expected: Acceptable) -> None:
    assert acceptable(header, [])[0] == expected


def test_alternatives_are_in_order_of_their_quality() -> None:
    found = acceptable("image/png;q=0.2, image/jpeg, image/gif;q=0", [])
    assert [each.type for each in found] == ["image/jpeg", "image/png"]


def test_the_parameter_comes_before_the_header() -> None:
    assert [each.type for each in acceptable('multipart/related; type="application/octet-stream"', ["image/jpeg"])] == ["image/jpeg"]


@pytest.mark.parametrize(
    "header",
    [
        "nonsense",
        'multipart/related; type="application/dicom',
        "image/png;q=2",
        "image/png;q=.",
        "image/png;q=",
        ",".join(["a/b"] * 65),
        "a/b/c",
    ],
)
def test_an_invalid_header_is_refused(header: str) -> None:
    with pytest.raises(ValueError, match="Accept"):
        acceptable(header, [])


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("application/dicom+json, application/json", "application/dicom+json"),
        ("application/json", "application/json"),
        ("*/*", "application/dicom+json"),
        ("application/*", "application/dicom+json"),
        ('multipart/related; type="application/dicom+xml"', "application/dicom+xml"),
        ('multipart/related; type="application/dicom+xml";q=0.5, application/dicom+json', "application/dicom+json"),
        ("multipart/related", "application/dicom+xml"),
        ("application/dicom+xml", None),
        ('multipart/related; type="application/dicom"', None),
        ("text/html", None),
    ],
)
def test_the_type_of_data_sets(header: str, expected: str | None) -> None:
    assert data_set_type(acceptable(header, [])) == expected


def test_an_instance_is_sent_as_stored_or_explicit() -> None:
    explicit, stored = EXPLICIT_LITTLE_ENDIAN, Acceptable("application/dicom", syntax="*")
    assert syntax_for(stored, JPEG_LS, decodable=False) == JPEG_LS
    assert syntax_for(Acceptable("application/dicom"), JPEG_LS, decodable=True) == explicit
    assert syntax_for(Acceptable("application/dicom"), explicit, decodable=True) == explicit
    assert syntax_for(Acceptable("application/dicom"), JPEG_LS, decodable=False) is None
    assert syntax_for(Acceptable("application/dicom", syntax=JPEG), JPEG_LS, decodable=True) is None


@pytest.mark.parametrize(
    ("header", "stored", "expected"),
    [
        ('multipart/related; type="application/octet-stream"; transfer-syntax=*', JPEG_LS, ("application/octet-stream", JPEG_LS, True)),
        ('multipart/related; type="application/octet-stream"', JPEG_LS, ("application/octet-stream", EXPLICIT_LITTLE_ENDIAN, False)),
        ('multipart/related; type="image/jls"', JPEG_LS, ("image/jls", JPEG_LS, True)),
        ('multipart/related; type="image/jpeg"', JPEG_LS, None),
        ('multipart/related; type="*/*"', JPEG_LS, ("application/octet-stream", EXPLICIT_LITTLE_ENDIAN, False)),
        ('multipart/related; type="*/*"; transfer-syntax=*', JPEG_LS, ("image/jls", JPEG_LS, True)),
        ("*/*", "1.2.840.10008.1.2", ("application/octet-stream", EXPLICIT_LITTLE_ENDIAN, True)),
        ("*/*", "1.2.840.10008.1.2.4.102", ("video/mp4", "1.2.840.10008.1.2.4.102", True)),
    ],
)
def test_the_form_of_frames(header: str, stored: str, expected: tuple[str, str, bool] | None) -> None:
    form = frame_form(acceptable(header, []), stored, 1)
    assert (form and (form.media_type, form.syntax, form.stored)) == expected


def test_several_frames_are_never_a_single_part() -> None:
    assert frame_form(acceptable("application/octet-stream", []), EXPLICIT_LITTLE_ENDIAN, 2) is None
    alone = frame_form(acceptable("application/octet-stream", []), EXPLICIT_LITTLE_ENDIAN, 1)
    assert alone is not None
    assert not alone.multipart


def test_what_counts_as_decodable_has_a_decoder() -> None:
    assert set(DECODERS) <= DECODABLE
    assert {uid for uid in DECODABLE if uid not in DECODERS} == {
        "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2",
    }  # fmt: skip
