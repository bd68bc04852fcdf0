"""What commands and pages say of the service's work: facts from the ledger, put together for a person."""
