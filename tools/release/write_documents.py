"""Write the tables of the documents from the code: `python -m tools.release.write_documents`."""

from __future__ import annotations

from tests.fakes.documents import DOCUMENTS, PROJECT, filled


def main() -> None:
    """Write every table in its place."""
    for path, (name, table) in DOCUMENTS.items():
        document = PROJECT / path
        document.write_text(filled(document.read_text(encoding="utf-8"), name, table()), encoding="utf-8")


if __name__ == "__main__":
    main()
