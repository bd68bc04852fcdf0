"""How a frame is rendered, what the header table shows, and what the cache keeps."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder
from pydicom.sequence import Sequence
from pydicom.uid import UID, AllTransferSyntaxes

from storage_ledger.web.files.pictures import Rendered, RenderRequest, Unavailable, header_table, render
from storage_ledger.web.files.pictures.cache import Cache, key_of
from tests.support.dicom import make_file, testdata_files


def dataset(pixels: Any, **elements: Any) -> io.BytesIO:
    """Return a CT file with these stored values."""
    values = np.asarray(pixels)
    buffer = io.BytesIO()
    made = make_file("/dev/null", rows=1, columns=1)
    made.Rows, made.Columns = values.shape[:2]
    made.BitsAllocated = values.dtype.itemsize * 8
    made.BitsStored = made.BitsAllocated
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(values.dtype.kind == "i")
    made.SamplesPerPixel = 1 if values.ndim == 2 else values.shape[2]
    if values.ndim == 3:
        made.PhotometricInterpretation, made.PlanarConfiguration = "RGB", 0
    made.PixelData = values.tobytes()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    made.save_as(buffer, enforce_file_format=True)
    return buffer


def shown(file: io.BytesIO, **asked: Any) -> Any:
    made = render.picture(file, RenderRequest("picture", **{"size": 512, **asked}))
    return np.asarray(Image.open(io.BytesIO(made.data))).astype(int)


def bundled(name: str) -> io.BytesIO:
    return io.BytesIO(next(path for path in testdata_files() if path.name == name).read_bytes())


RAMP = np.array([[0, 50, 100, 150, 200, 300]], dtype=np.int16)


def test_a_window_is_taken_after_the_modality_lut():
    file = dataset(RAMP, RescaleSlope=2, RescaleIntercept=-1000)
    picture = shown(file, window=(-800.0, 401.0))  # of 2 v - 1000: from -1000.5 to -600.5 and a bit
    assert picture[0].tolist() == [0, 64, 128, 192, 255, 255]


def test_the_file_s_own_window_comes_first_and_its_function_counts():
    linear = shown(dataset(RAMP, WindowCenter=[100, 7], WindowWidth=[100, 7]))
    assert linear[0].tolist() == [0, 0, 129, 255, 255, 255]
    exact = shown(dataset(RAMP, WindowCenter=100, WindowWidth=100, VOILUTFunction="LINEAR_EXACT"))
    assert exact[0].tolist() == [0, 0, 128, 255, 255, 255]
    sigmoid = shown(dataset(RAMP, WindowCenter=100, WindowWidth=100, VOILUTFunction="SIGMOID"))
    assert sigmoid[0].tolist() == [5, 30, 128, 225, 250, 255]


def test_without_a_window_all_but_the_rarest_values_are_shown_and_padding_does_not_count():
    noise = np.full((50, 50), 100, dtype=np.int16)
    noise[:25] = 200
    padded = noise.copy()
    padded[:, :10] = -2000
    picture = shown(dataset(padded, PixelPaddingValue=-2000))
    assert (picture[0, 40], picture[49, 40], picture[0, 0]) == (255, 0, 0)
    assert (shown(dataset(np.full((4, 4), 7, dtype=np.int16))) <= 255).all()  # a single value causes no division by zero


def test_an_image_whose_low_values_are_white_is_inverted():
    plain = shown(dataset(RAMP, WindowCenter=100, WindowWidth=100))
    for told in ({"PhotometricInterpretation": "MONOCHROME1"}, {"PresentationLUTShape": "INVERSE"}):
        assert (plain + shown(dataset(RAMP, WindowCenter=100, WindowWidth=100, **told)) == 255).all()


def test_a_lut_of_the_file_goes_before_windows():
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 8], b"".join(bytes([255 - n, 0]) for n in range(256))
    table["LUTDescriptor"].VR = "US"
    table["LUTData"].VR = "OW"
    picture = shown(dataset(np.array([[0, 100, 255]], dtype=np.uint8), VOILUTSequence=Sequence([table]), WindowCenter=1, WindowWidth=1))
    assert picture[0].tolist() == [255, 155, 0]


def test_colours_stay_colours():
    colour = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)
    assert shown(dataset(colour)).tolist() == colour.tolist()
    for name, size in {
        "examples_palette.dcm": (350, 800),
        "SC_ybr_full_422_uncompressed.dcm": (100, 100),
        "SC_rgb_rle_16bit.dcm": (100, 100),
    }.items():
        picture = shown(bundled(name), size=1024)
        assert picture.shape == (*size, 3)
        assert len(np.unique(picture)) > 2


@pytest.mark.parametrize(
    "name",
    [
        "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_jls_lossy_line.dcm", "SC_rgb_gdcm_KY.dcm", "SC_rgb_rle.dcm",
        "JPEG2000.dcm", "examples_ybr_color.dcm", "MR_small_RLE.dcm", "image_dfl.dcm", "ExplVR_BigEnd.dcm",
    ],
)  # fmt: skip
def test_compressed_and_odd_transfer_syntaxes_are_decoded(name: str):
    assert shown(bundled(name), size=256).std() > 1


def test_32_bit_and_float_pixels_are_rendered():
    assert shown(bundled("rtdose.dcm"), frame=3).std() > 1
    values = np.array([[0, 1 << 30, (1 << 31) - 1]], dtype=np.int32)
    assert shown(dataset(values))[0].tolist() == [0, 127, 255]


def test_it_fits_and_is_never_enlarged_and_pixels_are_as_high_as_they_were():
    tall = np.zeros((600, 300), dtype=np.uint8)
    assert shown(dataset(tall), size=128).shape == (128, 64)
    assert shown(dataset(tall), size=1024).shape == (600, 300)
    assert shown(dataset(np.zeros((100, 100), dtype=np.uint8), PixelSpacing=[2, 1]), size=128).shape == (128, 64)
    assert shown(dataset(np.zeros((100, 100), dtype=np.uint8), PixelSpacing=[1e9, 1]), size=128).shape == (100, 100)


def test_each_frame_of_an_enhanced_image_has_its_own_values():
    frames = np.stack([RAMP, RAMP])
    file = dataset(frames[0], NumberOfFrames=2)
    file.seek(0)
    made = pydicom.dcmread(file)
    made.PixelData = frames.tobytes()
    groups = []
    for slope in (1, 2):
        item, values, window = Dataset(), Dataset(), Dataset()
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = slope, 0, "HU"
        window.WindowCenter, window.WindowWidth = 200, 401
        item.PixelValueTransformationSequence, item.FrameVOILUTSequence = Sequence([values]), Sequence([window])
        groups.append(item)
    made.PerFrameFunctionalGroupsSequence = Sequence(groups)
    buffer = io.BytesIO()
    made.save_as(buffer)
    assert shown(buffer, frame=0)[0].tolist() == [0, 32, 64, 96, 128, 192]
    assert shown(buffer, frame=1)[0].tolist() == [0, 64, 128, 192, 255, 255]


@pytest.mark.parametrize(
    ("name", "code"), [("JPEG-lossy.dcm", "syntax-unsupported"), ("rtplan.dcm", "no-pixels"), ("test-SR.dcm", "no-pixels")]
)
def test_a_file_that_cannot_be_shown_has_a_reason_code(name: str, code: str):
    with pytest.raises(Unavailable) as caught:
        render.picture(bundled(name), RenderRequest("picture"))
    assert caught.value.code == code


def test_a_window_has_its_name_and_a_nonsensical_window_left_out():
    about = render.about(
        dataset(
            RAMP, WindowCenter=[1, 2, 3], WindowWidth=[10, 0, 30], WindowCenterWidthExplanation=["<b>" * 21, "", "LUNG"], Modality="MR"
        ),
        RenderRequest("about"),
    )
    assert [(w["name"], w["center"], w["width"]) for w in about["windows"]] == [("<b>" * 21, 1, 10), ("LUNG", 3, 30)]


def test_a_table_of_a_header_is_bounded():
    inner = Dataset()
    inner.PatientComments = "x" * 5000
    inner.add_new(0x00091010, "OB", bytes(70_000))
    file = dataset(RAMP, RequestAttributesSequence=Sequence([inner]), ImageType=["A"] * 100)
    rows = {row["tag"]: row for row in header_table.table(file)["rows"]}
    assert rows["(0040,0275)"]["value"] == "1 items"
    assert (rows["(0010,4000)"]["depth"], len(rows["(0010,4000)"]["value"])) == (
        2,
        header_table.MAX_CHARACTERS + len(" … (5,000 characters)"),
    )
    assert rows["(0009,1010)"]["value"] == "70,000 bytes"
    assert rows["(0008,0008)"]["value"].endswith("(100 values)")
    assert "(7FE0,0010)" not in rows


def test_a_broken_element_costs_only_itself():
    rows = header_table.table(bundled("badVR.dcm"))["rows"]
    assert len(rows) > 20
    many = dataset(RAMP, RequestAttributesSequence=Sequence([Dataset() for _ in range(header_table.MAX_ROWS)]))
    told = header_table.table(many)
    assert (len(told["rows"]), told["cut"]) == (header_table.MAX_ROWS, True)


def test_cached_results_are_found_and_incomplete_ones_are_not(tmp_path: Path):
    cache, key = Cache(tmp_path / "cache", 10_000), key_of("a" * 64, "picture", 0, 128, None)
    assert cache.get(key) is None
    cache.put(key, Rendered("png", b"\x89PNG"))
    assert cache.get(key) == Rendered("png", b"\x89PNG")
    (file,) = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    file.write_bytes(file.read_bytes()[:-1])
    assert cache.get(key) is None
    file.unlink()
    file.symlink_to("/etc/hostname")
    assert cache.get(key) is None


def test_the_least_recently_used_is_removed_when_space_runs_out(tmp_path: Path):
    folder = tmp_path / "cache"
    cache = Cache(folder, 10_000)
    keys = [key_of("a" * 64, number) for number in range(20)]
    for age, key in enumerate(keys[:9]):
        cache.put(key, Rendered("jpeg", bytes(1000)))
        os.utime(folder / key[:2] / key[2:], (1e9 + age, 1e9 + age))
    assert cache.get(keys[0]) is not None  # this counts as its last use
    cache.put(keys[9], Rendered("jpeg", bytes(1000)))
    assert [key for key in keys[:10] if cache.get(key) is None] == keys[1:3]
    for key in keys[10:]:
        cache.put(key, Rendered("jpeg", bytes(1000)))
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 10_000


def test_a_disabled_or_unwritable_cache_does_no_harm(tmp_path: Path):
    for cache in (Cache(tmp_path / "none", 0), Cache(Path("/dev/null/x"), 1000)):
        cache.put("a" * 64, Rendered("png", b"x"))
        assert cache.get("a" * 64) is None
    assert not (tmp_path / "none").exists()


def test_every_compressed_syntax_has_its_decoder_and_gdcm_only_where_nothing_else_decodes():
    known = {}
    for uid in filter(lambda uid: uid.is_encapsulated, AllTransferSyntaxes):
        with contextlib.suppress(NotImplementedError):
            known[uid] = get_decoder(uid)
    assert render.DECODERS.keys() == {uid for uid, decoder in known.items() if decoder.is_available}
    for uid, chosen in render.DECODERS.items():
        available = set(known[UID(uid)].available_plugins)
        assert chosen in available, uid
        assert (chosen == "gdcm") == (available == {"gdcm"}), uid


def test_the_chosen_decoder_is_the_one_that_decodes(monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(render, "pixel_array", lambda *_, **options: asked.append(options.get("decoding_plugin")) or np.zeros((1, 1)))
    for name in ("JPEG2000.dcm", "SC_jpeg_no_color_transform.dcm", "MR_small_RLE.dcm", "SC_rgb_jpeg_gdcm.dcm", "CT_small.dcm"):
        with contextlib.suppress(Unavailable):
            render.about(bundled(name), RenderRequest("about"))
    assert asked == ["pylibjpeg", "pillow", "pydicom", "gdcm", ""]


def test_a_viewport_fits_the_image_or_its_source_and_may_flip_it():
    values = np.array([[0, 0, 255, 255], [0, 0, 255, 255], [100, 100, 200, 200], [100, 100, 200, 200]], dtype=np.uint8)
    window = {"window": (127.5, 255.0), "function": "linear-exact", "media": "png"}
    whole = shown(dataset(values), viewport=(2, 2), **window)
    assert whole.tolist() == [[0, 255], [100, 200]]
    assert shown(dataset(values), viewport=(2, 2, 0, 0, -4, 4), **window).tolist() == [[255, 0], [200, 100]]
    assert shown(dataset(values), viewport=(2, 2, None, None, None, -4), **window).tolist() == [[100, 200], [0, 255]]
    assert shown(dataset(values), viewport=(2, 2, 2, 2, 2, 2), **window).tolist() == [[200, 200], [200, 200]]
    assert shown(dataset(values), viewport=(40, 20), **window).shape == (20, 20)
    with pytest.raises(Unavailable, match="no-such-region"):
        shown(dataset(values), viewport=(2, 2, 4, 0, 2, 2), **window)


@pytest.mark.parametrize(
    ("function", "expected"), [("linear", [0, 0, 129, 255]), ("linear-exact", [0, 0, 128, 255]), ("sigmoid", [5, 30, 128, 225])]
)
def test_a_window_may_come_with_its_function(function: str, expected: list[int]):
    file = dataset(RAMP[:, :4], VOILUTFunction="SIGMOID")
    assert shown(file, window=(100.0, 100.0), function=function)[0].tolist() == expected


def test_format_and_quality_may_be_chosen():
    noise = np.random.default_rng(1).integers(0, 255, (64, 64), dtype=np.uint8)
    made = {media: render.picture(dataset(noise), RenderRequest("picture", media=media, quality=50)) for media in ("jpeg", "png", "gif")}
    assert {kind: Image.open(io.BytesIO(one.data)).format for kind, one in made.items()} == {"jpeg": "JPEG", "png": "PNG", "gif": "GIF"}
    assert [one.kind for one in made.values()] == ["jpeg", "png", "gif"]
    worst = render.picture(dataset(noise), RenderRequest("picture", media="jpeg", quality=5))
    assert len(worst.data) < len(made["jpeg"].data)


def test_a_request_survives_the_way_to_a_worker():
    for request in (
        RenderRequest("picture", window=(1.0, 2.0), viewport=(10, 10, None, 0, -5, 5), media="gif", quality=1, function="sigmoid"),
        RenderRequest("bulk", path="54000100/1/54001010"),
        RenderRequest("frame", frame=3, stored=True),
    ):
        assert RenderRequest.from_json(request.to_json()) == request
