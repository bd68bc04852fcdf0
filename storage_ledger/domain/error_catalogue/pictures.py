"""Why the web page cannot show an image, header or file."""

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import Explanation, Section
from storage_ledger.domain.error_catalogue.flags_and_headers import HEADER_UNREADABLE, NOT_DICOM
from storage_ledger.domain.error_catalogue.verify import FILE_CHANGED, FILE_MISSING

PICTURES = Section(
    "Images and downloads",
    intro="Why the web page shows no image, header or file: `X-Picture-Why`, `why`, `browse.no-picture` in the log.",
    explanations=(
        Explanation(
            "no-pixels",
            means="The file has no pixels: a report, plan, waveform or DICOMDIR.",
            action="Do nothing.",
        ),
        NOT_DICOM,
        HEADER_UNREADABLE,
        Explanation(
            "no-such-frame",
            means="The file has fewer frames.",
            action="Request another frame.",
        ),
        Explanation(
            "no-such-element",
            means="The file has no value at this address of bulk data.",
            action="Take the address from the metadata of the same instance.",
        ),
        Explanation(
            "no-such-region",
            means="The source region of the viewport is outside the image.",
            action="Request a region within its rows and columns.",
        ),
        Explanation(
            "syntax-unsupported",
            means="The program has no decoder for this transfer syntax: 12-bit lossy JPEG (JPEG Extended) or video.",
            action="Download the file, and use a viewer that supports it.",
        ),
        Explanation(
            "pixels-unreadable",
            means="The pixels are truncated, or do not match the header.",
            action="If the file is `intact`, it arrived like this: ask the sender.",
        ),
        Explanation(
            "picture-too-large",
            means="The image, or a deflated file, needs more memory than a worker may use.",
            action="Download the file.",
        ),
        Explanation(
            "picture-too-slow",
            means="Rendering the image takes longer than 10 seconds.",
            meanwhile="The same request gets this answer for ten minutes.",
            action="Download the file.",
        ),
        Explanation(
            "picture-crashed",
            means="The decoder's process crashed or could not start.",
            action="If only one file is affected, report it; if all are, check the container's memory.",
        ),
        Explanation(
            "pictures-busy",
            means="More than 256 images are queued, or `browse` is stopping.",
            action="Try again.",
        ),
        Explanation(
            "archive-missing",
            means="`browse` cannot open ARCHIVE_PATH.",
            action="Mount it for `browse` too.",
        ),
        FILE_MISSING,
        FILE_CHANGED,
        Explanation(
            "file-unreadable",
            means="The file cannot be read, or metadata.json is larger than 16 MB.",
            action="Check owner and mode, and the kernel log.",
        ),
    ),
)
