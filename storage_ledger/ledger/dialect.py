"""The SQL that the engines of the ledger do not share word for word."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Dialect:
    """How one engine writes some expressions.

    payload_text: the text of a top-level member of `payload`, with `{}` for its name; exactly the expression of the index on it.
    payload_of: the same for the table `e`, without an index.
    no_index: written before a column, it keeps the engine from using an index on it.
    positions_in, texts_in: the values of a JSON array, as rows.
    of_share: condition: the study of the table `e` belongs to share `?` of `?`, as `share.belongs` says.
    """

    payload_text: str
    payload_of: str
    no_index: str
    positions_in: str
    texts_in: str
    of_share: str

    @cached_property
    def upload_path(self) -> str:
        """The upload of an entry."""
        return self.payload_text.format("upload_path")

    @cached_property
    def naming_study(self) -> str:
        """Condition: entries without study_id whose payload names this study."""
        return f"study_id IS NULL AND {self.payload_text.format('study_id')} = ?"

    @cached_property
    def last_and_waiting(self) -> str:
        """For one upload: the last position that names it, and the number of work items to place or remove it."""
        return (
            "SELECT max(e.position), count(p.position) FROM entries e "  # noqa: S608 - constants
            f"LEFT JOIN pending p ON p.position = e.position AND p.stage IN ('place', 'remove') WHERE {self.upload_path} = ?"
        )

    @cached_property
    def to_place(self) -> str:
        """The entries of a study and upload that are to be placed: positions and digests of their messages."""
        # Without an index on studies the one on uploads is used: a study may have thousands of entries.
        return (
            f"SELECT e.position, {self.payload_of.format('raw_sha256')} FROM entries e "  # noqa: S608 - constants
            "JOIN pending p ON p.position = e.position AND p.stage = 'place' "
            f"WHERE {self.no_index}e.study_id = ? AND {self.upload_path} = ? ORDER BY e.position"
        )

    @cached_property
    def answered(self) -> str:
        """The same for those between two positions that are not to be placed any more."""
        plus = self.no_index
        return (
            f"SELECT e.position, {self.payload_of.format('raw_sha256')} FROM entries e "  # noqa: S608 - constants
            f"WHERE {plus}e.study_id = ? AND {plus}e.kind = 'described' AND {self.upload_path} = ? "
            f"AND {plus}e.position > ? AND {plus}e.position < ? "
            "AND NOT EXISTS (SELECT 1 FROM pending p WHERE p.position = e.position AND p.stage = 'place')"
        )


SQLITE = Dialect(
    payload_text="CASE WHEN json_valid(payload) THEN json_extract(payload, '$.{}') END",
    payload_of="json_extract(e.payload, '$.{}')",
    no_index="+",
    positions_in="SELECT value FROM json_each(?)",
    texts_in="SELECT value FROM json_each(?)",
    of_share="belongs_to_share(CAST(e.study_id AS BLOB), ?, ?)",
)
POSTGRES = Dialect(
    payload_text="payload_text(payload, '{}')",
    payload_of="payload_text(e.payload, '{}')",
    no_index="",
    positions_in="SELECT value::bigint FROM json_array_elements_text(?::json)",
    texts_in="SELECT value FROM json_array_elements_text(?::json)",
    of_share="? = CASE WHEN e.study_id IS NULL THEN 0 ELSE "
    "('x' || encode(substr(sha256(convert_to(e.study_id, 'UTF8')), 1, 4), 'hex'))::bit(32)::bigint % ? END",
)
