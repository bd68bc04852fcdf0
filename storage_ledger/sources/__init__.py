"""Where `described` messages come from: the contract and one module a source."""
