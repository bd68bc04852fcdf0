"""Takes checkpoints to places outside: witnesses, a time-stamping authority, a program (docs/how-to/keep-heads-elsewhere.md)."""
