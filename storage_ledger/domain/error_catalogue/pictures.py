"""Why the web page has no picture, header or file."""

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import Explanation, Section

PICTURES = Section(
    "Pictures and downloads",
    where="a picture or download of the web page",
    intro="Why the web page has no picture, header or file: in `X-Picture-Why`, in `why`, in the log as `browse.no-picture code=…`.",
    explanations=(
        Explanation(
            "no-pixels",
            means="The file has no pixels: a report, a plan, a waveform, a DICOMDIR.",
            action="Do nothing.",
        ),
        Explanation(
            "not-dicom",
            means="It is not a DICOM file. It is archived all the same.",
            action="Find out who sent it.",
        ),
        Explanation(
            "header-unreadable",
            means="The file's header is damaged, or made to be unreadable (sequences nested without end).",
            action="Look at the file with another program.",
        ),
        Explanation(
            "no-such-frame",
            means="The file has fewer frames than the address asks for.",
            action="Ask for another frame.",
        ),
        Explanation(
            "syntax-unsupported",
            means="No decoder that the program may ship reads this transfer syntax: 12-bit lossy JPEG (JPEG Extended), video.",
            action="Download the file, and use a viewer that can.",
        ),
        Explanation(
            "pixels-unreadable",
            means="The pixels are cut off, or not as the header says.",
            action="Check whether the file is `intact`. If so, it arrived like this: ask the sender.",
        ),
        Explanation(
            "picture-too-large",
            means="The picture would take more memory than a worker may have. Also a deflated file that grows without end.",
            action="Download the file.",
        ),
        Explanation(
            "picture-too-slow",
            means="The picture takes longer than 10 seconds to make.",
            meanwhile="The worker was ended. For ten minutes the same request is answered like this at once.",
            action="Download the file.",
        ),
        Explanation(
            "picture-crashed",
            means="The decoder crashed its process, or the process could not be started. Nothing else is affected.",
            action="If it is one file, report it. If it is all of them, check the memory of the container.",
        ),
        Explanation(
            "pictures-busy",
            means="More than 256 pictures are waited for, or `browse` is ending.",
            action="Try again.",
        ),
        Explanation(
            "archive-missing",
            means="ARCHIVE_PATH cannot be opened by `browse`.",
            action="Mount it for `browse`, too.",
        ),
        Explanation(
            "file-missing",
            means="The archive has no such file, though the ledger knows it.",
            action="Run `storage-ledger show` for the study; [restore the file](../how-to/files-damaged-or-deleted.md) from a backup.",
        ),
        Explanation(
            "file-changed",
            means="The file has another length or other bytes than the ledger says, or is not a regular file; links are not followed.",
            action="Run `storage-ledger show` for the study; [restore the file](../how-to/files-damaged-or-deleted.md) from a backup.",
        ),
        Explanation(
            "file-unreadable",
            means="The file cannot be read: missing rights, or the disk. Or metadata.json is larger than 16 MB.",
            action="Check owner and mode, and the kernel log.",
        ),
    ),
)
