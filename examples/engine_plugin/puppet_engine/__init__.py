"""A lip-sync engine that moves the chin as that of a ventriloquist's dummy."""
