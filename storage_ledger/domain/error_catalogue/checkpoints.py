"""Why no checkpoint is signed, or no proof is made."""

# ruff: noqa: E501 - a sentence is one line

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import BY, REASON, Explanation, Section

_KEY = "Mount its volume, or put the right file in place (CHECKPOINT_KEY_FILE, or `checkpoint.key` in LEDGER_PATH). If it is lost, [record a new key](../how-to/checkpoint-key.md#the-key-is-lost)."
LOST = f"storage-ledger checkpoint rotate-key --lost --by '{BY}' --reason '{REASON}'"

FORKED = Explanation(
    "checkpoint-forked",
    means="The ledger does not continue its last checkpoint, or two checkpoints state different roots for the same number of entries. The ledger is an old copy, entries were changed or removed, or somebody signed two histories.",
    action="Change nothing, and find out [what happened](../how-to/ledger-forked.md): compare the ledger with every checkpoint that you have (`storage-ledger verify --checkpoint FILE`). If entries are lost for good, acknowledge it.",
    commands=(f"storage-ledger acknowledge checkpoint-forked --by '{BY}' --reason '{REASON}'",),
)

CHECKPOINTS = Section(
    "Checkpoints",
    intro="Errors of `storage-ledger checkpoint` and `storage-ledger prove`, and reasons in `/readyz` why `serve` signs no [checkpoint](../explanation/what-a-proof-shows.md).",
    meanwhile="Nothing is signed or proved; archiving continues.",
    explanations=(
        FORKED,
        Explanation(
            "checkpoint-key-missing",
            means="The private key is missing, although the ledger records one.",
            action=_KEY,
            commands=(LOST,),
        ),
        Explanation(
            "checkpoint-key-wrong",
            means="The private key is not the one that the ledger records.",
            action=_KEY,
            commands=(LOST,),
        ),
        Explanation(
            "checkpoint-key-unreadable",
            means="The private key cannot be read, or is not an Ed25519 key in PEM form.",
            action="Check its owner and mode (the service's user, 0400), or restore the file.",
        ),
        Explanation(
            "checkpoint-key-not-lost",
            means="`rotate-key --lost` was refused: the private key is the one that the ledger records.",
            action="Leave out `--lost`; if the key may have been stolen, use `--at-once` instead.",
        ),
        Explanation(
            "checkpoint-key-not-made",
            means="The private key cannot be created or replaced.",
            action="Do what the text says: make its folder writable for the service's user, free space there, or move away a folder that has the key's name.",
        ),
        Explanation(
            "checkpoint-name-taken",
            means="A file already has the name of the next checkpoint, and is damaged or of another ledger.",
            action="Move it elsewhere, and find out who wrote it. A checkpoint of more entries has another name, and is signed.",
        ),
        Explanation(
            "checkpoint-none",
            means="No checkpoint has been signed yet.",
            action="Sign one.",
            commands=("storage-ledger checkpoint",),
        ),
        Explanation(
            "checkpoint-too-old",
            means="The entries are newer than the last checkpoint, so nothing signed covers them yet.",
            action="Sign a new one, or wait for the next (CHECKPOINT_SECONDS).",
            commands=("storage-ledger checkpoint",),
        ),
        Explanation(
            "proof-file",
            means="The file given to `prove --file` cannot be read.",
            action="Check its path and mode.",
        ),
        Explanation(
            "proof-too-large",
            means="The bundle of proofs is too large for the web page.",
            action="Run the command where the service runs.",
            commands=("storage-ledger prove --dicom-study UID --output DIR",),
        ),
        Explanation(
            "proof-output",
            means="A proof cannot be written where you asked for it.",
            action="Name a new folder or `.zip` in a folder that you may write to, outside the service's own folders.",
        ),
    ),
)
