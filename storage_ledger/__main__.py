"""`python -m storage_ledger`."""

from storage_ledger.cli import main

if __name__ == "__main__":
    main()
